"""P-values, and thresholds that keep a promise about false alarms; NumPy only.

A false alarm is a normal image that is called anomalous. The scores of the n normal validation images tell how often
that will happen. If a new normal image is like them, each of the n + 1 images is equally likely to have the highest
score, the second highest, and so on. The p-value of the new image,

    (1 + number of normal validation scores at or above its score) / (n + 1),

is therefore at most `rate` with a probability of at most `rate`, whatever the distribution of the scores. This holds on
average over the choice of the validation images: with those of a single run, the share of false alarms can be somewhat
higher or lower.

Scores are compared as float32, the numbers that detectors give and that `scores.csv` restores.
"""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anomaly_toolbox.errors import InputError

RATES = (0.001, 0.01, 0.05)  # the false-alarm rates in `results.json`


def of_normal_images(labels: np.ndarray, scores: ArrayLike) -> np.ndarray:
    """The scores of the normal images, without those that are not finite; float32.

    Args:
        labels: (n,), 0 for normal and 1 for anomalous images.
        scores: (n,).
    """
    normal_scores = np.asarray(scores, np.float32)[np.asarray(labels) == 0]
    return normal_scores[np.isfinite(normal_scores)]


def p_values(normal_scores: np.ndarray, scores: ArrayLike) -> np.ndarray:
    """How often a normal image has a score at least as high: (1 + #{normal scores >= s}) / (n + 1).

    Args:
        normal_scores: (n,), finite scores of normal validation images.
        scores: of any shape.

    Returns:
        An array of the same shape, float64, from 1 / (n + 1) to 1. It is 1 for a score that is not a number.
    """
    # Scores are negated so that NaN, which `searchsorted` places after every number, gets the p-value 1.
    negated = np.sort(-np.asarray(normal_scores, np.float32))
    n_at_or_above = np.searchsorted(negated, -np.asarray(scores, np.float32), side="right")
    return (1 + n_at_or_above) / (len(negated) + 1)


def threshold_for(normal_scores: np.ndarray, rate: float) -> float:
    """The lowest threshold that keeps the promise for this false-alarm rate.

    `score >= threshold` is the same decision as `p_value <= rate`.

    Args:
        normal_scores: (n,), finite scores of normal validation images.
        rate: the false-alarm rate, between 0 and 1.

    Returns:
        A number just above one of the normal scores, at or below the next float32.

    Raises:
        InputError: the rate is not between 0 and 1, or takes more normal images than there are.
    """
    n, needed = len(normal_scores), n_needed(rate)
    if n < needed:
        lowest = math.ceil(10_000 / (n + 1)) / 10_000  # rounded up, so that it is possible as it is printed
        raise InputError(
            f"false-alarm rate {rate:g}: takes {needed:,} normal validation images, and the run has {n:,}; ask for at "
            f"least {lowest:g}, or train again with more validation images"
        )
    # Counting the p-values that are low enough is exact; floor(rate * (n + 1)) is 28 for a rate of 0.29 and n = 99.
    possible_p_values = np.arange(1, n + 1) / (n + 1)
    n_low_enough = np.count_nonzero(possible_p_values <= rate)
    highest_without_alarm = np.sort(np.asarray(normal_scores, np.float32))[-n_low_enough]
    threshold = float(np.nextafter(highest_without_alarm, np.float32(np.inf)))
    return min(threshold, float(f"{threshold:.9g}"))  # a score that is printed with nine digits still reaches it


def n_needed(rate: float) -> int:
    """The number of normal validation images that a false-alarm rate takes: the lowest n with 1 / (n + 1) <= rate.

    Raises:
        InputError: the rate is not between 0 and 1.
    """
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 < rate < 1:
        shown = f"{rate:g}" if isinstance(rate, float) else repr(rate)
        raise InputError(f"false-alarm rate {shown}: expected a number between 0 and 1, such as 0.01")
    n = math.floor(1 / rate) - 1
    return n if 1 / (n + 1) <= rate else n + 1


def at_each_rate(normal_scores: np.ndarray, labels: np.ndarray, scores: ArrayLike) -> dict[str, dict[str, Any] | None]:
    """What the thresholds for the rates in `RATES` do to test images.

    Args:
        normal_scores: (n,), finite scores of normal validation images.
        labels: (m,), 0 for normal and 1 for anomalous test images.
        scores: (m,), of the test images.

    Returns:
        For each rate, as text: the `threshold`; the `detection_rate`, the share of anomalous images at or above it; and
        the `false_alarm_rate`, the share of normal images at or above it. A share of no images is None. A rate that
        takes more normal validation images than there are has None instead of all three.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float32)
    outcomes: dict[str, dict[str, Any] | None] = {}
    for rate in RATES:
        if len(normal_scores) < n_needed(rate):
            outcomes[str(rate)] = None
            continue
        threshold = threshold_for(normal_scores, rate)
        is_alarm = scores >= threshold
        outcomes[str(rate)] = {
            "threshold": threshold,
            "detection_rate": _share(is_alarm[labels == 1]),
            "false_alarm_rate": _share(is_alarm[labels == 0]),
        }
    return outcomes


def _share(is_alarm: np.ndarray) -> float | None:
    return float(is_alarm.mean()) if is_alarm.size else None
