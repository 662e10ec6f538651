"""The charts of a report, as SVG whose colours follow the page's light or dark theme.

matplotlib draws with placeholder colours. They are replaced by `currentColor` and by the page's CSS variables
`--series-1`, `--series-2`, ...
"""

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.rows import Row

#: Placeholders for the colour of text and lines, and for --series-1 to --series-8.
INK = "#010203"
SERIES = [f"#0a0b{number:02x}" for number in range(1, 9)]
#: The colours of the series in both themes.
LIGHT = ("#0072b2", "#d55e00", "#008f66", "#b0508a", "#9a7d0a", "#3a9fd8", "#7a7f87", "#8a5a2b")
DARK = ("#4fa9e0", "#f08a3c", "#2fc596", "#dc8dbb", "#d8bd45", "#86ccf2", "#a5abb3", "#c9996a")
CHANCE_LEVEL = "chance level (prevalence)"
CURVE_POINTS = 200
HISTOGRAM_EDGES = 40
GROUP_WIDTH = 0.84  # width of all bars of a label together, where 1 is the distance between two labels
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_chart_numbers = itertools.count(1)  # a page must not contain an id twice


@dataclass(frozen=True)
class ScoredImages:
    """The test images of one run.

    Attributes:
        name: the name of the row that the run belongs to.
        colour: the colour of the run's curve, one of SERIES.
        labels: (n,), 0 normal and 1 anomalous.
        scores: (n,), higher is more anomalous.
        threshold: images whose score is at or above it are called anomalous.
    """

    name: str
    colour: str
    labels: np.ndarray
    scores: np.ndarray
    threshold: float


def bars(matrix: Matrix, colours: Mapping[str, str], title: str) -> str:
    """A bar chart of AUPRC: a group of bars for each label, crossed by a line at the prevalence.

    Args:
        matrix: AUPRC, with at least one row.
        colours: one of SERIES for each method.
        title: the title of the SVG, for screen readers.
    """
    n_labels, n_rows = len(matrix.labels), len(matrix.rows)
    bar_width = GROUP_WIDTH / n_rows
    inches = 1.5 + 0.22 * n_labels * (n_rows + 1)
    drawn_methods = set()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, inches), 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, row in enumerate(matrix.rows):
            offset = (number - (n_rows - 1) / 2) * bar_width
            hatch = "///" if row.method in drawn_methods else None  # another score of the same method
            drawn_methods.add(row.method)
            _draw_bars(axes, row, matrix.labels, offset, bar_width, colours[row.method], hatch)
        legend_label: str | None = CHANCE_LEVEL
        for position, prevalence in enumerate(matrix.prevalences):
            if prevalence is not None:
                ends = [position - 0.48, position + 0.48]
                axes.plot(ends, [prevalence, prevalence], color=INK, linestyle="--", linewidth=1, label=legend_label)
                legend_label = None  # one entry in the legend is enough
        axes.set_xticks(range(n_labels), matrix.labels)
        axes.set(xlabel="label", ylabel="AUPRC", ylim=(0, 1))
        _add_legend(figure)
    descriptions = []
    for row in matrix.rows:
        values = ", ".join(f"{label} {cell.auprc:.2f}" for label, cell in row.cells.items())
        descriptions.append(f"{row.name}: {values}")
    return _as_svg(figure, title, f"AUPRC by label. {'; '.join(descriptions)}.")


def precision_recall_curves(runs: Sequence[ScoredImages], title: str, description: str) -> str:
    """The precision-recall curves of several runs on the same test images, with a line at the prevalence.

    Args:
        runs: at least one run.
        title: the title of the SVG, for screen readers.
        description: a longer text alternative.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for run in runs:
            precision, recall, _ = precision_recall_curve(run.labels, run.scores)
            points = _evenly_spaced_points(recall)
            axes.plot(recall[points], precision[points], color=run.colour, label=run.name, linewidth=1.5)
        prevalence = runs[-1].labels.mean()
        axes.axhline(prevalence, color=INK, linestyle="--", linewidth=1, label=CHANCE_LEVEL)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        _add_legend(figure)
    return _as_svg(figure, title, description)


def histograms(runs: Sequence[ScoredImages], title: str) -> str:
    """Histograms of the scores of normal and of anomalous images, a panel for each run.

    The panels end at the 99.5th percentile of the scores, or at the threshold if it is higher.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 2.6 * len(runs) + 0.4), 2.7), layout="constrained")
        panels = figure.subplots(1, len(runs), squeeze=False)[0]
        for axes, run in zip(panels, runs, strict=True):
            _draw_histogram(axes, run)
            axes.set(title=run.name, xlabel="score", yticks=[])
        handles, captions = panels[0].get_legend_handles_labels()
        figure.legend(handles, captions, loc="outside lower center", ncols=3)
    names = ", ".join(run.name for run in runs)
    return _as_svg(figure, title, f"Histograms of the scores of normal and of anomalous images: {names}.")


