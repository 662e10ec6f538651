"""The tables that a command ends with, for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from anomaly_toolbox import comparison
from anomaly_toolbox.comparison import Finished, Row

TABLE_WIDTH = 80  # a narrower terminal wraps lines, but no figure is cut off
LONGEST_WORD = len("prevalence")
MOST_RUNS_LISTED = 12


def show(console: Console, finished: Sequence[Finished], failures: Sequence[tuple[str, str]]) -> None:
    """The figures of all finished trials, then what failed: pairs of a trial and the reason."""
    for run in finished:
        if not run.is_measured:
            told = f"{run.method}: no anomalous test images, so no figures; scores, and the threshold that the highest "
            console.print(f"{told}score of a normal validation image sets, are in its folder", soft_wrap=True)
    for dataset, runs in comparison.datasets_of(run for run in finished if run.is_measured).items():
        rows = comparison.compare(runs)
        labels = comparison.labels_of(runs)
        if len(labels) > 1 or any(row.choice for row in rows):
            _print(console, _matrix(f"AUPRC on the test images of {dataset}", rows, labels))
            console.print("prevalence: the AUPRC of a guess.", soft_wrap=True)
            _say_what_was_chosen(console, runs, rows)
        else:
            _print(console, _figures(rows))
            console.print("prevalence: the AUPRC of a guess. train/s, score/s: images per second.", soft_wrap=True)
            _say_where(console, runs)
        for line in comparison.losing_to_a_baseline(rows):
            console.print(line, style="yellow", soft_wrap=True)
        _show_every_score(console, runs, len(labels))
    if failures:
        table = Table(title="failed", title_justify="left", title_style="bold red", box=None, pad_edge=False)
        table.add_column("trial")
        table.add_column("reason", overflow="fold")
        for trial, reason in failures:
            table.add_row(trial, reason)
        _print(console, table)
    folders = [run.folder for run in finished if run.folder is not None]
    for folder in folders if len(folders) <= MOST_RUNS_LISTED else []:
        console.print(f"run: {folder}", soft_wrap=True)


def _figures(rows: Sequence[Row]) -> Table:
    table = _table("on the test images", ["AUPRC", "95% interval", "prevalence", "AUROC", "train/s", "score/s"], True)
    for row in rows:
        for label, cell in row.cells.items():
            results = cell.runs[0].results
            speeds = [results[f"{work}_images_per_second"] for work in ("train", "score")]
            table.add_row(
                row.name,
                label,
                f"{cell.auprc:.3f}",
                "{:.3f}-{:.3f}".format(*cell.interval),
                f"{cell.prevalence:.3f}",
                f"{cell.mean('test', 'auroc'):.3f}",
                *("-" if speed is None else f"{speed:,.0f}" for speed in speeds),
            )
    return table


def _matrix(title: str, rows: Sequence[Row], labels: Sequence[str]) -> Table:
    table = _table(title, [*labels, "mean"])
    for row in rows:
        figures = [f"{row.cells[label].auprc:.3f}" if label in row.cells else "-" for label in labels]
        table.add_row(row.name, *figures, f"{row.mean_auprc:.3f}" if len(row.cells) == len(labels) else "-")
    prevalences = {label: cell.prevalence for row in rows for label, cell in row.cells.items()}
    mean = sum(prevalences.values()) / len(prevalences)
    table.add_row("prevalence", *(f"{prevalences[label]:.3f}" for label in labels), f"{mean:.3f}", style="dim")
    return table


def _say_what_was_chosen(console: Console, runs: Sequence[Finished], rows: Sequence[Row]) -> None:
    """By validation AUPRC, for each label and over labels."""
    for row in rows:
        names = comparison.settings_that_vary([run for run in runs if run.method == row.method])
        if row.choice == comparison.ONE_SETTING:
            cell = next(iter(row.cells.values()))
            console.print(f"{row.name}: {comparison.describe(cell, names)}", soft_wrap=True)
        elif row.choice:
            chosen = [f"{label}: {comparison.describe(cell, names)}" for label, cell in row.cells.items()]
            console.print(f"{row.name}: {'; '.join(chosen)}", soft_wrap=True)
    if any(row.choice for row in rows):
        console.print("Settings were chosen by validation AUPRC.", soft_wrap=True)


def _say_where(console: Console, runs: Sequence[Finished]) -> None:
    """How well the anomaly maps show where the defects are, where that is known."""
    for run in runs:
        test = run.results["test"]
        if "pro" in test:
            console.print(
                f"where, by {run.method}'s anomaly maps: pixel AUROC {test['pixel_auroc']:.3f}, "
                f"pixel AUPRC {test['pixel_auprc']:.3f} (a guess {test['pixel_prevalence']:.3f}), "
                f"PRO {test['pro']:.3f} (a guess 0.150)",
                soft_wrap=True,
            )


def _show_every_score(console: Console, runs: Sequence[Finished], n_labels: int) -> None:
    names = list(dict.fromkeys(name for run in runs for name in run.results["test"]["scores"]))
    if len(names) <= 2:
        return
    title = "AUPRC of every score" + (", mean over labels" if n_labels > 1 else "")
    table = _table(title, [name.replace("_", "\n") for name in names])
    figures: dict[str, dict[str, str]] = {}
    for name in names:
        for row in comparison.compare(runs, name):
            figures.setdefault(f"{row.method}, {row.choice}".rstrip(", "), {})[name] = f"{row.mean_auprc:.3f}"
    for method, of_score in sorted(figures.items()):
        table.add_row(method, *(of_score.get(name, "-") for name in names))
    _print(console, table)
    console.print(
        "The score that decides is chosen before, by --set score=...; the best of these is no fair figure.",
        soft_wrap=True,
    )


def _table(title: str, figures: Sequence[str], has_label: bool = False) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method", min_width=LONGEST_WORD)
    if has_label:
        table.add_column("anomaly")
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    console.print()
    console.print(table, width=max(console.width, TABLE_WIDTH), crop=False)
