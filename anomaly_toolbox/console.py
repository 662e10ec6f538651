"""Where lines are shown. Only the standard library is imported before there is something to show."""

import contextlib
import os
import sys
from typing import Any


def open_streams() -> None:
    """Makes the standard streams usable wherever the process was started.

    A stream that was closed, as by `2>&-` or a daemon, leads nowhere; and what a terminal cannot show, such as a letter
    of a file's name, is shown as an escape sequence instead of ending the command.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is mostly the right one
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115  (kept to the end)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # something else took its place, as in notebooks
            stream.reconfigure(errors="backslashreplace")


def plain_console(**options: Any):
    """A rich Console that prints what it is given, without markup or colours of its own."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, **options)
