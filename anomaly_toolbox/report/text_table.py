"""Tables for the terminal, printed in as many parts as its width needs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000  # terminal columns


@dataclass(frozen=True)
class TextTable:
    """A table as text, of which some columns can be printed.

    Attributes:
        title: printed above the table.
        row_headings: the headings of the columns that name a row; these columns are always printed.
        headings: the headings of the other columns.
        lines: the texts of all columns for each line.
        is_last_dim: whether the last line is printed dimmed.
        leaves_out_empty: whether a part leaves out the lines that have no value in it.
    """

    title: str
    row_headings: Sequence[str]
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    is_last_dim: bool = False
    leaves_out_empty: bool = False

    def select(self, columns: Sequence[int]) -> Table:
        """The table with the columns that name a row and these of the others."""
        table = Table(box=None, pad_edge=False)
        for number, heading in enumerate(self.row_headings):
            table.add_column(heading, min_width=len("prevalence") if number == 0 else None)
        for column in columns:
            table.add_column(self.headings[column], justify="right", no_wrap=True)
        for number, line in enumerate(self.lines, 1):
            names, values = line[: len(self.row_headings)], line[len(self.row_headings) :]
            style = "dim" if self.is_last_dim and number == len(self.lines) else None
            fields = [values[column] for column in columns]
            if not self.leaves_out_empty or any(field.strip("- ") for field in fields):
                table.add_row(*names, *fields, style=style)
        return table


def print_in_parts(console: Console, table: TextTable) -> None:
    """Prints all columns of a table, in as few parts as fit the terminal."""
    for columns in _parts_that_fit(console, table):
        _print(console, table.title, table.select(columns))


def print_what_fits(console: Console, table: TextTable) -> int:
    """Prints the first columns of a table, as many as fit the terminal, and returns their number."""
    columns = _parts_that_fit(console, table)[0]
    _print(console, table.title, table.select(columns))
    return len(columns)


def _parts_that_fit(console: Console, table: TextTable) -> list[list[int]]:
    """The columns of a table, in as few parts as fit the width of the terminal; a file gets all columns in one part."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return [list(range(len(table.headings)))]
    parts: list[list[int]] = []
    for column in range(len(table.headings)):
        if parts and _width(console, table.select([*parts[-1], column])) <= console.width:
            parts[-1].append(column)
        else:
            parts.append([column])
    return parts


def _print(console: Console, title: str, table: Table) -> None:
    """Prints a table without cutting it, even if it is wider than the console."""
    console.print()
    console.print(title, style="bold")
    width = console.width
    console.width = max(width, _width(console, table))
    console.print(table, crop=False, soft_wrap=False)
    console.width = width


def _width(console: Console, table: Table) -> int:
    """The number of terminal columns that a table needs."""
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
