"""Datasets of small labelled images, one of whose labels is declared anomalous."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError


class Split(NamedTuple):
    """Images (n, height, width, channels), uint8, and their labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


class LabelledImages(AnomalyDetectionDataset):
    """All images in memory as uint8; every label but one is normal.

    Args:
        train, validation, test: the three splits, disjoint.
    """

    default_anomalous_label = 2

    def __init__(self, train: Split, validation: Split, test: Split):
        super().__init__()
        self._raw = {"train": train, "validation": validation, "test": test}
        self._channels = train.images.shape[-1]

    def configure(
        self,
        batch_size,
        new_size,
        anomalous_label=None,
        class_label=None,
        shuffle_buffer_size=10_000,
        cache=True,
        drop_remainder=True,
        output_range=(-1.0, 1.0),
    ):
        """See `AnomalyDetectionDataset.configure`; raises InputError for a label that the images do not have."""
        name = type(self).__name__
        if class_label is not None:
            raise InputError(f"class_label: {name} has labels, not classes; use anomalous_label instead")
        labels = np.unique(self._raw["train"].labels).tolist()
        if anomalous_label not in labels:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} is not a label of {name}; it has {', '.join(map(str, labels))}"
            )
        for split, (images, raw_labels) in self._raw.items():
            is_anomalous = raw_labels == anomalous_label
            for suffix, chosen in (
                ("_normal", ~is_anomalous),
                ("_anomalous", is_anomalous),
                ("", np.ones_like(is_anomalous)),
            ):
                pairs = images[chosen], is_anomalous[chosen].astype(np.int32)
                dataset = self.pipeline(
                    tf.data.Dataset.from_tensor_slices(pairs),
                    new_size,
                    batch_size,
                    cache,
                    shuffle_buffer_size,
                    is_training=split == "train",
                    drop_remainder=drop_remainder,
                    output_range=output_range,
                )
                setattr(self, f"_{split}{suffix}", dataset)
