"""The tables of a report as Markdown and CSV: rows are methods, columns are labels, the last one is their mean."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.comparison import Cell, Finished, Row

FIGURES: dict[str, Callable[[Cell], float | None]] = {
    "auprc": lambda cell: cell.auprc,
    "auprc_low": lambda cell: cell.interval[0],
    "auprc_high": lambda cell: cell.interval[1],
    "auroc": lambda cell: cell.mean("test", "auroc"),
    "prevalence": lambda cell: cell.prevalence,
    "seeds": lambda cell: len(cell.runs),
    "train_seconds": lambda cell: cell.seconds("train"),
    "score_seconds": lambda cell: cell.seconds("score"),
    "pixel_auroc": lambda cell: cell.of_pixels("pixel_auroc"),
    "pixel_auprc": lambda cell: cell.of_pixels("pixel_auprc"),
    "pro": lambda cell: cell.of_pixels("pro"),
}
HEADS = {
    "auprc": "AUPRC",
    "auprc_low": "low",
    "auprc_high": "high",
    "auroc": "AUROC",
    "train_seconds": "training, s",
    "score_seconds": "scoring, s",
    "pixel_auroc": "pixel AUROC",
    "pixel_auprc": "pixel AUPRC",
    "pro": "PRO",
}
TITLES = {
    "auroc": "AUROC",
    "pixel_auroc": "AUROC of the anomaly maps' pixels",
    "pixel_auprc": "AUPRC of the anomaly maps' pixels",
    "pro": "PRO of the anomaly maps",
    "train_seconds": "Training, seconds",
    "score_seconds": "Scoring the test images, seconds",
    "seeds": "Seeds",
}
LEGEND = (
    "In brackets the 95% bootstrap interval over test images of a single run; of several seeds (their number after ×) "
    "the mean, with the lowest and the highest in brackets. A guess reaches the prevalence."
)


def as_csv(of_datasets: dict[str, list[Finished]]) -> str:
    """A line for each dataset, row and figure; labels that a dataset lacks are empty."""
    labels = comparison.labels_of([run for runs in of_datasets.values() for run in runs])
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["dataset", "method", "score", "choice", "figure", *labels, "mean"])
    for dataset, runs in of_datasets.items():
        rows = all_rows(runs)
        for row in rows:
            for name in known_figures(rows):
                figure = FIGURES[name]
                values = [figure(row.cells[label]) if label in row.cells else None for label in labels]
                known = [value for value in values if value is not None]
                mean = statistics.fmean(known) if known else None
                told = ["" if value is None else f"{value:.6g}" for value in [*values, mean]]
                writer.writerow([dataset, row.method, row.score, row.choice, name, *told])
    return written.getvalue()


def known_figures(rows: Sequence[Row]) -> list[str]:
    """The names of the figures that are known of at least one cell."""
    cells = [cell for row in rows for cell in row.cells.values()]
    return [name for name, figure in FIGURES.items() if any(figure(cell) is not None for cell in cells)]


def all_rows(runs: Sequence[Finished]) -> list[Row]:
    """By the scores that decide, then by each method's best other score, where that is another."""
    rows = comparison.compare(runs)
    names = {row.name for row in rows}
    return rows + [row for row in comparison.compare_other_scores(runs) if row.name not in names]


def as_markdown(of_datasets: dict[str, list[Finished]], left_out: Sequence[tuple[Path, str]]) -> str:
    """Tables of every dataset, and what was left out."""
    parts = ["# Results", ""]
    for dataset, runs in of_datasets.items():
        labels = comparison.labels_of(runs)
        rows = comparison.compare(runs)
        parts += [f"## {dataset}", "", "AUPRC on the test images. " + LEGEND, ""]
        parts += [*_table(rows, labels, "auprc"), ""]
        parts += [f"* {line}" for line in [*chosen(runs, rows), *comparison.remarks(rows)]] + [""]
        parts += ["AUPRC by each method's best other score, chosen by mean validation AUPRC:", ""]
        parts += [*_table(comparison.compare_other_scores(runs), labels, "auprc"), ""]
        for name in [name for name in known_figures(rows) if name in TITLES]:
            title = TITLES[name]
            if name != "seeds" or any(len(cell.runs) > 1 for row in rows for cell in row.cells.values()):
                parts += [f"{title}:", "", *_table(rows, labels, name), ""]
    if left_out:
        parts += ["## Left out", "", *(f"* `{folder}`: {reason}" for folder, reason in left_out), ""]
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def auprc_text(cell: Cell) -> str:
    """`0.573 (0.541-0.604)`, or with seeds `0.573 ×3 (0.560-0.588)`."""
    several = f" ×{len(cell.runs)}" if len(cell.runs) > 1 else ""
    return f"{cell.auprc:.3f}{several} ({cell.interval[0]:.3f}-{cell.interval[1]:.3f})"


def chosen(runs: Sequence[Finished], rows: Sequence[Row]) -> list[str]:
    """For each row with a choice, what was chosen, by validation AUPRC."""
    lines = []
    for row in rows:
        names = comparison.settings_that_vary([run for run in runs if run.method == row.method])
        settings = {label: comparison.describe(cell, names) for label, cell in row.cells.items()}
        if row.choice == comparison.ONE_SETTING:
            lines.append(f"{row.name}: {next(iter(settings.values()))}")
        elif row.choice:
            lines.append(f"{row.name}: " + "; ".join(f"{label}: {setting}" for label, setting in settings.items()))
    return [f"{line} (chosen by validation AUPRC)" for line in lines]


def number(value: float | None) -> str:
    """Three decimals for fractions, three digits for the rest."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value <= 1 else f"{value:.3g}"


def mean_text(row: Row, labels: Sequence[str], figure: str) -> str:
    """Mean of a figure over all labels; `-` where the row lacks one."""
    values = [FIGURES[figure](row.cells[label]) if label in row.cells else None for label in labels]
    return "-" if None in values else number(statistics.fmean(values))


def prevalences(rows: Sequence[Row], labels: Sequence[str]) -> list[float]:
    """The AUPRC of a guess for each label."""
    known = {label: cell.prevalence for row in rows for label, cell in row.cells.items()}
    return [known[label] for label in labels]


def _table(rows: Sequence[Row], labels: Sequence[str], figure: str) -> list[str]:
    text = auprc_text if figure == "auprc" else lambda cell: number(FIGURES[figure](cell))
    lines = [f"| method | {' | '.join(labels)} | mean |", "| --- |" + " ---: |" * (len(labels) + 1)]
    for row in rows:
        cells = [text(row.cells[label]) if label in row.cells else "-" for label in labels]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {mean_text(row, labels, figure)} |")
    if figure == "auprc" and rows:
        guess = prevalences(rows, labels)
        lines.append(f"| prevalence | {' | '.join(map(number, guess))} | {number(statistics.fmean(guess))} |")
    return lines
