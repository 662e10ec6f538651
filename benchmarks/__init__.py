"""Benchmarks of speed and quality, run by hand. They compare within one run, because machines differ in speed."""
