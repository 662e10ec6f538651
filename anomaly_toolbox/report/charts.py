"""The charts of a report, drawn by matplotlib."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.metrics import INTERVALS
from anomaly_toolbox.report.svg import INK, SERIES, STYLE, as_svg

#: The line at the chance level in legends.
CHANCE_LEVELS = {"auprc": "chance level (prevalence)", "auroc": "chance level"}
CURVE_POINTS = 200
HISTOGRAM_EDGES = 40
TITLE_WIDTH = 26  # characters of a line in the title of a histogram; names of ensembles are long
LEGEND_WIDTH = 56  # characters of a line in a legend
MOST_LINES_IN_PLACE = 4  # of a legend that needs no taller figure
INCHES_PER_LEGEND_LINE = 0.2
GROUP_WIDTH = 0.84  # width of all bars of a label together, where 1 is the distance between two labels


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
    """A bar chart of AUPRC or AUROC: a group of bars for each label, crossed by a line at the chance level.

    Args:
        matrix: AUPRC or AUROC, with at least one row.
        colours: one of SERIES for each method.
        title: the title of the SVG, for screen readers.
    """
    metric_name = matrix.metric.upper()
    n_labels, n_rows = len(matrix.labels), len(matrix.rows)
    inches = 1.5 + 0.22 * n_labels * (n_rows + 1)
    drawn_methods = set()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, inches), 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, row in enumerate(matrix.rows):
            hatch = "///" if row.method in drawn_methods else None  # another score of the same method
            drawn_methods.add(row.method)
            _draw_bars(axes, matrix, number, GROUP_WIDTH / n_rows, colours[row.method], hatch)
        legend_label: str | None = CHANCE_LEVELS[matrix.metric]
        for position, chance_level in enumerate(matrix.chance_levels):
            if chance_level is not None:
                ends = [position - 0.48, position + 0.48]
                axes.plot(
                    ends, [chance_level, chance_level], color=INK, linestyle="--", linewidth=1, label=legend_label
                )
                legend_label = None  # one entry in the legend is enough
        axes.set_xticks(range(n_labels), matrix.labels)
        axes.set(xlabel="label", ylabel=metric_name, ylim=(0, 1))
        _add_legend(figure)
    descriptions = []
    for row, row_values in zip(matrix.rows, matrix.values, strict=True):
        values = zip(matrix.labels, row_values, strict=True)
        texts = [f"{label} {value:.2f}" for label, value in values if value is not None]
        descriptions.append(f"{row.name}: {', '.join(texts)}")
    return as_svg(figure, title, f"{metric_name} by label. {'; '.join(descriptions)}.")


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
        axes.axhline(prevalence, color=INK, linestyle="--", linewidth=1, label=CHANCE_LEVELS["auprc"])
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        _add_legend(figure)
    return as_svg(figure, title, description)


def histograms(runs: Sequence[ScoredImages], title: str) -> str:
    """Histograms of the scores of normal and of anomalous images, a panel for each run.

    The panels end at the 99.5th percentile of the scores, or at the threshold if it is higher.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 2.6 * len(runs) + 0.4), 2.7), layout="constrained")
        panels = figure.subplots(1, len(runs), squeeze=False)[0]
        for axes, run in zip(panels, runs, strict=True):
            _draw_histogram(axes, run)
            axes.set(title=textwrap.fill(run.name, TITLE_WIDTH), xlabel="score", yticks=[])
        handles, captions = panels[0].get_legend_handles_labels()
        figure.legend(handles, captions, loc="outside lower center", ncols=3)
    names = ", ".join(run.name for run in runs)
    return as_svg(figure, title, f"Histograms of the scores of normal and of anomalous images: {names}.")


def _draw_bars(axes: Axes, matrix: Matrix, number: int, width: float, colour: str, hatch: str | None) -> None:
    """Draws the bars of the row with this number, with their intervals, next to those of the other rows."""
    row = matrix.rows[number]
    offset = (number - (len(matrix.rows) - 1) / 2) * width  # to the right of the centre of a label
    positions, heights, whiskers = [], [], []
    for position, (label, height) in enumerate(zip(matrix.labels, matrix.values[number], strict=True)):
        if height is not None:
            low, high = INTERVALS[matrix.metric](row.cells[label]) or (height, height)
            positions.append(position + offset)
            heights.append(height)
            whiskers.append((height - low, high - height))
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
    axes.errorbar(positions, heights, np.abs(whiskers).T, fmt="none", ecolor=INK, elinewidth=0.8, alpha=0.6)


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
    """Adds a legend above the chart, in as many columns as fit next to each other; the figure grows with it."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    names = [textwrap.fill(name, LEGEND_WIDTH) for name in names]
    inches_per_column = 0.6 + 0.075 * max(len(line) for name in names for line in name.splitlines())
    n_columns = min(max(1, int(figure.get_figwidth() / inches_per_column)), len(names))
    n_lines = sum(len(name.splitlines()) for name in names) / n_columns
    figure.set_figheight(figure.get_figheight() + INCHES_PER_LEGEND_LINE * max(0.0, n_lines - MOST_LINES_IN_PLACE))
    figure.legend(handles, names, loc="outside upper center", ncols=n_columns)
