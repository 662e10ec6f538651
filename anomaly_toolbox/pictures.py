"""Pictures: reconstructions, anomaly heatmaps, the precision-recall curve and the histogram of the scores."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.datasets.decoding import ImageFile
from anomaly_toolbox.datasets.geometry import Aspect, unsquare, visible_pixels
from anomaly_toolbox.datasets.images import read_original
from anomaly_toolbox.files import atomic_write

# Style settings are entered around each figure: importing this file must not change those of the user's process.
STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
NORMAL, ANOMALOUS = "#0072b2", "#d55e00"  # blue and orange, which colour-blind readers can distinguish
GRID_ROWS = ("image", "reconstruction", "residual", "heatmap")
SMALLEST_RANGE = float(np.finfo(np.float32).tiny)

HeatmapRange = tuple[float, float]


class LocatedImage(NamedTuple):
    """An image of any shape and its anomaly map, for `save_heatmaps`.

    Attributes:
        caption: the title of the image.
        image: (height, width, 3) in [0, 1].
        anomaly_map: (height, width).
        mask: (height, width), bool, True at the pixels of the defect; None if there is no mask.
    """

    caption: str
    image: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None


def heatmap_range_of(maps: np.ndarray) -> HeatmapRange:
    """The values of anomaly maps at which the colour of a heatmap begins and at which it is yellow.

    Args:
        maps: anomaly maps of normal images, of any shape. In their heatmaps, 5% of the pixels are coloured, and less
            than 0.1% are yellow.

    Returns:
        The 0.95 quantile, and 1.25 times the 0.999 quantile.
    """
    low, high = np.quantile(maps, [0.95, 0.999])
    return float(low), float(1.25 * high)


def overlay_heatmap(images: np.ndarray, maps: np.ndarray, heatmap_range: HeatmapRange) -> np.ndarray:
    """Draws anomaly maps over images as heatmaps, from transparent over red to yellow.

    Args:
        images: (..., height, width, 3) in [0, 1].
        maps: (..., height, width).
        heatmap_range: see `heatmap_range_of`. The colour is transparent up to the lower value and full yellow from the
            upper value on.

    Returns:
        Images of the same shape and range.
    """
    low, high = heatmap_range
    strength = np.clip((maps - low) / max(high - low, SMALLEST_RANGE), 0.0, 1.0)
    colours = matplotlib.colormaps["autumn"](strength)[..., :3]
    opacity = np.sqrt(strength)[..., np.newaxis]  # the square root makes weak colours visible on dark images
    return np.clip(images * (1 - opacity) + colours * opacity, 0.0, 1.0)  # sums may be slightly above 1


def map_on_original(
    file: ImageFile, anomaly_map: np.ndarray, aspect: Aspect, white_level: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image file in its own shape and resizes its anomaly map to that shape.

    Args:
        file: its path or its content.
        anomaly_map: (size, size).
        aspect, white_level: how the file was read for scoring, see `Reading`.

    Returns:
        The image, (height, width, 3) in [0, 1], dark where it was cropped for scoring; and its map, (height, width).

    Raises:
        BadImage: the file cannot be used.
    """
    original = read_original(file, white_level)
    shape = original.shape[:2]
    is_scored, _ = visible_pixels(shape, len(anomaly_map), aspect)
    dimmed = np.where(is_scored[..., np.newaxis], original, original / 4)
    return dimmed, unsquare(anomaly_map, shape, aspect)


def grid(images: np.ndarray, reconstructions: np.ndarray, maps: np.ndarray, heatmap_range: HeatmapRange) -> np.ndarray:
    """A grid with one column for each image; the rows are `GRID_ROWS`.

    Args:
        images, reconstructions: (n, size, size, channels) in [-1, 1]. Unless there are three channels, their mean is
            shown in grey.
        maps: anomaly maps, (n, size, size).
        heatmap_range: see `heatmap_range_of`.

    Returns:
        One image, (4 size, n size, 3) in [0, 1].
    """
    shown_images = _as_rgb((images + 1) / 2)
    shown_reconstructions = _as_rgb((reconstructions + 1) / 2)
    shown_residuals = _as_rgb(np.abs(images - reconstructions) / 2)
    heatmaps = overlay_heatmap(shown_images, maps, heatmap_range)
    rows = [np.hstack(list(row)) for row in (shown_images, shown_reconstructions, shown_residuals, heatmaps)]
    return np.vstack(rows)


