"""Metrics of scores and anomaly maps, thresholds and calibration, with NumPy, SciPy and scikit-learn only.

Labels are 0 for normal and 1 for anomalous images; higher scores are more anomalous.
"""

from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike
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
LARGEST_FALSE_POSITIVE_RATE = 0.3  # up to which PRO is integrated
REFERENCE_PREVALENCE = 0.357  # that of the test images in the papers of EGBAD and GANomaly, on average over the digits


def metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """How well scores separate normal from anomalous images.

    Args:
        labels: (n,), 0 or 1.
        scores: (n,).
        threshold: images with a score at or above it are called anomalous. For test images, it must have been chosen on
            the validation images.

    Returns:
        `auprc`, the average precision; `auroc`; `f1` at the threshold; the `threshold`; the `prevalence` of anomalies,
        which is the chance level of `auprc`; the counts `n_normal` and `n_anomalous`; and `auprc_at_0.357`, the average
        precision if the prevalence were 0.357, which can be compared between test images of any prevalence. `auprc`,
        `auroc`, `f1` and `auprc_at_0.357` are None unless there are both normal and anomalous images.

    Raises:
        ValueError: the shapes do not match.
        ToolboxError: a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    n_normal, n_anomalous = int((labels == 0).sum()), int((labels == 1).sum())
    has_both = 0 < labels.sum() < len(labels)
    return {
        "auprc": float(average_precision_score(labels, scores)) if has_both else None,
        "auroc": float(roc_auc_score(labels, scores)) if has_both else None,
        "f1": float(f1_score(labels, scores >= threshold, zero_division=0.0)) if has_both else None,
        "threshold": float(threshold),
        "prevalence": float(labels.mean()),
        "n_normal": n_normal,
        "n_anomalous": n_anomalous,
        f"auprc_at_{REFERENCE_PREVALENCE}": _auprc_at(REFERENCE_PREVALENCE, labels, scores) if has_both else None,
    }


def auprc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The AUPRC alone, which takes a fraction of the time of `metrics`, where there are normal and anomalous images.

    Raises:
        ValueError: the shapes do not match.
        ToolboxError: a score is not finite.
    """
    return float(average_precision_score(*_checked(labels, scores)))


def pixel_metrics(masks: np.ndarray, maps: np.ndarray, padding: np.ndarray | None = None) -> dict[str, float]:
    """How well anomaly maps locate the defects.

    Args:
        masks: (n, height, width), bool, True at the pixels of defects; there must be both defects and other pixels.
        maps: (n, height, width), the anomaly maps.
        padding: (n, height, width), bool, True at pixels that are not part of an image; they are left out.

    Returns:
        `pixel_auroc` and `pixel_auprc` over all pixels; `pixel_prevalence`, the share of defect pixels, which is the
        chance level of `pixel_auprc`; and `pro`, the area under the per-region overlap as a function of the false
        positive rate of pixels up to 0.3, divided by 0.3. The overlap is the share of each connected region of a mask
        that is found, averaged over all regions. The chance level of `pro` is 0.15.
    """
    is_counted = np.ones(masks.shape, bool) if padding is None else ~padding
    is_defect = masks[is_counted]
    values = maps[is_counted].astype(np.float64)
    weights = _region_weights(masks)[is_counted]
    false_positive_rates, overlaps, _ = roc_curve(is_defect, values, sample_weight=weights)
    return {
        "pixel_auroc": float(roc_auc_score(is_defect, values)),
        "pixel_auprc": float(average_precision_score(is_defect, values)),
        "pixel_prevalence": float(is_defect.mean()),
        "pro": _normalised_area(false_positive_rates, overlaps, LARGEST_FALSE_POSITIVE_RATE),
    }


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the highest F1 where scores at or above it are called anomalous.

    Without anomalous images, it is the highest score of a normal image.

    Raises:
        ValueError: the shapes do not match.
        ToolboxError: a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    if not labels.any():
        return _round_down(scores.max())
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point, with recall 0, has no threshold
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return _round_down(thresholds[np.argmax(f1)])


