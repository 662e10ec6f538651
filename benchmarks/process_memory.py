"""The memory of this process, by the entries of /proc/self/status."""

from pathlib import Path

import click

NOW, PEAK = "VmRSS", "VmHWM"
PRIVATE = "RssAnon"  # now, without pages of files, which the system can take back


def memory(entry: str) -> int:
    """An entry in bytes; raises ClickException where the system has no such file or entry."""
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(f"{entry}:"):
            return 1024 * int(line.split()[1])
    raise click.ClickException(f"this benchmark reads {entry} in /proc/self/status, which only Linux has")
