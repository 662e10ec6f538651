"""SVG whose colours follow the page's light or dark theme.

matplotlib draws with placeholder colours. They are replaced by `currentColor` and by the page's CSS variables
`--series-1`, `--series-2`, ...
"""

import html
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

#: Placeholders for the colour of text and lines, and for --series-1 to --series-8.
INK = "#010203"
SERIES = [f"#0a0b{number:02x}" for number in range(1, 9)]
#: The colours of the series in both themes.
LIGHT = ("#0072b2", "#d55e00", "#008f66", "#b0508a", "#9a7d0a", "#3a9fd8", "#7a7f87", "#8a5a2b")
DARK = ("#4fa9e0", "#f08a3c", "#2fc596", "#dc8dbb", "#d8bd45", "#86ccf2", "#a5abb3", "#c9996a")
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


def as_svg(figure: Figure, title: str, description: str) -> str:
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
