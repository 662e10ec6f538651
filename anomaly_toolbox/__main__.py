"""Runs the command `anomaly-box` as `python -m anomaly_toolbox`."""

from anomaly_toolbox.cli import main

main(prog_name="anomaly-box")
