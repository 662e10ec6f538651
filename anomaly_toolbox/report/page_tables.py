"""The tables of the HTML page: AUPRC and AUROC by label, and the sortable table of all metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_toolbox.report.comparison import Comparison
from anomaly_toolbox.report.matrix import Line, Matrix
from anomaly_toolbox.report.metrics import HEADINGS, INTERVALS, METRICS, available_metrics, format_metric, format_number
from anomaly_toolbox.report.rows import Row


@dataclass(frozen=True)
class MatrixField:
    """A field of a main table; `interval` is empty if there is none."""

    text: str
    interval: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class MatrixLine:
    """A line of a main table, with a field for each label; `is_of_members` as in `matrix.Line`."""

    name: str
    fields: Sequence[MatrixField]
    mean: str
    is_of_members: bool = False


@dataclass(frozen=True)
class CellLine:
    """A line of the sortable table: the metrics of one row and label, as pairs of a value to sort by and a text."""

    name: str
    label: str
    metrics: Sequence[tuple[float | None, str]]
    setting: str


def matrix_lines(matrix: Matrix) -> list[MatrixLine]:
    """The lines of a main table, of AUPRC or AUROC; the best row of each label is marked."""
    best_values = []
    for column in range(len(matrix.labels)):
        column_values = [values[column] for values in matrix.values]
        best_values.append(max(value for value in column_values if value is not None))
    lines = [_matrix_line(line, matrix, best_values) for line in matrix.lines]
    if matrix.metric == "auprc":
        prevalences = [MatrixField(format_number(prevalence)) for prevalence in matrix.prevalences]
        lines.append(MatrixLine("prevalence", prevalences, format_number(matrix.mean_prevalence)))
    return lines


def cell_lines(comparison: Comparison) -> tuple[list[str], list[CellLine]]:
    """The headings of the metrics in the sortable table, and its lines."""
    metrics = available_metrics(comparison.all_rows)
    lines = []
    for row in comparison.all_rows:
        lines += [_cell_line(comparison, row, label, metrics) for label in comparison.labels if label in row.cells]
    return [HEADINGS.get(metric, metric) for metric in metrics], lines


def _matrix_line(line: Line, matrix: Matrix, best_values: Sequence[float]) -> MatrixLine:
    fields = []
    for label, value, best_value in zip(matrix.labels, line.values, best_values, strict=True):
        if value is None:
            fields.append(MatrixField("-"))
        elif line.is_of_members:
            fields.append(MatrixField(f"{value:.3f}"))
        else:
            interval = INTERVALS[matrix.metric](line.row.cells[label])
            interval_text = "" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
            fields.append(MatrixField(f"{value:.3f}", interval_text, value == best_value))
    return MatrixLine(line.full_name, fields, format_number(line.mean), line.is_of_members)


def _cell_line(comparison: Comparison, row: Row, label: str, metrics: Sequence[str]) -> CellLine:
    fields = []
    for metric in metrics:
        value = METRICS[metric](row.cells[label])
        fields.append((value, format_metric(metric, value)))
    return CellLine(row.name, label, fields, comparison.describe_setting(row, label))
