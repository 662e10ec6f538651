"""The charts of a report, as SVG that takes its colours from the page: light or dark, as the reader has it.

matplotlib draws with stand-in colours, which become `currentColor` and the page's `--series-1`, `--series-2`, ...
"""

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.report.comparison import Row

INK = "#010203"
SERIES = [f"#0a0b{number:02x}" for number in range(1, 9)]  # stand-ins for --series-1 to --series-8
LIGHT = ("#0072b2", "#d55e00", "#008f66", "#b0508a", "#9a7d0a", "#3a9fd8", "#7a7f87", "#8a5a2b")
DARK = ("#4fa9e0", "#f08a3c", "#2fc596", "#dc8dbb", "#d8bd45", "#86ccf2", "#a5abb3", "#c9996a")
CURVE_POINTS = 200
STYLE = {
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
_numbers = itertools.count(1)


def bars(rows: Sequence[Row], labels: Sequence[str], colours: Mapping[str, str], title: str) -> str:
    """AUPRC as a group of bars for each label, a bar for each row, with the prevalence as a line through each group."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 1.5 + 0.22 * len(labels) * (len(rows) + 1)), 3.6), layout="constrained")
        axes = figure.add_subplot()
        width = 0.84 / len(rows)
        drawn = set()
        for place, row in enumerate(rows):
            known = [(x, row.cells[label]) for x, label in enumerate(labels) if label in row.cells]
            x = [x + (place - (len(rows) - 1) / 2) * width for x, _ in known]
            heights = np.array([cell.auprc for _, cell in known])
            ends = np.array([cell.interval for _, cell in known])
            whiskers = np.abs(ends - heights[:, None]).T
            hatch = "///" if row.method in drawn else None  # another score of a method that is there already
            drawn.add(row.method)
            axes.bar(
                x,
                heights,
                width * 0.92,
                color=colours[row.method],
                label=row.name,
                hatch=hatch,
                edgecolor=INK,
                linewidth=0,
            )
            axes.errorbar(x, heights, whiskers, fmt="none", ecolor=INK, elinewidth=0.8, alpha=0.6)
        for x, label in enumerate(labels):
            prevalence = next(row.cells[label].prevalence for row in rows if label in row.cells)
            guess = "a guess: the prevalence" if x == 0 else None
            axes.plot([x - 0.48, x + 0.48], [prevalence] * 2, color=INK, linestyle="--", linewidth=1, label=guess)
        axes.set_xticks(range(len(labels)), labels)
        axes.set(xlabel="anomalous label", ylabel="AUPRC", ylim=(0, 1))
        _legend(figure)
    figures = "; ".join(
        f"{row.name}: " + ", ".join(f"{label} {cell.auprc:.2f}" for label, cell in row.cells.items()) for row in rows
    )
    return _svg(figure, title, f"AUPRC by anomalous label. {figures}.")


def curves(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], colours: Mapping[str, str], title: str, description: str
) -> str:
    """Precision-recall curves on one axis: labels (n,) and scores (n,) by name, and the colours by name."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for name, (labels, values) in scores.items():
            precision, recall, _ = precision_recall_curve(labels, values)  # recall falls from 1 to 0
            shown = np.unique(np.searchsorted(-recall, -np.linspace(1, 0, CURVE_POINTS)).clip(0, len(recall) - 1))
            axes.plot(recall[shown], precision[shown], color=colours[name], label=name, linewidth=1.5)
        axes.axhline(labels.mean(), color=INK, linestyle="--", linewidth=1, label="a guess: the prevalence")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        _legend(figure)
    return _svg(figure, title, description)


def histograms(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], thresholds: Mapping[str, float], title: str) -> str:
    """Scores of normal and of anomalous images, a panel for each name, up to the 99.5th percentile."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2, 2.6 * len(scores) + 0.4), 2.7), layout="constrained")
        panels = figure.subplots(1, len(scores), squeeze=False)[0]
        for axes, (name, (labels, values)) in zip(panels, scores.items(), strict=True):
            _histogram(axes, labels, values, thresholds[name])
            axes.set(title=name, xlabel="score", yticks=[])
        handles, captions = panels[0].get_legend_handles_labels()
        figure.legend(handles, captions, loc="outside lower center", ncols=3)
    return _svg(figure, title, f"Histograms of the scores of {', '.join(scores)}, normal beside anomalous images.")


def palette(colours: Sequence[str]) -> str:
    """CSS that gives `--series-1`, `--series-2`, ... these colours."""
    return " ".join(f"--series-{number}: {colour};" for number, colour in enumerate(colours, 1))


def alone(chart: str) -> str:
    """A chart as a file of its own, light or dark like the page it is shown on."""
    style = (
        f"<style>svg {{ color: #1b1f24; {palette(LIGHT)} }} text {{ fill: currentColor }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ color: #e6e9ed; {palette(DARK)} }} }}</style>"
    )
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    start, rest = chart.split(">", 1)
    return f"{start.replace('<svg', f'<svg {spaces}')}>{style}{rest}\n"


def _legend(figure: Figure) -> None:
    """Above the chart, in as many columns as fit beside each other."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    inches = 0.6 + 0.075 * max(map(len, names))
    ncols = max(1, int(figure.get_figwidth() / inches))
    figure.legend(handles, names, loc="outside upper center", ncols=min(ncols, len(names)))


def _histogram(axes: Axes, labels: np.ndarray, values: np.ndarray, threshold: float) -> None:
    end = max(np.percentile(values, 99.5), threshold)
    bins = np.linspace(values.min(), end if end > values.min() else values.min() + 1, 40)
    for kind, name, colour in ((0, "normal", SERIES[0]), (1, "anomalous", SERIES[1])):
        density, _ = np.histogram(values[labels == kind].clip(max=bins[-1]), bins, density=True)
        axes.stairs(density, bins, fill=True, color=colour, alpha=0.65, label=name)
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1, label="threshold")


def _svg(figure: Figure, title: str, description: str) -> str:
    """Inline SVG with the page's colours, identifiers of its own, and a text alternative."""
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = f"chart{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = text.replace(INK, "currentColor")
    for number, stand_in in enumerate(SERIES, 1):
        text = text.replace(stand_in, f"var(--series-{number})")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()
    named = f'role="img" aria-labelledby="{prefix}title {prefix}description"'
    size = f"width: {float(width) * 4 / 3:.0f}px; min-width: {float(width) * 0.8:.0f}px"  # from points
    start = f'<svg {named} viewBox="0 0 {width} {height}" style="{size}">'
    start += f'<title id="{prefix}title">{html.escape(title)}</title>'
    start += f'<desc id="{prefix}description">{html.escape(description)}</desc>'
    return start + text[text.index(">") + 1 :]
