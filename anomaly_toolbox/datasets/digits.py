"""Digits: 1,797 handwritten digits of 8x8 pixels, which are part of scikit-learn; there is nothing to download."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from anomaly_toolbox.datasets.images import WHITE
from anomaly_toolbox.datasets.labelled import Division, LabelledImages, Split

HIGHEST_LEVEL = 16  # the level that is white in scikit-learn's images


class Digits(LabelledImages):
    """Labels 0 to 9, each divided into 60% for training, 20% for validation and 20% for testing.

    There is no official split. This one is stratified and does not depend on the seed of a run, so runs can be
    compared.

    Args:
        split: `official` for this division, `pooled` for that of `pooled_splits`.

    Raises:
        InputError: there is no such division.
    """

    def __init__(self, split: Division = "official"):
        digits = load_digits()
        labels = digits.target
        images = np.round(digits.images * (WHITE / HIGHEST_LEVEL)).astype(np.uint8)[..., np.newaxis]
        train, rest = train_test_split(np.arange(len(images)), train_size=0.6, stratify=labels, random_state=0)
        validation, test = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=0)
        super().__init__(
            Split(images[train], labels[train]),
            Split(images[validation], labels[validation]),
            Split(images[test], labels[test]),
            split,
        )
