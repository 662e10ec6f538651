"""The tables that `anomaly-box` prints when all trials are done."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from anomaly_toolbox.report.comparison import Comparison, compare, compare_datasets
from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import ComparedRun, Row

WIDEST = 10_000  # terminal columns
METRICS = ("AUPRC", "95% interval", "prevalence", "AUROC", "train/s", "score/s")  # the most important ones come first
PREVALENCE = "prevalence: the chance level of AUPRC."
SPEEDS = "train/s, score/s: images per second."
SELECTED_SCORE = (
    "--set score=... selects a score before training. Do not pick one by this table: its numbers come from test images."
)
PRO_CHANCE_LEVEL = 0.15
MOST_RUNS_LISTED = 12


@dataclass(frozen=True)
class TextTable:
    """A table as text, of which some columns can be printed.

    Attributes:
        title: printed above the table.
        row_headings: the headings of the columns that name a row; these columns are always printed.
        headings: the headings of the other columns.
        lines: the texts of all columns for each line.
        is_last_dim: whether the last line is printed dimmed.
    """

    title: str
    row_headings: Sequence[str]
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    is_last_dim: bool = False

    def select(self, columns: Sequence[int]) -> Table:
        """The table with the columns that name a row and these of the others."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for number, heading in enumerate(self.row_headings):
            table.add_column(heading, min_width=len("prevalence") if number == 0 else None)
        for column in columns:
            table.add_column(self.headings[column], justify="right", no_wrap=True)
        for number, line in enumerate(self.lines, 1):
            names, values = line[: len(self.row_headings)], line[len(self.row_headings) :]
            style = "dim" if self.is_last_dim and number == len(self.lines) else None
            table.add_row(*names, *(values[column] for column in columns), style=style)
        return table


def show(console: Console, runs: Sequence[ComparedRun], failures: Sequence[tuple[str, str]]) -> None:
    """Prints the metrics of all finished runs, remarks on them, and the failures.

    Args:
        console: from `plain_console`.
        runs: finished runs on any datasets.
        failures: pairs of the name of a trial and the reason why it failed.
    """
    for run in runs:
        if not run.is_measured:
            console.print(
                f"{run.method}: there are no anomalous test images, so nothing is measured. The run folder contains "
                "the scores and a threshold, which is the highest score of a normal validation image."
            )
    for comparison in compare_datasets(run for run in runs if run.is_measured):
        _show_comparison(console, comparison)
    if failures:
        _show_failures(console, failures)
    folders = [run.folder for run in runs if run.folder is not None]
    if len(folders) <= MOST_RUNS_LISTED:
        for folder in folders:
            console.print(f"run: {folder}")


def _show_comparison(console: Console, comparison: Comparison) -> None:
    rows = comparison.rows
    if len(comparison.labels) > 1 or any(row.choice for row in rows):
        _print_in_parts(console, _matrix_table(comparison))
        console.print(PREVALENCE)
        for line in comparison.chosen_settings:
            console.print(line)
        if comparison.chosen_settings:
            console.print("Settings were chosen by validation AUPRC.")
    else:
        _print_metrics(console, rows)
        _print_pixel_metrics(console, comparison.runs)
    for line in remarks(rows):
        console.print(line, style="yellow")
    score_names = list(dict.fromkeys(name for run in comparison.runs for name in run.results["test"]["scores"]))
    if len(score_names) > 2:
        _print_in_parts(console, _score_table(comparison, score_names))
        if comparison.chosen_settings:
            console.print("In this table, each score has the settings with its own highest validation AUPRC.")
        console.print(SELECTED_SCORE)


def _show_failures(console: Console, failures: Sequence[tuple[str, str]]) -> None:
    table = Table(title="failed", title_justify="left", title_style="bold red", box=None, pad_edge=False)
    table.add_column("trial", overflow="fold")
    table.add_column("reason", overflow="fold")
    for trial, reason in failures:
        table.add_row(trial, reason)
    console.print()
    console.print(table, soft_wrap=False)


def _matrix_table(comparison: Comparison) -> TextTable:
    """AUPRC by method and label."""
    matrix = Matrix.build(comparison.rows, comparison.labels)
    lines = []
    for row, values, mean in zip(matrix.rows, matrix.values, matrix.means, strict=True):
        lines.append([row.name, *(_three_decimals(value) for value in [*values, mean])])
    prevalences = [*matrix.prevalences, matrix.mean_prevalence]
    lines.append(["prevalence", *(_three_decimals(value) for value in prevalences)])
    title = f"AUPRC on the test images of {comparison.dataset}"
    return TextTable(title, ["method"], [*matrix.labels, "mean"], lines, is_last_dim=True)


def _score_table(comparison: Comparison, score_names: Sequence[str]) -> TextTable:
    """AUPRC by method and score."""
    auprc: dict[str, dict[str, str]] = defaultdict(dict)  # by the name of a line, then by score
    for score in score_names:
        for row in compare(comparison.runs, score):
            line_name = f"{row.method}, {row.choice}" if row.choice else row.method
            auprc[line_name][score] = _three_decimals(row.mean_auprc)
    lines = []
    for line_name in sorted(auprc):
        lines.append([line_name, *(auprc[line_name].get(score, "-") for score in score_names)])
    title = "AUPRC of every score" + (", mean over labels" if len(comparison.labels) > 1 else "")
    return TextTable(title, ["method"], [name.replace("_", "\n") for name in score_names], lines)


def _print_metrics(console: Console, rows: Sequence[Row]) -> None:
    """Prints those metrics of every cell that fit the terminal, and the names of the others."""
    lines = []
    for row in rows:
        for label, cell in row.cells.items():
            low, high = cell.interval
            results = cell.runs[0].results
            lines.append(
                [
                    row.name,
                    label,
                    _three_decimals(cell.auprc),
                    f"{low:.3f}-{high:.3f}",
                    _three_decimals(cell.prevalence),
                    _three_decimals(cell.auroc),
                    _whole_number(results["train_images_per_second"]),
                    _whole_number(results["score_images_per_second"]),
                ]
            )
    table = TextTable("on the test images", ["method", "label"], METRICS, lines)
    shown_columns = _parts_that_fit(console, table)[0]
    _print(console, table.select(shown_columns))
    hidden = METRICS[len(shown_columns) :]
    console.print(f"A wider terminal also shows {', '.join(hidden)}." if hidden else f"{PREVALENCE} {SPEEDS}")


def _print_pixel_metrics(console: Console, runs: Sequence[ComparedRun]) -> None:
    """Prints how well anomaly maps show the defects, for datasets with masks."""
    for run in runs:
        test = run.results["test"]
        if "pro" in test:
            console.print(
                f"anomaly maps of {run.method}: pixel AUROC {test['pixel_auroc']:.3f}, "
                f"pixel AUPRC {test['pixel_auprc']:.3f} (chance level {test['pixel_prevalence']:.3f}), "
                f"PRO {test['pro']:.3f} (chance level {PRO_CHANCE_LEVEL:.3f})"
            )


def _print_in_parts(console: Console, table: TextTable) -> None:
    for columns in _parts_that_fit(console, table):
        _print(console, table.select(columns))


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


def _print(console: Console, table: Table) -> None:
    """Prints a table without cutting it, even if it is wider than the console."""
    console.print()
    width = console.width
    console.width = max(width, _width(console, table))
    console.print(table, crop=False, soft_wrap=False)
    console.width = width


def _width(console: Console, table: Table) -> int:
    """The number of terminal columns that a table needs."""
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum


def _three_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _whole_number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
