"""Pictures of a run: what the detector makes of images, and how well its scores separate them."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.datasets.images import Aspect, read_original, seen, unsquare
from anomaly_toolbox.files import atomic_write

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

HeatmapRange = tuple[float, float]

NORMAL, ANOMALOUS = "#0072b2", "#d55e00"  # told apart by colour-blind readers too


def grid(images: np.ndarray, reconstructions: np.ndarray, maps: np.ndarray, heatmap_range: HeatmapRange) -> np.ndarray:
    """One column an image: the image, its reconstruction, their absolute difference, and the image with `heat`.

    (n, size, size, channels) in [-1, 1], twice, and anomaly maps (n, size, size) -> (4 size, n size, 3) in [0, 1].
    Channels that are neither grey nor RGB are averaged.
    """
    residuals = np.abs(images - reconstructions)
    rows = [_rgb((images + 1) / 2), _rgb((reconstructions + 1) / 2), _rgb(residuals / 2)]
    rows.append(overlay_heatmap(rows[0], maps, heatmap_range))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def overlay_heatmap(images: np.ndarray, maps: np.ndarray, heatmap_range: HeatmapRange) -> np.ndarray:
    """Draws anomaly maps over images as heatmaps.

    The colour is transparent up to the lower end of `heatmap_range` and becomes full yellow at the upper end. Its
    opacity rises with the square root, so that it can be seen on dark images too.

    Args:
        images: (..., height, width, 3) in [0, 1].
        maps: (..., height, width).
        heatmap_range: see `heatmap_range_of`.

    Returns:
        Images of the same shape and range.
    """
    low, high = heatmap_range
    strength = np.clip((maps - low) / max(high - low, np.finfo(np.float32).tiny), 0.0, 1.0)[..., np.newaxis]
    glow = matplotlib.colormaps["autumn"](strength[..., 0])[..., :3]
    cover = np.sqrt(strength)
    return np.clip(images * (1 - cover) + glow * cover, 0.0, 1.0)  # sums may be just above 1


def dimmed(image: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """An image, (height, width, 3), dark where a detector did not see it, as `is_seen`, (height, width), says."""
    return np.where(is_seen[..., np.newaxis], image, image / 4)


def on_original(
    path: Path, anomaly_map: np.ndarray, aspect: Aspect, white_level: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """An image file as people look at it, dark where the detector did not see it, and its anomaly map in that shape.

    (size, size) -> (height, width, 3) in [0, 1] and (height, width); see `Reading` for the rest. Raises BadImage.
    """
    original = read_original(path, white_level)
    shape = original.shape[:2]
    is_seen, _ = seen(shape, len(anomaly_map), aspect)
    return dimmed(original, is_seen), unsquare(anomaly_map, shape, aspect)


def heatmap_range_of(maps: np.ndarray) -> HeatmapRange:
    """The range for `heat`, from the maps of normal images: a twentieth of their pixels glows, hardly one is yellow."""
    low, high = np.quantile(maps, [0.95, 0.999])
    return float(low), float(1.25 * high)


def _rgb(images: np.ndarray) -> np.ndarray:
    grey = images if images.shape[-1] == 3 else images.mean(axis=-1, keepdims=True)
    return np.clip(np.broadcast_to(grey, (*grey.shape[:-1], 3)), 0.0, 1.0)


@matplotlib.rc_context(STYLE)
def save_reconstructions(
    path: Path,
    images: np.ndarray,
    reconstructions: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    heatmap_range: HeatmapRange,
) -> None:
    """`grid` with a caption for each image; neighbours with the same one share it."""
    figure = Figure(figsize=(max(4, 0.8 * len(images) + 1.1), 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid(images, reconstructions, maps, heatmap_range))
    size = images.shape[1]
    axes.set_yticks([size * (row + 0.5) for row in range(4)], ["image", "reconstruction", "residual", "where"])
    for row in (1, 2, 3):
        axes.axhline(size * row - 0.5, color="white", linewidth=2)
    for column in range(1, len(images)):
        axes.axvline(size * column - 0.5, color="white", linewidth=1)
    middles, end = [], 0
    groups = [(caption, len(list(same))) for caption, same in itertools.groupby(captions)]
    for _, count in groups:
        if end:
            axes.axvline(size * end - 0.5, color="white", linewidth=5)
        middles.append(size * (end + count / 2))
        end += count
    axes.set_xticks(middles, [caption for caption, _ in groups])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


class Located(NamedTuple):
    """An image for `save_where`.

    Attributes:
        caption: what stands above it.
        image: (height, width, 3) in [0, 1].
        map: its anomaly map, (height, width).
        mask: where the defect is, (height, width), bool, or None where that is not known.
    """

    caption: str
    image: np.ndarray
    map: np.ndarray
    mask: np.ndarray | None


@matplotlib.rc_context(STYLE)
def save_where(path: Path, found: Sequence[Located], heatmap_range: HeatmapRange) -> None:
    """Each image above itself with `heat`, a line around its defect if that is known."""
    tallest = max(one.image.shape[0] / one.image.shape[1] for one in found)
    figure = Figure(figsize=(1.7 * len(found), 3.4 * min(tallest, 2) + 0.5), layout="constrained")
    for axes, one in zip(figure.subplots(2, len(found), squeeze=False).T, found, strict=True):
        axes[0].set_title(one.caption, fontsize=7)
        axes[0].imshow(one.image)
        axes[1].imshow(overlay_heatmap(one.image, one.map, heatmap_range))
        if one.mask is not None and one.mask.any():
            axes[1].contour(one.mask, [0.5], colors="cyan", linewidths=1)
        for each in axes:
            each.set_axis_off()
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def save_precision_recall(path: Path, labels: np.ndarray, scores: np.ndarray, auprc: float) -> None:
    """The precision-recall curve, with the prevalence that a guess would reach."""
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.add_subplot()
    precision, recall, _ = precision_recall_curve(labels, scores)
    axes.step(recall, precision, where="post", color=ANOMALOUS, label=f"AUPRC {auprc:.3f}")
    prevalence = labels.mean()
    axes.axhline(prevalence, color="gray", linestyle="--", linewidth=1, label=f"a guess: prevalence {prevalence:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="best", frameon=False)
    _save(figure, path)


@matplotlib.rc_context(STYLE)
def save_histogram(path: Path, labels: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    """Scores of normal and of anomalous images, and the threshold between them."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bins = np.histogram_bin_edges(scores, 60)
    for kind, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        if not (labels == kind).any():
            continue
        axes.hist(scores[labels == kind], bins, density=True, alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold (from validation)")
    axes.set(xlabel="anomaly score", ylabel="density of each kind")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a file's name in a script that the font lacks
        figure.savefig(temporary, dpi=130)
