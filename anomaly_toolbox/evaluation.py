"""Scores and labels -> figures. NumPy and scikit-learn only; label 1 and a high score mean anomalous."""

from typing import Any

import numpy as np
import scipy.ndimage
from sklearn.metrics import (
    auc,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError

BOOTSTRAP_RESAMPLES = 1000
MOST_FALSE_POSITIVES = 0.3  # of the per-region overlap


def metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """How well `scores` separate the two kinds of images.

    Args:
        labels: (n,), 0 normal and 1 anomalous.
        scores: (n,), finite.
        threshold: scores at or above it are called anomalous; chosen on validation images, never on these if they
            are the test images.

    Returns:
        `auprc` (average precision: the step-wise area under the precision-recall curve), `auroc`, `f1` at
        `threshold`, and the counts with the `prevalence` of anomalies, which is the `auprc` of a guess. Where one
        kind of image is missing, the first three are None.
    """
    labels, scores = _checked(labels, scores)
    both = 0 < labels.sum() < len(labels)
    return {
        "auprc": float(average_precision_score(labels, scores)) if both else None,
        "auroc": float(roc_auc_score(labels, scores)) if both else None,
        "f1": float(f1_score(labels, scores >= threshold, zero_division=0.0)) if both else None,
        "threshold": float(threshold),
        "prevalence": float(labels.mean()),
        "n_normal": int((labels == 0).sum()),
        "n_anomalous": int((labels == 1).sum()),
    }


def pixel_metrics(masks: np.ndarray, maps: np.ndarray, padding: np.ndarray | None = None) -> dict[str, float]:
    """How well anomaly maps show where the defects are.

    Args:
        masks: (n, height, width), bool, where the defects are; some of them, not all.
        maps: (n, height, width), higher being more anomalous.
        padding: (n, height, width), bool, what is no part of the images and does not count.

    Returns:
        `pixel_auroc` and `pixel_auprc` over all pixels, `pixel_prevalence`, which is the `pixel_auprc` of a guess, and
        `pro`: per-region overlap, the share of a connected region of a mask that is found, averaged over regions, as a
        function of the share of normal pixels that are taken for anomalous; the area under that curve up to a share of
        0.3, divided by 0.3. A guess reaches 0.15.
    """
    counts = np.ones(masks.shape, bool) if padding is None else ~padding
    is_defect, values = masks[counts], maps[counts].astype(np.float64)
    weights = np.ones(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        regions, _ = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        weight[mask] = 1 / np.bincount(regions.ravel())[regions[mask]]  # each region counts as one
    false_positives, overlap, _ = roc_curve(is_defect, values, sample_weight=weights[counts])
    n_inside = np.count_nonzero(false_positives < MOST_FALSE_POSITIVES)
    end = np.interp(MOST_FALSE_POSITIVES, false_positives, overlap)
    area = auc([*false_positives[:n_inside], MOST_FALSE_POSITIVES], [*overlap[:n_inside], end])
    return {
        "pixel_auroc": float(roc_auc_score(is_defect, values)),
        "pixel_auprc": float(average_precision_score(is_defect, values)),
        "pixel_prevalence": float(is_defect.mean()),
        "pro": float(area / MOST_FALSE_POSITIVES),
    }


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the highest F1 when scores at or above it are called anomalous.

    Without anomalous images to choose by, it is the highest score of a normal one.
    """
    labels, scores = _checked(labels, scores)
    if not labels.any():
        return _as_printed(scores.max())
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point, recall 0, has no threshold
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return _as_printed(thresholds[np.argmax(f1)])


def _as_printed(threshold: float) -> float:
    """The threshold, or a little less, so that the score that set it still reaches it once printed with nine digits."""
    return min(float(threshold), float(f"{threshold:.9g}"))


def auprc_interval(labels: np.ndarray, scores: np.ndarray, resamples: int = BOOTSTRAP_RESAMPLES) -> list[float] | None:
    """95% bootstrap interval of the average precision, [low, high]; None where one kind of image is missing.

    Normal and anomalous images are drawn anew separately, so that each resample has the same prevalence: it is the
    uncertainty that comes from which images were tested, not from training. The resamples are always the same.
    """
    labels, scores = _checked(labels, scores)
    kinds = [np.flatnonzero(labels == kind) for kind in (0, 1)]
    if not all(map(len, kinds)):
        return None
    generator = np.random.default_rng(0)
    precisions = []
    for _ in range(resamples):
        drawn = np.concatenate([generator.choice(kind, len(kind)) for kind in kinds])
        precisions.append(average_precision_score(labels[drawn], scores[drawn]))
    return [float(end) for end in np.percentile(precisions, [2.5, 97.5])]


def rescale(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """(13): (s - min S) / (max S - min S), cut to [0, 1], for any shape.

    Args:
        scores: what the detector gave.
        low, high: min S and max S, those of the validation scores, so that a score means the same tomorrow. The
            survey prints `+ min S`; that is a misprint.
    """
    return np.clip((np.asarray(scores) - low) / max(high - low, np.finfo(float).tiny), 0.0, 1.0)


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(f"expected one score for each label, received shapes {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ToolboxError(f"{DIVERGED}: the detector gave scores that are not finite; {REMEDY}")
    return labels, scores
