"""What the user sees in a terminal or a log file: consoles and progress bars."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30


def plain_console(**options: Any) -> Console:
    """A rich Console that prints text unchanged: without markup, highlighting or added line breaks.

    Args:
        options: passed to `rich.console.Console`, such as `stderr=True` or `file`.
    """
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True, **options)


class ProgressBar(Progress):
    """A progress bar in a terminal; elsewhere, such as in a log file, a line every 30 seconds."""

    def __init__(self, console: Console):
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._last_line_at = 0.0

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        """Adds a task; see `rich.progress.Progress.add_task`."""
        self._last_line_at = time.monotonic()
        return super().add_task(*arguments, **options)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advances a task; see `rich.progress.Progress.advance`."""
        super().advance(task_id, advance)
        if self.disable and time.monotonic() - self._last_line_at > SECONDS_BETWEEN_LINES:
            task = next(task for task in self.tasks if task.id == task_id)
            of_total = f" of {task.total:,.0f}" if task.total else ""
            self.console.print(f"{task.description}: {task.completed:,.0f}{of_total}")
            self._last_line_at = time.monotonic()