@matplotlib.rc_context(STYLE)
def save_reconstructions(
    path: Path,
    images: np.ndarray,
    reconstructions: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    heatmap_range: HeatmapRange,
) -> None:
    """Writes the `grid` of images with a caption for each column; equal captions next to each other become one."""
    n_images, size = images.shape[:2]
    figure = Figure(figsize=(max(4, 0.8 * n_images + 1.1), 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid(images, reconstructions, maps, heatmap_range))
    axes.set_yticks([size * (row + 0.5) for row in range(len(GRID_ROWS))], GRID_ROWS)
    for row in range(1, len(GRID_ROWS)):
        axes.axhline(size * row - 0.5, color="white", linewidth=2)
    for column in range(1, n_images):
        axes.axvline(size * column - 0.5, color="white", linewidth=1)
    group_captions, group_centres, first_column = [], [], 0
    for caption, columns in itertools.groupby(captions):
        n_columns = len(list(columns))
        if first_column > 0:
            axes.axvline(size * first_column - 0.5, color="white", linewidth=5)
        group_captions.append(caption)
        group_centres.append(size * (first_column + n_columns / 2))
        first_column += n_columns
    axes.set_xticks(group_centres, group_captions)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def save_heatmaps(path: Path, located_images: Sequence[LocatedImage], heatmap_range: HeatmapRange) -> None:
    """Writes images side by side, each above its heatmap; a cyan line encloses the defects in its mask."""
    tallest = max(located.image.shape[0] / located.image.shape[1] for located in located_images)
    figure = Figure(figsize=(1.7 * len(located_images), 3.4 * min(tallest, 2) + 0.5), layout="constrained")
    columns = figure.subplots(2, len(located_images), squeeze=False).T
    for (upper, lower), located in zip(columns, located_images, strict=True):
        upper.set_title(located.caption, fontsize=7)
        upper.imshow(located.image)
        lower.imshow(overlay_heatmap(located.image, located.anomaly_map, heatmap_range))
        if located.mask is not None and located.mask.any():
            lower.contour(located.mask, [0.5], colors="cyan", linewidths=1)
        upper.set_axis_off()
        lower.set_axis_off()
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def save_precision_recall(path: Path, labels: np.ndarray, scores: np.ndarray, auprc: float) -> None:
    """Writes the precision-recall curve and its chance level.

    Args:
        path: the picture to write.
        labels: (n,), 0 or 1; both must occur.
        scores: (n,).
        auprc: the area under the curve, for the legend.
    """
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.add_subplot()
    precision, recall, _ = precision_recall_curve(labels, scores)
    axes.step(recall, precision, where="post", color=ANOMALOUS, label=f"AUPRC {auprc:.3f}")
    prevalence = labels.mean()
    chance_label = f"chance level: prevalence {prevalence:.3f}"
    axes.axhline(prevalence, color="gray", linestyle="--", linewidth=1, label=chance_label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="best", frameon=False)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def save_histogram(path: Path, labels: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    """Writes the histograms of the scores of normal and of anomalous images, and the threshold.

    Args:
        path: the picture to write.
        labels: (n,), 0 or 1.
        scores: (n,).
        threshold: a value of the scores.
    """
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bins = np.histogram_bin_edges(scores, 60).tolist()
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        if (labels == label).any():
            axes.hist(scores[labels == label], bins, density=True, alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold (from validation)")
    axes.set(xlabel="anomaly score", ylabel="density of each label")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _as_rgb(images: np.ndarray) -> np.ndarray:
    if images.shape[-1] != 3:
        grey = images.mean(axis=-1, keepdims=True)
        images = np.broadcast_to(grey, (*grey.shape[:-1], 3))
    return np.clip(images, 0.0, 1.0)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font lacks characters of some file names
        figure.savefig(temporary, dpi=130)
