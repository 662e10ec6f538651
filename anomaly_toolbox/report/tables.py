"""The tables that a command ends with, for the terminal."""

import functools
import itertools
import os
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.comparison import Finished, Row

WIDEST = 10_000  # columns
FIGURES = ("AUPRC", "95% interval", "prevalence", "AUROC", "train/s", "score/s")  # those that matter most come first
LONGEST_WORD = len("prevalence")
MOST_RUNS_LISTED = 12


def show(console: Console, finished: Sequence[Finished], failures: Sequence[tuple[str, str]]) -> None:
    """The figures of all finished trials, then what failed: pairs of a trial and the reason."""
    for run in finished:
        if not run.is_measured:
            line = f"{run.method}: there are no anomalous test images, so nothing is measured. The run's folder has "
            line += "scores and a threshold, the highest score of a normal validation image."
            console.print(line)
    for dataset, runs in comparison.datasets_of(run for run in finished if run.is_measured).items():
        rows = comparison.compare(runs)
        labels = comparison.labels_of(runs)
        if len(labels) > 1 or any(row.choice for row in rows):
            title, columns = f"AUPRC on the test images of {dataset}", [*labels, "mean"]
            for part in _parts(console, columns, functools.partial(_matrix, title, rows)):
                _print(console, _matrix(title, rows, part))
            console.print("prevalence: the AUPRC of a guess.")
            _say_what_was_chosen(console, runs, rows)
        else:
            shown, *hidden = _parts(console, FIGURES, functools.partial(_figures, rows))
            _print(console, _figures(rows, shown))
            legend = "prevalence: the AUPRC of a guess. train/s, score/s: images per second."
            if hidden:
                legend = f"A wider terminal also shows {', '.join(itertools.chain.from_iterable(hidden))}."
            console.print(legend)
            _say_where(console, runs)
        for line in comparison.remarks(rows):
            console.print(line, style="yellow")
        _show_every_score(console, runs, len(labels))
    if failures:
        table = Table(title="failed", title_justify="left", title_style="bold red", box=None, pad_edge=False)
        table.add_column("trial", overflow="fold")
        table.add_column("reason", overflow="fold")
        for trial, reason in failures:
            table.add_row(trial, reason)
        console.print()
        console.print(table, soft_wrap=False)
    folders = [run.folder for run in finished if run.folder is not None]
    for folder in folders if len(folders) <= MOST_RUNS_LISTED else []:
        console.print(f"run: {folder}")


def _figures(rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = _table("on the test images", names, has_label=True)
    for row in rows:
        for label, cell in row.cells.items():
            results = cell.runs[0].results
            speeds = [results[f"{work}_images_per_second"] for work in ("train", "score")]
            train_speed, score_speed = ("-" if speed is None else f"{speed:,.0f}" for speed in speeds)
            values = {
                "AUPRC": f"{cell.auprc:.3f}",
                "95% interval": "{:.3f}-{:.3f}".format(*cell.interval),
                "prevalence": f"{cell.prevalence:.3f}",
                "AUROC": f"{cell.mean('test', 'auroc'):.3f}",
                "train/s": train_speed,
                "score/s": score_speed,
            }
            table.add_row(row.name, label, *(values[name] for name in names))
    return table


def _matrix(title: str, rows: Sequence[Row], columns: Sequence[str]) -> Table:
    """Some of the labels, and `mean`, which is over all of them."""
    labels = comparison.labels_of([run for row in rows for cell in row.cells.values() for run in cell.runs])
    table = _table(title, columns)
    for row in rows:
        figures = {label: f"{cell.auprc:.3f}" for label, cell in row.cells.items()}
        if len(row.cells) == len(labels):
            figures["mean"] = f"{row.mean_auprc:.3f}"
        table.add_row(row.name, *(figures.get(column, "-") for column in columns))
    prevalences = {label: cell.prevalence for row in rows for label, cell in row.cells.items()}
    prevalences["mean"] = sum(prevalences.values()) / len(prevalences)
    table.add_row("prevalence", *(f"{prevalences[column]:.3f}" for column in columns), style="dim")
    return table


def _say_what_was_chosen(console: Console, runs: Sequence[Finished], rows: Sequence[Row]) -> None:
    """By validation AUPRC, for each label and over labels."""
    for row in rows:
        names = comparison.settings_that_vary([run for run in runs if run.method == row.method])
        if row.choice == comparison.ONE_SETTING:
            cell = next(iter(row.cells.values()))
            console.print(f"{row.name}: {comparison.describe(cell, names)}")
        elif row.choice:
            chosen = [f"{label}: {comparison.describe(cell, names)}" for label, cell in row.cells.items()]
            console.print(f"{row.name}: {'; '.join(chosen)}")
    if any(row.choice for row in rows):
        console.print("Settings were chosen by validation AUPRC.")


def _say_where(console: Console, runs: Sequence[Finished]) -> None:
    """How well the anomaly maps show where the defects are, where that is known."""
    for run in runs:
        test = run.results["test"]
        if "pro" in test:
            console.print(
                f"where, by {run.method}'s anomaly maps: pixel AUROC {test['pixel_auroc']:.3f}, "
                f"pixel AUPRC {test['pixel_auprc']:.3f} (a guess {test['pixel_prevalence']:.3f}), "
                f"PRO {test['pro']:.3f} (a guess 0.150)",
            )


def _show_every_score(console: Console, runs: Sequence[Finished], n_labels: int) -> None:
    names = list(dict.fromkeys(name for run in runs for name in run.results["test"]["scores"]))
    if len(names) <= 2:
        return
    title = "AUPRC of every score" + (", mean over labels" if n_labels > 1 else "")
    figures: dict[str, dict[str, str]] = {}
    for name in names:
        for row in comparison.compare(runs, name):
            figures.setdefault(f"{row.method}, {row.choice}".rstrip(", "), {})[name] = f"{row.mean_auprc:.3f}"

    def some_scores(some: Sequence[str]) -> Table:
        table = _table(title, [name.replace("_", "\n") for name in some])
        for method, of_score in sorted(figures.items()):
            table.add_row(method, *(of_score.get(name, "-") for name in some))
        return table

    for part in _parts(console, names, some_scores):
        _print(console, some_scores(part))
    console.print(
        "The score that decides is chosen before, by --set score=...; the best of these is no fair figure.",
    )


def _table(title: str, figures: Sequence[str], has_label: bool = False) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method", min_width=LONGEST_WORD)
    if has_label:
        table.add_column("anomaly")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _parts(console: Console, columns: Sequence[str], table_of: Callable[[Sequence[str]], Table]) -> list[list[str]]:
    """The columns of a table, in as many parts as are needed for each to fit the terminal; a file takes any width."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return [list(columns)]
    parts: list[list[str]] = []
    for column in columns:
        if parts and _width(console, table_of([*parts[-1], column])) <= console.width:
            parts[-1].append(column)
        else:
            parts.append([column])
    return parts


def _width(console: Console, table: Table) -> int:
    """Columns of a terminal that a table needs."""
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum


def _print(console: Console, table: Table) -> None:
    """Prints a table whole, whatever the console takes to be the width of its lines."""
    console.print()
    width = console.width
    console.width = max(width, _width(console, table))
    console.print(table, crop=False, soft_wrap=False)
    console.width = width
