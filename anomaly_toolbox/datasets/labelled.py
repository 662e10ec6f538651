"""Datasets of small labelled images in memory, with one label that counts as anomalous."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError


class Split(NamedTuple):
    """The images of a split, (n, height, width, channels), uint8, and their labels, (n,)."""

    images: np.ndarray
    labels: np.ndarray


class ImagesInMemory(AnomalyDetectionDataset):
    """A dataset that holds the images of each split in one array."""

    def fill(self, splits: dict[str, Split], **options: Any) -> None:
        """Makes the nine datasets.

        Args:
            splits: the splits by name; labels are 0 (or False) for normal and 1 (or True) for anomalous images.
            options: arguments of `pipeline`.
        """
        for name, split in splits.items():
            is_training = name == "train"
            self.set_split(
                name,
                normal=self.pipeline(_pairs(split, split.labels == 0), is_training=is_training, **options),
                anomalous=self.pipeline(_pairs(split, split.labels == 1), is_training=is_training, **options),
                all=self.pipeline(_pairs(split, np.isin(split.labels, (0, 1))), is_training=is_training, **options),
            )


class LabelledImages(ImagesInMemory):
    """A dataset with class labels; the images with one label are anomalous, all others are normal.

    Args:
        train, validation, test: the three splits; no image may be in two of them.
    """

    default_anomalous_label = 2

    def __init__(self, train: Split, validation: Split, test: Split):
        super().__init__()
        self._raw = {"train": train, "validation": validation, "test": test}
        self._channels = train.images.shape[-1]

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`.

        Raises:
            InputError: no training image has the anomalous label, or a class label is given.
        """
        name = type(self).__name__
        if class_label is not None:
            raise InputError(f"class_label: {name} has labels, not classes; use anomalous_label instead")
        labels = np.unique(self._raw["train"].labels).tolist()
        if anomalous_label not in labels:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} is not a label of {name}; it has {', '.join(map(str, labels))}"
            )
        splits = {split: Split(raw.images, raw.labels == anomalous_label) for split, raw in self._raw.items()}
        self.fill(splits, batch_size=batch_size, new_size=new_size, **options)


def _pairs(split: Split, is_chosen: np.ndarray) -> tf.data.Dataset:
    """The chosen images of a split and their labels, one pair at a time."""
    labels = split.labels[is_chosen].astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((split.images[is_chosen], labels))
