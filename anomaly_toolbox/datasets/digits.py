"""Digits: 1,797 real handwritten digits of 8x8 pixels, shipped with scikit-learn; nothing to download."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from anomaly_toolbox.datasets.labelled import LabelledImages, Split


class Digits(LabelledImages):
    """Labels 0 to 9; 60% of each label is for training, 20% for validation, 20% for testing, always the same.

    There is no official split; this one is stratified and does not depend on the run's seed, so that runs compare.
    """

    def __init__(self):
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # 16 is white
        train, rest = train_test_split(np.arange(len(images)), train_size=0.6, stratify=digits.target, random_state=0)
        validation, test = train_test_split(rest, train_size=0.5, stratify=digits.target[rest], random_state=0)
        super().__init__(*(Split(images[chosen], digits.target[chosen]) for chosen in (train, validation, test)))