def palette(colours: Sequence[str]) -> str:
    """CSS that sets `--series-1`, `--series-2`, ... to these colours."""
    return " ".join(f"--series-{number}: {colour};" for number, colour in enumerate(colours, 1))


def standalone(chart: str) -> str:
    """A chart as the content of an SVG file, which is light or dark like the page that shows it."""
    style = (
        f"<style>svg {{ color: #1b1f24; {palette(LIGHT)} }} text {{ fill: currentColor }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ color: #e6e9ed; {palette(DARK)} }} }}</style>"
    )
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    start_tag, rest = chart.split(">", 1)
    return f"{start_tag.replace('<svg', f'<svg {namespaces}')}>{style}{rest}\n"


def _draw_bars(
    axes: Axes, row: Row, labels: Sequence[str], offset: float, width: float, colour: str, hatch: str | None
) -> None:
    """Draws a row's bars with their intervals, each `offset` to the right of the centre of its label."""
    positions, heights, intervals = [], [], []
    for number, label in enumerate(labels):
        if label in row.cells:
            positions.append(number + offset)
            heights.append(row.cells[label].auprc)
            intervals.append(row.cells[label].interval)
    axes.bar(
        positions,
        heights,
        0.92 * width,
        color=colour,
        label=row.name,
        hatch=hatch,
        edgecolor=INK,
        linewidth=0,
    )
    whiskers = np.abs(np.array(intervals).T - np.array(heights))  # (2, n): lengths below and above
    axes.errorbar(positions, heights, whiskers, fmt="none", ecolor=INK, elinewidth=0.8, alpha=0.6)


def _evenly_spaced_points(recall: np.ndarray) -> np.ndarray:
    """The indices of at most CURVE_POINTS points of a curve; recall, (n,), falls from 1 to 0."""
    target_recalls = np.linspace(1, 0, CURVE_POINTS)
    indices = np.searchsorted(-recall, -target_recalls)  # searchsorted needs rising values
    return np.unique(indices.clip(max=len(recall) - 1))


def _draw_histogram(axes: Axes, run: ScoredImages) -> None:
    """Draws density histograms of the scores of normal and of anomalous images, and a line at the threshold."""
    lowest = run.scores.min()
    highest = max(np.percentile(run.scores, 99.5), run.threshold)
    if highest <= lowest:
        highest = lowest + 1
    edges = np.linspace(lowest, highest, HISTOGRAM_EDGES)
    for label, name in enumerate(("normal", "anomalous")):
        scores = run.scores[run.labels == label].clip(max=highest)
        density, _ = np.histogram(scores, edges, density=True)
        axes.stairs(density, edges, fill=True, color=SERIES[label], alpha=0.65, label=name)
    axes.axvline(run.threshold, color=INK, linestyle="--", linewidth=1, label="threshold")


def _add_legend(figure: Figure) -> None:
    """Adds a legend above the chart, in as many columns as fit next to each other."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    inches_per_column = 0.6 + 0.075 * max(len(name) for name in names)
    n_columns = max(1, int(figure.get_figwidth() / inches_per_column))
    figure.legend(handles, names, loc="outside upper center", ncols=min(n_columns, len(names)))


def _as_svg(figure: Figure, title: str, description: str) -> str:
    """The figure as SVG for a page, with the page's colours, unique ids and a text alternative."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)

    prefix = f"chart{next(_chart_numbers)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace(INK, "currentColor")
    for number, placeholder in enumerate(SERIES, 1):
        svg = svg.replace(placeholder, f"var(--series-{number})")

    start_tag, content = svg.split(">", 1)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', start_tag)[0]
    width_in_points = float(width)  # 1 point is 4/3 CSS pixels
    return (
        f'<svg role="img" aria-labelledby="{prefix}title {prefix}description" viewBox="0 0 {width} {height}" '
        f'style="width: {width_in_points * 4 / 3:.0f}px; min-width: {width_in_points * 0.8:.0f}px">'
        f'<title id="{prefix}title">{html.escape(title)}</title>'
        f'<desc id="{prefix}description">{html.escape(description)}</desc>'
        f"{content}"
    )
