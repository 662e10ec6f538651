"""Datasets of small labelled images in memory, with one label that counts as anomalous."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError

#: The ways to divide images with labels into splits: the dataset's own, and that of EGBAD's and GANomaly's papers.
Division = Literal["official", "pooled"]
SEED_OF_DIVISION = 0  # not that of a run: runs with other seeds must have the same images


class Split(NamedTuple):
    """The images of a split, (n, height, width, channels), uint8, and their labels, (n,)."""

    images: np.ndarray
    labels: np.ndarray


class ImagesInMemory(AnomalyDetectionDataset):
    """A dataset that holds the images of each split in one array."""

    def fill(self, splits: dict[str, Split], train_labels: np.ndarray, **options: Any) -> None:
        """Makes the nine datasets, and `train_classes` with one class for each raw label, named after the label.

        Args:
            splits: the splits by name; labels are 0 (or False) for normal and 1 (or True) for anomalous images.
            train_labels: the raw label of each training image, (n,).
            options: arguments of `pipeline`.
        """

        def batches(images: tf.data.Dataset, labels: np.ndarray, is_training: bool) -> tf.data.Dataset:
            pairs = tf.data.Dataset.zip(images, tf.data.Dataset.from_tensor_slices(labels.astype(np.int32)))
            return self.pipeline(pairs, is_training=is_training, **options)

        for name, split in splits.items():
            is_training = name == "train"
            is_normal, is_anomalous = split.labels == 0, split.labels == 1
            is_known = is_normal | is_anomalous
            normal_images = _images(split, is_normal)
            self.set_split(
                name,
                normal=batches(normal_images, split.labels[is_normal], is_training),
                anomalous=batches(_images(split, is_anomalous), split.labels[is_anomalous], is_training),
                all=batches(_images(split, is_known), split.labels[is_known], is_training),
            )
            if is_training:  # with the same images in memory, not a copy of them
                classes, numbers = np.unique(train_labels[is_normal], return_inverse=True)
                self.set_train_classes(batches(normal_images, numbers, is_training), classes.tolist())


class LabelledImages(ImagesInMemory):
    """A dataset with class labels; the images with one label are anomalous and all others normal, or the reverse.

    Args:
        train, validation, test: the three splits; no image may be in two of them.
        split: `official` keeps these splits. `pooled` puts their images together and divides them anew for each
            label, see `pooled_splits`.

    Raises:
        InputError: there is no such division.
    """

    default_anomalous_label = 2

    def __init__(self, train: Split, validation: Split, test: Split, split: Division = "official"):
        super().__init__()
        if split not in get_args(Division):
            raise InputError(f"--split: expected {' or '.join(get_args(Division))}, received {split!r}")
        self._division = split
        self._raw = {"train": train, "validation": validation, "test": test}
        self._channels = train.images.shape[-1]

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, normal_label=None, **options):
        """See `AnomalyDetectionDataset.configure`.

        Args:
            batch_size, new_size, anomalous_label, class_label, options: as there.
            normal_label: the label of the only normal images, if `anomalous_label` is None; all others are anomalous.

        Raises:
            InputError: no training image has the label, both labels are given, or a class label is given.
        """
        name = type(self).__name__
        if class_label is not None:
            raise InputError(f"class_label: {name} has labels, not classes; use anomalous_label instead")
        if anomalous_label is not None and normal_label is not None:
            raise InputError(f"anomalous_label and normal_label are both given; {name} expects one of them")
        one_is_normal = normal_label is not None
        label_name, label = ("normal_label", normal_label) if one_is_normal else ("anomalous_label", anomalous_label)
        labels = np.unique(self._raw["train"].labels).tolist()
        if label not in labels:
            raise InputError(f"{label_name}: {label!r} is not a label of {name}; it has {', '.join(map(str, labels))}")

        def is_anomalous(labels):
            return (labels == label) != one_is_normal

        raw_splits = self._raw if self._division == "official" else pooled_splits(self._raw.values(), is_anomalous)
        splits = {split: Split(raw.images, is_anomalous(raw.labels)) for split, raw in raw_splits.items()}
        self.fill(splits, raw_splits["train"].labels, batch_size=batch_size, new_size=new_size, **options)


def pooled_splits(parts: Iterable[Split], is_anomalous: Callable[[np.ndarray], np.ndarray]) -> dict[str, Split]:
    """Divides images as the papers of EGBAD and GANomaly do, and takes a validation split from their training images.

    Of the normal images, 80% are for training and the other 20% for testing. All anomalous images are test images. A
    tenth of the normal training images, rounded up, becomes the validation split, which has no anomalous images. The
    division is drawn at random, but for the same parts it is always the same; the images of each split keep their
    order.

    Args:
        parts: the images to put together, with their labels.
        is_anomalous: a function from labels, (n,), to whether their images are anomalous, (n,), bool.

    Returns:
        The splits by name, with the labels of the images; each image is in exactly one of them.
    """
    parts = list(parts)
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    anomalous = is_anomalous(labels)
    normal = np.random.default_rng(SEED_OF_DIVISION).permutation(np.flatnonzero(~anomalous))
    trained, tested = np.split(normal, [4 * len(normal) // 5])
    chosen = {
        "train": np.delete(trained, np.s_[::10]),
        "validation": trained[::10],
        "test": np.concatenate([tested, np.flatnonzero(anomalous)]),
    }
    splits = {}
    for name, indices in chosen.items():
        in_order = np.sort(indices)
        splits[name] = Split(images[in_order], labels[in_order])
    return splits


def _images(split: Split, is_chosen: np.ndarray) -> tf.data.Dataset:
    """The chosen images of a split, one at a time."""
    return tf.data.Dataset.from_tensor_slices(split.images[is_chosen])
