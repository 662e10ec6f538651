"""How the scores of several detectors become one score; NumPy only.

The scores s of different detectors have different units. On the normal validation images, each detector has a median
and a spread, and its scores are standardised by them:

    u = (log s − median log s) / (1.4826 MAD log s)      MAD: the median absolute deviation

If a normal validation image has a negative score, as with excess scores and `combined`, s itself takes the place of
log s: these scores are computed from logarithms. The ensemble's score `mean` is the mean of u over the members;
`fisher` is the mean of −log p, where p is the p-value of the member's score (`false_alarms.py`); `maximum` is the
highest u. None of them needs anomalous images, and the score of an image depends on no other new image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anomaly_toolbox import false_alarms

MEAN, FISHER, MAXIMUM = "mean", "fisher", "maximum"
DEVIATIONS_PER_MAD = 1.4826  # the standard deviation of a normal distribution in units of its MAD
SMALLEST_SPREAD = float(np.finfo(np.float32).eps)  # less than this is rounding of equal scores
LOWEST_SHARE = 1e-3  # of the median; lower scores count as this share, because log 0 is infinite


class Standardisation(NamedTuple):
    """How the scores of a member are standardised.

    Attributes:
        lowest: lower scores count as this one before their logarithm is taken; None: no logarithm is taken.
        median, spread: of the normal validation images.
    """

    lowest: float | None
    median: float
    spread: float

    def of(self, scores: np.ndarray) -> np.ndarray:
        """u of scores of any shape, float64."""
        values = scores.astype(np.float64)
        if self.lowest is not None:
            values = np.log(np.maximum(values, self.lowest))
        return (values - self.median) / self.spread


def standardisation(normal_scores: np.ndarray) -> Standardisation:
    """The standardisation of a member.

    Args:
        normal_scores: (n,), its scores of the normal validation images.

    Raises:
        ValueError: there are none, or they are all the same, so they have no spread.
    """
    if not len(normal_scores):
        raise ValueError("there are no normal validation images that all members have scored")
    values = normal_scores.astype(np.float64)
    lowest = None
    if values.min() >= 0:
        lowest = max(LOWEST_SHARE * float(np.median(values)), float(np.finfo(np.float32).tiny))
        values = np.log(np.maximum(values, lowest))
    median = float(np.median(values))
    spread = DEVIATIONS_PER_MAD * float(np.median(np.abs(values - median)))
    smallest_spread = SMALLEST_SPREAD * max(1.0, abs(median))
    if spread <= smallest_spread:  # half of the images have the same score
        spread = float(values.std())
    if spread <= smallest_spread:
        raise ValueError("all normal validation images have the same score")
    return Standardisation(lowest, median, spread)


def combine(
    members: Sequence[Standardisation],
    normal_scores: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    is_among_normal: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The scores of an ensemble by name, `mean`, `fisher` and `maximum`, (n,) each, float32.

    Args:
        members: the standardisation of each member.
        normal_scores: each member's scores of the normal validation images, for `fisher`.
        scores: each member's scores of the images, (n,).
        is_among_normal: whether an image is one of the normal validation images, (n,), bool; None: no image is.
    """
    standardised = [member.of(values) for member, values in zip(members, scores, strict=True)]
    logarithms = []
    for normal, values in zip(normal_scores, scores, strict=True):
        p_values = false_alarms.p_values(normal, values)
        if is_among_normal is not None:
            # In (1 + #{normal scores >= s}) / (n + 1), the 1 is the image itself. An image among the normal ones is
            # counted already; counted twice, its score would be too low, and new normal images would exceed it.
            p_values = p_values - is_among_normal / (len(normal) + 1)
        logarithms.append(-np.log(p_values))
    combined = {
        MEAN: np.mean(standardised, axis=0),
        FISHER: np.mean(logarithms, axis=0),
        MAXIMUM: np.max(standardised, axis=0),
    }
    return {name: values.astype(np.float32) for name, values in combined.items()}
