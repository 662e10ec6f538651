"""Pictures of a run: what the detector makes of images, and how well its scores separate them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from anomaly_toolbox.files import whole

matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

NORMAL, ANOMALOUS = "#0072b2", "#d55e00"  # told apart by colour-blind readers too


def triples(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """One column an image: the image, its reconstruction, their absolute difference.

    (n, size, size, channels) in [-1, 1], twice -> (3 size, n size, 1 or 3) in [0, 1]. Channels that are neither grey
    nor RGB are averaged.
    """
    rows = [(images + 1) / 2, (reconstructions + 1) / 2, np.abs(images - reconstructions) / 2]
    grid = np.clip(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]), 0.0, 1.0)
    return grid if grid.shape[-1] in (1, 3) else grid.mean(axis=-1, keepdims=True)


def save_reconstructions(path: Path, images: np.ndarray, reconstructions: np.ndarray, captions: Sequence[str]) -> None:
    """`triples` with a caption for each image; neighbours with the same one share it."""
    grid = triples(images, reconstructions)
    figure = Figure(figsize=(max(4, 0.8 * len(images) + 1.1), 2.7), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=1)
    size = grid.shape[0] / 3
    axes.set_yticks([size * (row + 0.5) for row in range(3)], ["image", "reconstruction", "residual"])
    for row in (1, 2):
        axes.axhline(size * row - 0.5, color="white", linewidth=2)
    middles, end = [], 0
    groups = [(caption, len(list(same))) for caption, same in itertools.groupby(captions)]
    for _, count in groups:
        if end:
            axes.axvline(size * end - 0.5, color="white", linewidth=2)
        middles.append(size * (end + count / 2))
        end += count
    axes.set_xticks(middles, [caption for caption, _ in groups])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


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


def save_histogram(path: Path, labels: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    """Scores of normal and of anomalous images, and the threshold between them."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bins = np.histogram_bin_edges(scores, 60)
    for kind, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        axes.hist(scores[labels == kind], bins, density=True, alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold (from validation)")
    axes.set(xlabel="anomaly score", ylabel="density of each kind")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as beside:
        figure.savefig(beside, dpi=130)
