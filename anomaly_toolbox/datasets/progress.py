"""The progress of work on files, such as decoding or extracting them, shown in a terminal."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import rich.progress

from anomaly_toolbox.console import plain_console

#: Yields the given results and shows progress meanwhile. Arguments: results, description, their number.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def show_progress(results: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """Yields results, with a progress bar on standard error if that is a terminal.

    Args:
        results: the values to yield.
        description: the text next to the bar.
        total: the number of results.
    """
    console = plain_console(stderr=True)
    is_hidden = not console.is_terminal
    return rich.progress.track(results, description, total, console=console, transient=True, disable=is_hidden)


def open_with_progress(path: Path, description: str) -> AbstractContextManager[BinaryIO]:
    """Opens a file to read its bytes, with a progress bar on standard error if that is a terminal."""
    console = plain_console(stderr=True)
    is_hidden = not console.is_terminal
    return rich.progress.open(path, "rb", description=description, console=console, transient=True, disable=is_hidden)
