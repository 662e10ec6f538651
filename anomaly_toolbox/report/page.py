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
from anomaly_toolbox.report import charts, svg, texts
from anomaly_toolbox.report.charts import ScoredImages
from anomaly_toolbox.report.comparison import Comparison
from anomaly_toolbox.report.gather import read_picture, read_scores
from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.page_tables import CellLine, MatrixLine, cell_lines, matrix_lines
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import ONE_SETTING, Row, methods_of
from anomaly_toolbox.report.summary import FALSE_ALARMS, Summary, summary_of

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
FILES_ONLY = "where.png"  # exists only if a dataset consists of image files; ensembles have no pictures of images


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
class MetricPart:
    """The part of a section that shows AUPRC or AUROC of some rows: a bar chart as SVG, and the lines of a table."""

    metric: str
    chart: str
    lines: Sequence[MatrixLine]


@dataclass(frozen=True)
class Section:
    """The section of the page that shows one dataset.

    Attributes:
        comparison: of all runs on the dataset.
        file_name: the beginning of the names of its chart files.
        selected_scores: AUPRC and AUROC of the selected scores.
        other_scores: the same of each method's best other score; empty if no method has another.
        remarks: lines below the tables.
        summary: the means of the selected scores, with false alarms.
        every_score: the means of every score; it has no lines if there are ensembles alone.
        headings: of the metrics in the sortable table.
        cells: the lines of the sortable table.
        parts: one for each label.
    """

    comparison: Comparison
    file_name: str
    selected_scores: Sequence[MetricPart]
    other_scores: Sequence[MetricPart]
    remarks: Sequence[str]
    summary: Summary
    every_score: Summary
    headings: Sequence[str]
    cells: Sequence[CellLine]
    parts: Sequence[LabelPart]

    @property
    def chart_files(self) -> dict[str, str]:
        """The bar charts by the names of their files."""
        files = {f"{self.file_name}_{part.metric}.svg": part.chart for part in self.selected_scores}
        for part in self.other_scores:
            suffix = "" if part.metric == "auprc" else f"_{part.metric}"
            files[f"{self.file_name}_other_scores{suffix}.svg"] = part.chart
        return files


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
        comparable=texts.COMPARABLE,
        false_alarms=FALSE_ALARMS,
        every_score_legend=texts.EVERY_SCORE,
        light=svg.palette(svg.LIGHT),
        dark=svg.palette(svg.DARK),
        n_finished=sum(len(section.comparison.runs) for section in sections),
    )


def make_sections(comparisons: Sequence[Comparison]) -> list[Section]:
    """A section for each dataset. A method has the same colour in all of them."""
    methods = methods_of(run for comparison in comparisons for run in comparison.runs)
    colours = {method: svg.SERIES[number % len(svg.SERIES)] for number, method in enumerate(methods)}
    return [_make_section(comparison, colours) for comparison in comparisons]


def _make_section(comparison: Comparison, colours: Mapping[str, str]) -> Section:
    name, labels = comparison.dataset, comparison.labels
    charted_rows = [row for row in comparison.rows if row.choice != ONE_SETTING]
    selected_scores, other_scores = [], []
    for metric in ("auprc", "auroc"):
        title = f"{name}: {metric.upper()} of the selected scores"
        chart = charts.bars(Matrix.build(charted_rows, labels, metric), colours, title)
        lines = matrix_lines(Matrix.build(comparison.rows, labels, metric))
        selected_scores.append(MetricPart(metric, chart, lines))
        if comparison.other_score_rows:
            matrix = Matrix.build(comparison.other_score_rows, labels, metric)
            chart = charts.bars(matrix, colours, f"{name}: {metric.upper()} of each method's best other score")
            other_scores.append(MetricPart(metric, chart, []))

    parts = []
    console = plain_console(stderr=True)
    for label in track(labels, f"{name}: charts of each label", console=console, transient=True):
        rows = [row for row in charted_rows if label in row.cells]
        parts.append(_make_label_part(name, label, rows, colours))

    headings, cells = cell_lines(comparison)
    return Section(
        comparison=comparison,
        file_name=short_name(re.sub(r"[^\w.+-]", "-", name)),
        selected_scores=selected_scores,
        other_scores=other_scores,
        remarks=remarks(comparison.rows),
        summary=summary_of(comparison.rows, labels),
        every_score=summary_of(comparison.every_score_rows, labels),
        headings=headings,
        cells=cells,
        parts=parts,
    )


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
            if data is not None or (file_name != FILES_ONLY and not run.is_ensemble):
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