def auprc_interval(labels: np.ndarray, scores: np.ndarray, resamples: int = BOOTSTRAP_RESAMPLES) -> list[float] | None:
    """The 95% bootstrap interval of the AUPRC.

    Normal and anomalous images are resampled separately, so every resample has the same prevalence. The interval covers
    the choice of the test images, not the randomness of training. The random seed is fixed.

    The resamples are counted by rank, because sorting and checking each one anew in `average_precision_score` takes far
    longer; the tests compare both.

    Returns:
        [low, high], or None unless there are both normal and anomalous images.
    """
    labels, scores = _checked(labels, scores)
    distinct_scores, ranks = np.unique(-scores, return_inverse=True)  # rank 0 is the highest score
    normal_ranks, anomalous_ranks = ranks[labels == 0], ranks[labels == 1]
    if not len(normal_ranks) or not len(anomalous_ranks):
        return None
    generator = np.random.default_rng(0)
    auprcs = []
    for _ in range(resamples):
        resampled_normal = generator.choice(normal_ranks, len(normal_ranks))
        resampled_anomalous = generator.choice(anomalous_ranks, len(anomalous_ranks))
        n_normal = np.bincount(resampled_normal, minlength=len(distinct_scores))
        n_anomalous = np.bincount(resampled_anomalous, minlength=len(distinct_scores))
        auprcs.append(_average_precision(n_normal, n_anomalous))
    low, high = np.percentile(auprcs, [2.5, 97.5])
    return [float(low), float(high)]


def _auprc_at(prevalence: float, labels: np.ndarray, scores: np.ndarray) -> float:
    """The average precision with weights by which the anomalous images have this prevalence."""
    own_prevalence = labels.mean()
    weight_of_anomalous = prevalence * (1 - own_prevalence) / (own_prevalence * (1 - prevalence))
    weights = np.where(labels == 1, weight_of_anomalous, 1.0)
    return float(average_precision_score(labels, scores, sample_weight=weights))


def _average_precision(n_normal: np.ndarray, n_anomalous: np.ndarray) -> float:
    """Average precision of images that are counted by the rank of their score; both counts are (ranks,)."""
    is_present = n_normal + n_anomalous > 0
    true_positives = np.cumsum(n_anomalous[is_present])
    false_positives = np.cumsum(n_normal[is_present])
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / true_positives[-1]
    # Summed from the lowest rank to the highest, as scikit-learn does it, so that not even a digit differs.
    recall_steps = np.diff(np.append(recall[::-1], 0.0))
    return max(0.0, float(-np.sum(recall_steps * precision[::-1])))


def rescale(scores: ArrayLike, low: float, high: float) -> np.ndarray:
    """Calibrated scores by (13): (s - min S) / (max S - min S), clipped to [0, 1].

    The survey prints `+ min S` in the numerator, which is a misprint.

    Args:
        scores: of any shape.
        low, high: min S and max S, the range of the validation scores.

    Returns:
        An array of the same shape.
    """
    scale = max(high - low, np.finfo(float).tiny)
    return np.clip((np.asarray(scores) - low) / scale, 0.0, 1.0)


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """Weights by which every connected region of a mask counts alike, however large: 1 / size inside, 1 elsewhere."""
    weights = np.ones(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        region_numbers, _ = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        region_sizes = np.bincount(region_numbers.ravel())
        weight[mask] = 1 / region_sizes[region_numbers[mask]]
    return weights


def _normalised_area(x: np.ndarray, y: np.ndarray, end: float) -> float:
    """The area under a curve that starts at x = 0, from there to `end`, divided by `end`."""
    n_inside = np.count_nonzero(x < end)
    x_inside = [*x[:n_inside], end]
    y_inside = [*y[:n_inside], np.interp(end, x, y)]
    return float(auc(x_inside, y_inside) / end)


def _round_down(threshold: float) -> float:
    """The threshold, or slightly less: the score that set it still reaches it when printed with nine digits."""
    return min(float(threshold), float(f"{threshold:.9g}"))


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the scores as arrays, the scores in float64."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(f"expected one score for each label, received shapes {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ToolboxError(f"{DIVERGED}: the detector gave scores that are not finite; {REMEDY}")
    return labels, scores
