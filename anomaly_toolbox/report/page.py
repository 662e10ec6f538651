"""The HTML page of a report, with its charts and pictures inside; it loads nothing."""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.files import short_name
from anomaly_toolbox.report import charts, texts
from anomaly_toolbox.report.charts import ScoredImages
from anomaly_toolbox.report.comparison import Comparison
from anomaly_toolbox.report.gather import read_picture, read_scores
from anomaly_toolbox.report.matrix import METRICS, Matrix, available_metrics
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import ONE_SETTING, Row, methods_of

GRID_CONTENT = "images, their reconstructions, the residuals and the anomaly heatmaps"
#: The pictures of a run: captions, and descriptions for readers who do not see them.
PICTURES = {
    "where.png": (
        "highest scores of each folder, on the original images",
        "original images, and below each its anomaly heatmap",
    ),
    "most_anomalous.png": ("highest scores", GRID_CONTENT),
    "most_wrong.png": ("worst errors", GRID_CONTENT),
}
FILES_ONLY = "where.png"  # exists only if a dataset consists of image files
#: The headings of metrics; the others have their names.
HEADINGS = {
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


@dataclass(frozen=True)
class MatrixField:
    """A field of the main table; `interval` is empty if there is none."""

    text: str
    interval: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class MatrixLine:
    """A line of the main table, with a field for each label."""

    name: str
    fields: Sequence[MatrixField]
    mean: str


@dataclass(frozen=True)
class CellLine:
    """A line of the sortable table: the metrics of one row and label, as pairs of a value to sort by and a text."""

    name: str
    label: str
    metrics: Sequence[tuple[float | None, str]]
    setting: str


@dataclass(frozen=True)
class Picture:
    """A picture of a run; `data` is a data URL, or None if the file does not exist."""

    row_name: str
    caption: str
    description: str
    data: str | None
    folder: Path | None


@dataclass(frozen=True)
class LabelPart:
    """The part of a section that shows one label: two charts as SVG, and pictures."""

    label: str
    curves: str
    histograms: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """The section of the page that shows one dataset.

    Attributes:
        comparison: of all runs on the dataset.
        file_name: the beginning of the names of its chart files.
        auprc_chart: the bar chart of the selected scores, as SVG.
        other_scores_chart: the same of each method's best other score; None if no method has another.
        matrix: the lines of the main table.
        remarks: lines below it.
        headings: of the metrics in the sortable table.
        cells: the lines of the sortable table.
        parts: one for each label.
    """

    comparison: Comparison
    file_name: str
    auprc_chart: str
    other_scores_chart: str | None
    matrix: Sequence[MatrixLine]
    remarks: Sequence[str]
    headings: Sequence[str]
    cells: Sequence[CellLine]
    parts: Sequence[LabelPart]


def render(sections: Sequence[Section], left_out: Sequence[tuple[Path, str]]) -> str:
    """The page as HTML.

    Args:
        sections: from `make_sections`.
        left_out: pairs of a run folder that was left out of the comparison, and the reason.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(importlib.resources.files(__package__))),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        sections=sections,
        left_out=left_out,
        legend=texts.LEGEND,
        light=charts.palette(charts.LIGHT),
        dark=charts.palette(charts.DARK),
        n_finished=sum(len(section.comparison.runs) for section in sections),
    )


def make_sections(comparisons: Sequence[Comparison]) -> list[Section]:
    """A section for each dataset. A method has the same colour in all of them."""
    methods = methods_of(run for comparison in comparisons for run in comparison.runs)
    colours = {method: charts.SERIES[number % len(charts.SERIES)] for number, method in enumerate(methods)}
    return [_make_section(comparison, colours) for comparison in comparisons]


def _make_section(comparison: Comparison, colours: Mapping[str, str]) -> Section:
    name, labels = comparison.dataset, comparison.labels
    charted_rows = [row for row in comparison.rows if row.choice != ONE_SETTING]
    auprc_chart = charts.bars(Matrix.build(charted_rows, labels), colours, f"{name}: AUPRC of the selected scores")
    other_scores_chart = None
    if comparison.other_score_rows:
        other_scores = Matrix.build(comparison.other_score_rows, labels)
        other_scores_chart = charts.bars(other_scores, colours, f"{name}: AUPRC of each method's best other score")

    parts = []
    console = plain_console(stderr=True)
    for label in track(labels, f"{name}: charts of each label", console=console, transient=True):
        rows = [row for row in charted_rows if label in row.cells]
        parts.append(_make_label_part(name, label, rows, colours))

    metrics = available_metrics(comparison.all_rows)
    cells = []
    for row in comparison.all_rows:
        cells += [_make_cell_line(comparison, row, label, metrics) for label in labels if label in row.cells]
    return Section(
        comparison=comparison,
        file_name=short_name(re.sub(r"[^\w.+-]", "-", name)),
        auprc_chart=auprc_chart,
        other_scores_chart=other_scores_chart,
        matrix=_matrix_lines(Matrix.build(comparison.rows, labels)),
        remarks=remarks(comparison.rows),
        headings=[HEADINGS.get(metric, metric) for metric in metrics],
        cells=cells,
        parts=parts,
    )


def _matrix_lines(matrix: Matrix) -> list[MatrixLine]:
    """The lines of the main table; the best AUPRC of each label is marked."""
    best_values = []
    for column in range(len(matrix.labels)):
        column_values = [values[column] for values in matrix.values]
        best_values.append(max(value for value in column_values if value is not None))
    lines = []
    for row, values, mean in zip(matrix.rows, matrix.values, matrix.means, strict=True):
        fields = []
        for label, value, best_value in zip(matrix.labels, values, best_values, strict=True):
            if value is None:
                fields.append(MatrixField("-"))
            else:
                low, high = row.cells[label].interval
                fields.append(MatrixField(f"{value:.3f}", f"{low:.3f}-{high:.3f}", value == best_value))
        lines.append(MatrixLine(row.name, fields, texts.format_number(mean)))
    prevalences = [MatrixField(texts.format_number(prevalence)) for prevalence in matrix.prevalences]
    lines.append(MatrixLine("prevalence", prevalences, texts.format_number(matrix.mean_prevalence)))
    return lines


def _make_cell_line(comparison: Comparison, row: Row, label: str, metrics: Sequence[str]) -> CellLine:
    values = [METRICS[metric](row.cells[label]) for metric in metrics]
    fields = [(value, texts.format_number(value)) for value in values]
    return CellLine(row.name, label, fields, comparison.describe_setting(row, label))


def _make_label_part(dataset: str, label: str, rows: Sequence[Row], colours: Mapping[str, str]) -> LabelPart:
    """The charts and pictures of the first run of each cell."""
    scored_images, pictures = [], []
    for row in rows:
        run = row.cells[label].runs[0]
        image_labels, scores = read_scores(run, row.score)
        threshold = run.results["test"]["scores"][row.score]["threshold"]
        scored_images.append(ScoredImages(row.name, colours[row.method], image_labels, scores, threshold))
        for file_name, (caption, description) in PICTURES.items():
            data = read_picture(run, file_name)
            if data is not None or file_name != FILES_ONLY:
                pictures.append(Picture(row.name, caption, description, data, run.folder))
    title = f"{dataset}, label {label}"
    areas = ", ".join(f"{row.name} {row.cells[label].auprc:.3f}" for row in rows)
    return LabelPart(
        label=label,
        curves=charts.precision_recall_curves(
            scored_images, f"{title}: precision against recall", f"Areas under the curves: {areas}."
        ),
        histograms=charts.histograms(scored_images, f"{title}: scores"),
        pictures=pictures,
    )
