"""Throughput and quality, run by hand: ratios within one run, since absolute times differ between machines."""
