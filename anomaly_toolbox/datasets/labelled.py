"""Datasets of small labelled images, one of whose labels is declared anomalous."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError


class Split(NamedTuple):
    """Images (n, height, width, channels), uint8, and their labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


class ImagesInMemory(AnomalyDetectionDataset):
    """Images that are held as one array a split."""

    def fill(self, splits: dict[str, Split], **options: Any) -> None:
        """Makes the nine datasets: each split has the label 1 (or True) for anomalous images; options of `pipeline`."""
        for split, (images, labels) in splits.items():
            for suffix, kinds in (("_normal", [0]), ("_anomalous", [1]), ("", [0, 1])):
                chosen = np.isin(labels, kinds)
                pairs = tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen].astype(np.int32)))
                setattr(self, f"_{split}{suffix}", self.pipeline(pairs, is_training=split == "train", **options))


class LabelledImages(ImagesInMemory):
    """All images in memory as uint8; every label but one is normal.

    Args:
        train, validation, test: the three splits, disjoint.
    """

    default_anomalous_label = 2

    def __init__(self, train: Split, validation: Split, test: Split):
        super().__init__()
        self._raw = {"train": train, "validation": validation, "test": test}
        self._channels = train.images.shape[-1]

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`; raises InputError for a label that the images do not have."""
        name = type(self).__name__
        if class_label is not None:
            raise InputError(f"class_label: {name} has labels, not classes; use anomalous_label instead")
        labels = np.unique(self._raw["train"].labels).tolist()
        if anomalous_label not in labels:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} is not a label of {name}; it has {', '.join(map(str, labels))}"
            )
        splits = {split: Split(images, kinds == anomalous_label) for split, (images, kinds) in self._raw.items()}
        self.fill(splits, batch_size=batch_size, new_size=new_size, **options)
