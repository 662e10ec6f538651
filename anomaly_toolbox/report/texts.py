"""The comparison as Markdown and CSV: a row for each method and setting, a column for each label and for the mean."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomaly_toolbox.report.comparison import Comparison
from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.metrics import REFERENCE_AUPRC, available_metrics, format_number
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import Cell, Row, labels_of
from anomaly_toolbox.report.summary import FALSE_ALARMS, Summary, summary_of

#: The metrics that have a table of their own in Markdown, besides AUPRC and AUROC.
TITLES = {
    REFERENCE_AUPRC: "AUPRC at prevalence 0.357",
    "pixel_auroc": "AUROC of the anomaly maps' pixels",
    "pixel_auprc": "AUPRC of the anomaly maps' pixels",
    "pro": "PRO of the anomaly maps",
    "train_seconds": "Training, seconds",
    "score_seconds": "Scoring the test images, seconds",
    "seeds": "Seeds",
}
LEGEND = (
    "The range in brackets is the 95% bootstrap interval over the test images for a single run, and the lowest and the "
    "highest AUPRC for several seeds, whose number follows ×. The prevalence is the chance level."
)
COMPARABLE = (
    "AUPRC depends on the prevalence: only AUROC and AUPRC at prevalence 0.357 can be compared with papers that use "
    "the pooled split."
)
EVERY_SCORE = (
    "Means over labels, where each score has the settings with its own highest validation AUPRC. Do not choose a score "
    "by this table: its numbers come from test images."
)
AUROC_LEGEND = "The chance level is 0.5."


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A line for each dataset, row and metric.

    The labels of all datasets have columns. A label that a dataset lacks is empty, and `mean` is over the others.
    """
    labels = labels_of(run for comparison in comparisons for run in comparison.runs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "score", "choice", "figure", *labels, "mean"])
    for comparison in comparisons:
        rows = comparison.all_rows
        matrices = {metric: Matrix.build(rows, labels, metric) for metric in available_metrics(rows)}
        for number, row in enumerate(rows):
            for metric, matrix in matrices.items():
                values = matrix.values[number]
                present = [value for value in values if value is not None]
                mean = statistics.fmean(present) if present else None
                fields = ["" if value is None else f"{value:.6g}" for value in [*values, mean]]
                writer.writerow([comparison.dataset, row.method, row.score, row.choice, metric, *fields])
    return text.getvalue()


def as_markdown(comparisons: Sequence[Comparison], left_out: Sequence[tuple[Path, str]]) -> str:
    """The tables of every dataset, and a list of the run folders that were left out, with the reasons."""
    blocks = ["# Results"]
    for comparison in comparisons:
        blocks += _dataset_blocks(comparison)
    if left_out:
        blocks += ["## Left out", _bullet_list(f"`{folder}`: {reason}" for folder, reason in left_out)]
    return "\n\n".join(blocks) + "\n"


def auprc_with_interval(cell: Cell) -> str:
    """`0.573 (0.541-0.604)`, or `0.573 ×3 (0.560-0.588)` for three seeds."""
    seeds = f" ×{len(cell.runs)}" if len(cell.runs) > 1 else ""
    low, high = cell.interval
    return f"{cell.auprc:.3f}{seeds} ({low:.3f}-{high:.3f})"


def _dataset_blocks(comparison: Comparison) -> list[str]:
    labels, rows, other_rows = comparison.labels, comparison.rows, comparison.other_score_rows
    blocks = [f"## {comparison.dataset}", f"AUPRC on the test images. {LEGEND}", _auprc_table(rows, labels)]
    blocks += [f"AUROC on the test images. {AUROC_LEGEND} {COMPARABLE}", _metric_table(rows, labels, "auroc")]
    notes = comparison.chosen_settings + remarks(rows)
    if notes:
        blocks.append(_bullet_list(notes))
    summary = summary_of(rows, labels)
    if summary.has_false_alarms:
        blocks += [f"Means over labels. {FALSE_ALARMS}", _summary_table(summary)]
    if other_rows:
        title = "of each method's best other score, which was chosen by mean validation AUPRC:"
        blocks += [f"AUPRC {title}", _auprc_table(other_rows, labels)]
        blocks += [f"AUROC {title}", _metric_table(other_rows, labels, "auroc")]
    if len(comparison.score_names) > 1:
        blocks += [f"Every score. {EVERY_SCORE}", _summary_table(summary_of(comparison.every_score_rows, labels))]
    has_seeds = any(len(cell.runs) > 1 for row in rows for cell in row.cells.values())
    for metric in available_metrics(rows):
        if metric in TITLES and (metric != "seeds" or has_seeds):
            blocks += [f"{TITLES[metric]}:", _metric_table(rows, labels, metric)]
    return blocks


def _auprc_table(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """AUPRC with intervals, and the prevalence."""
    matrix = Matrix.build(rows, labels)
    lines = []
    for line in matrix.lines:
        fields = [format_number(value) for value in line.values]
        if not line.is_of_members:
            cells = line.row.cells
            fields = [auprc_with_interval(cells[label]) if label in cells else "-" for label in labels]
        lines.append([line.full_name, *fields, format_number(line.mean)])
    prevalences = [*matrix.prevalences, matrix.mean_prevalence]
    lines.append(["prevalence", *(format_number(prevalence) for prevalence in prevalences)])
    return _table([*labels, "mean"], lines)


def _metric_table(rows: Sequence[Row], labels: Sequence[str], metric: str) -> str:
    lines = []
    for line in Matrix.build(rows, labels, metric).lines:
        lines.append([line.full_name, *(format_number(value) for value in [*line.values, line.mean])])
    return _table([*labels, "mean"], lines)


def _summary_table(summary: Summary) -> str:
    return _table(summary.headings, [[name, *fields] for name, fields in summary.lines])


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of lines with a name and a text for each heading."""
    alignment = "| --- |" + " ---: |" * len(headings)
    return "\n".join([_table_line(["method", *headings]), alignment, *(_table_line(line) for line in lines)])


def _table_line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _bullet_list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
