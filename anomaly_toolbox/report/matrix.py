"""The numbers in the tables of a comparison.

The formatters for the terminal (`tables`), for Markdown and CSV (`texts`) and for HTML (`page`) turn them into text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anomaly_toolbox.report.rows import Cell, Row, mean_if_complete

#: The metrics of a cell by their names in `results_table.csv`; None where a cell lacks one.
METRICS: dict[str, Callable[[Cell], float | None]] = {
    "auprc": lambda cell: cell.auprc,
    "auprc_low": lambda cell: cell.interval[0],
    "auprc_high": lambda cell: cell.interval[1],
    "auroc": lambda cell: cell.auroc,
    "prevalence": lambda cell: cell.prevalence,
    "seeds": lambda cell: len(cell.runs),
    "train_seconds": lambda cell: cell.seconds("train"),
    "score_seconds": lambda cell: cell.seconds("score"),
    "pixel_auroc": lambda cell: cell.pixel_metric("pixel_auroc"),
    "pixel_auprc": lambda cell: cell.pixel_metric("pixel_auprc"),
    "pro": lambda cell: cell.pixel_metric("pro"),
}


@dataclass(frozen=True)
class Matrix:
    """One metric of a comparison, with a row for each method and setting and a column for each label.

    Attributes:
        labels: the columns.
        rows: the rows of the comparison.
        values: (rows, labels), None where a method was not run on a label or its runs lack the metric.
        means: (rows,), over all labels; None if a value of the row is missing.
        prevalences: (labels,), the chance levels of AUPRC; None if no method was run on a label.
        mean_prevalence: the mean over all labels; None if a prevalence is missing.
    """

    labels: Sequence[str]
    rows: Sequence[Row]
    values: Sequence[Sequence[float | None]]
    means: Sequence[float | None]
    prevalences: Sequence[float | None]
    mean_prevalence: float | None

    @classmethod
    def build(cls, rows: Sequence[Row], labels: Sequence[str], metric: str = "auprc") -> "Matrix":
        """Computes a metric, one of METRICS, for all rows and labels."""
        values = []
        for row in rows:
            cells = [row.cells.get(label) for label in labels]
            values.append([None if cell is None else METRICS[metric](cell) for cell in cells])
        prevalence_of_label = {label: cell.prevalence for row in rows for label, cell in row.cells.items()}
        prevalences = [prevalence_of_label.get(label) for label in labels]
        return cls(
            labels=labels,
            rows=rows,
            values=values,
            means=[mean_if_complete(row_values) for row_values in values],
            prevalences=prevalences,
            mean_prevalence=mean_if_complete(prevalences),
        )


def available_metrics(rows: Sequence[Row]) -> list[str]:
    """The names of the metrics that at least one cell has."""
    cells = [cell for row in rows for cell in row.cells.values()]
    return [name for name, metric in METRICS.items() if any(metric(cell) is not None for cell in cells)]
