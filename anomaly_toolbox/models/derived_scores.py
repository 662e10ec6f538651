"""Excess scores, which correct a score for the complexity of the image, and the combined score.

Residuals and distances grow with how much there is to draw in an image. Plain images therefore have low scores even
where they are anomalous, such as trousers among pullovers. The logarithm of a score A is regressed on two measures of
complexity, on normal training images that the memory banks left out. What the regression does not explain is a score of
its own:

    ink(x) = 1 + Σ |p − g|      p: the values of all pixels and channels, in [0, 1]
                                g: the median of p's channel in normal images
    TV(x)  = 1 + Σ |p − p'|     p': the neighbours of p to the right and below
    A′(x)  = log A(x) − (b₀ + b₁ log ink(x) + b₂ log TV(x))          `<score>_excess`

With g, "ink" is what deviates from the background, whether that is black, white or grey. Outside the range of the
normal images, a complexity counts as the end of that range, because nothing is known beyond it.

The combined score is the mean of the logarithms of several scores and of their excess scores, each of which is
standardised by its median and spread in normal images:

    u(s) = (s − median) / (1.4826 MAD)                                MAD: the median absolute deviation
    combined(x) = mean over scores A of u(log A(x)) and u(A′(x))

It needs no anomalous images, and the score of an image depends on that image alone.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from anomaly_toolbox.models.memory import StoredArrays

COMBINED = "combined"
EXCESS = "_excess"  # the ending of the names of excess scores
MOST_HELD_OUT = 1000
FEWEST_HELD_OUT = 20
FEWEST_IMAGES = 100  # with fewer normal images, there are no derived scores
DEVIATIONS_PER_MAD = 1.4826  # the standard deviation of a normal distribution in units of its MAD
#: Scores below this share of the median count as this share: a duplicate of a training image can have the distance 0.
LOWEST_SHARE = 1e-3
SMALLEST_SINGULAR_VALUE = 1e-3  # a share of the largest; complexities that hardly vary explain nothing


class ScoreStatistics(NamedTuple):
    """What `DerivedScores` stores of one score A.

    Attributes:
        lowest: smaller values of A count as this value.
        intercept, ink_slope, variation_slope: b₀, b₁ and b₂.
        median, spread: median and 1.4826 MAD of log A(x).
        excess_median, excess_spread: the same of A′(x).
    """

    lowest: float
    intercept: float
    ink_slope: float
    variation_slope: float
    median: float
    spread: float
    excess_median: float
    excess_spread: float


class DerivedScores(StoredArrays):
    """Computes the excess of every score, and the combined score.

    Args:
        channels: of the images.
        combined_from: the names of the scores that `combined` combines; those that a detector lacks are left out.
    """

    def __init__(self, channels: int, combined_from: Collection[str]):
        super().__init__()
        self.combined_from = combined_from
        self.set_arrays(grey=np.zeros(channels), complexity_range=np.zeros((2, 2)))

    @property
    def scores(self) -> list[str]:
        """The names of the scores that were fitted; empty before `fit`."""
        return sorted(self.arrays.keys() - {"grey", "complexity_range"})

    @property
    def is_empty(self) -> bool:
        """Whether nothing was fitted or loaded."""
        return not self.scores

    def statistics(self) -> dict[str, ScoreStatistics]:
        """The statistics of each score by its name."""
        return {name: ScoreStatistics(*self.arrays[name].numpy().tolist()) for name in self.scores}

    def set_grey(self, images: np.ndarray) -> None:
        """Sets g to the median of normal images, (n, size, size, channels) in [-1, 1], for each channel."""
        self.set_arrays(grey=(np.median(images, axis=(0, 1, 2)) + 1) / 2)

    def complexity(self, x: tf.Tensor) -> tf.Tensor:
        """log ink and log TV of each image, (batch, size, size, channels) in [-1, 1] -> (batch, 2)."""
        pixels = (x + 1) / 2
        ink = tf.reduce_sum(tf.abs(pixels - self.arrays["grey"]), axis=(1, 2, 3))
        down = tf.reduce_sum(tf.abs(pixels[:, 1:] - pixels[:, :-1]), axis=(1, 2, 3))
        right = tf.reduce_sum(tf.abs(pixels[:, :, 1:] - pixels[:, :, :-1]), axis=(1, 2, 3))
        return tf.math.log(1 + tf.stack([ink, down + right], axis=1))  # ONNX has no log1p

    def fit(self, scores: Mapping[str, np.ndarray], complexities: np.ndarray) -> None:
        """Fits the statistics of each score.

        Args:
            scores: scores of normal images that no memory bank was fitted to, (n,) each, by name.
            complexities: of the same images, (n, 2).
        """
        complexities = complexities.astype(np.float64)
        self.set_arrays(complexity_range=np.stack([complexities.min(axis=0), complexities.max(axis=0)]))
        for name, values in scores.items():
            self.set_arrays(**{name: np.array(fit_statistics(values, complexities))})

    def call(self, scores: Mapping[str, tf.Tensor], complexities: tf.Tensor) -> dict[str, tf.Tensor]:
        """The derived scores, (batch,) each, by name.

        Args:
            scores: (batch,) each, by name; those that were not fitted are left out.
            complexities: (batch, 2).
        """
        lowest, highest = tf.unstack(self.arrays["complexity_range"])
        ink, variation = tf.unstack(tf.clip_by_value(complexities, lowest, highest), axis=1)
        derived, standardised = {}, []
        for name, values in scores.items():
            if name not in self.arrays:
                continue
            fitted = ScoreStatistics(*tf.unstack(self.arrays[name]))
            logarithm = tf.math.log(tf.maximum(values, fitted.lowest))
            excess = logarithm - (fitted.intercept + fitted.ink_slope * ink + fitted.variation_slope * variation)
            derived[name + EXCESS] = excess
            if name in self.combined_from:
                standardised.append((logarithm - fitted.median) / fitted.spread)
                standardised.append((excess - fitted.excess_median) / fitted.excess_spread)
        if standardised:
            derived[COMBINED] = tf.reduce_mean(tf.stack(standardised), axis=0)
        return derived


def fit_statistics(scores: np.ndarray, complexities: np.ndarray) -> ScoreStatistics:
    """The statistics of one score; b₀, b₁ and b₂ minimise Σ (log A − b₀ − b₁ log ink − b₂ log TV)² over the images.

    Args:
        scores: (n,), >= 0.
        complexities: log ink and log TV, (n, 2).
    """
    scores = scores.astype(np.float64)
    lowest = max(LOWEST_SHARE * float(np.median(scores)), float(np.finfo(np.float32).tiny))
    logarithms = np.log(np.maximum(scores, lowest))
    centre = complexities.mean(axis=0)
    slopes, *_ = np.linalg.lstsq(complexities - centre, logarithms - logarithms.mean(), rcond=SMALLEST_SINGULAR_VALUE)
    intercept = logarithms.mean() - centre @ slopes
    excess = logarithms - intercept - complexities @ slopes
    median, spread = _median_and_spread(logarithms)
    excess_median, excess_spread = _median_and_spread(excess)
    return ScoreStatistics(lowest, intercept, slopes[0], slopes[1], median, spread, excess_median, excess_spread)


def n_held_out(n_images: int) -> int:
    """The number of normal images that memory banks leave for fitting derived scores; 0 if there are too few images."""
    return 0 if n_images < FEWEST_IMAGES else min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, n_images // 10))


def is_derived(score: str) -> bool:
    """Whether a score of this name is derived from other scores."""
    return score == COMBINED or score.endswith(EXCESS)


def _median_and_spread(values: np.ndarray) -> tuple[float, float]:
    """The median and 1.4826 MAD; if half of the values are equal, the standard deviation; if all are, infinity.

    An infinite spread leaves a score that is the same for all normal images out of the combined score.
    """
    median = float(np.median(values))
    spread = DEVIATIONS_PER_MAD * float(np.median(np.abs(values - median)))
    if spread <= np.finfo(np.float32).eps * max(1.0, abs(median)):
        spread = float(values.std())
    if spread <= np.finfo(np.float32).eps * max(1.0, abs(median)):
        spread = np.inf
    return median, spread
