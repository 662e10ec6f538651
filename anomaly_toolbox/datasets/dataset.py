"""The interface of every dataset, and the `tf.data` pipeline that they share."""

import abc
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from anomaly_toolbox.files import sha256

LARGEST_CACHE = 2**32  # bytes


class AnomalyDetectionDataset(abc.ABC):
    """Nine `tf.data.Dataset`s of batches `(image, label)`, label 1 being anomalous and 0 normal.

    A subclass reads its raw data in its constructor and, in `configure`, assigns `self._train_normal`,
    `self._train_anomalous`, `self._train` and so on for `validation` and `test`, most simply by passing each raw
    dataset of single `(image, label)` pairs through `self.pipeline`; and sets `self._channels` if it is not 1.
    """

    #: Used when neither an anomalous label nor a class label is asked for.
    default_anomalous_label: int | str | None = None
    #: Lines about what was left out or looks like a mistake, known after `configure`.
    notes: Sequence[str] = ()
    #: The test images' files in the order of `test`, where images come from files.
    test_files: Sequence[str] | None = None
    #: What the names in `test_files` are relative to.
    test_folder: Path | None = None
    #: Where the defects of the test images are, (n, height, width), bool, in the order of `test`, where that is known.
    test_masks: np.ndarray | None = None
    #: Where the test images have padding, which is no part of them, likewise; None where nothing was padded.
    test_padding: np.ndarray | None = None
    #: How images that are no squares become squares, where they come from files.
    aspect: str | None = None
    #: The Python file that makes the images, where a user wrote one.
    source_file: Path | None = None
    #: Whole levels that resized pixels are rounded to, 255 or 65535, where images come from files; None: not rounded.
    levels: int | None = None
    #: What is white in files of 16 bits, where they do not use all of them.
    white_level: int | None = None

    def __init__(self) -> None:
        self._channels = 1
        self._train_normal = self._train_anomalous = self._train = None
        self._validation_normal = self._validation_anomalous = self._validation = None
        self._test_normal = self._test_anomalous = self._test = None

    @abc.abstractmethod
    def configure(
        self,
        batch_size: int,
        new_size: tuple[int, int],
        anomalous_label: int | str | None = None,
        class_label: int | str | None = None,
        shuffle_buffer_size: int = 10_000,
        cache: bool = True,
        drop_remainder: bool = True,
        output_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        """Makes the nine datasets.

        Args:
            batch_size: images in a batch.
            new_size: (height, width) that images are resized to, in pixels.
            anomalous_label: the raw label that counts as anomalous; all others are normal.
            class_label: the class to look at, where each class has normal and anomalous images of its own.
            shuffle_buffer_size: images among which the next training image is drawn.
            cache: keep decoded, resized images in memory after the first epoch, unless they take more than 4 GiB.
            drop_remainder: leave out the last, incomplete batch of training images.
            output_range: what black and white become.
        """

    def fingerprint(self, class_label: int | str | None = None) -> str | None:
        """Tells the images of a class from others, where they come from files that may change; else None.

        It follows from the user's own Python file, if there is one.
        """
        return None if self.source_file is None else sha256(self.source_file)[:12]

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for RGB."""
        return self._channels

    @property
    def normal_label(self) -> tf.Tensor:
        """0, the label of normal images."""
        return tf.constant(0)

    @property
    def anomalous_label(self) -> tf.Tensor:
        """1, the label of anomalous images."""
        return tf.constant(1)

    @property
    def train_normal(self) -> tf.data.Dataset:
        """Normal training images, the only ones a detector is trained on."""
        return self._train_normal

    @property
    def train_anomalous(self) -> tf.data.Dataset:
        """Anomalous training images; no detector sees them."""
        return self._train_anomalous

    @property
    def train(self) -> tf.data.Dataset:
        """All training images."""
        return self._train

    @property
    def validation_normal(self) -> tf.data.Dataset:
        """Normal validation images."""
        return self._validation_normal

    @property
    def validation_anomalous(self) -> tf.data.Dataset:
        """Anomalous validation images."""
        return self._validation_anomalous

    @property
    def validation(self) -> tf.data.Dataset:
        """All validation images: they choose the epoch and the threshold."""
        return self._validation

    @property
    def test_normal(self) -> tf.data.Dataset:
        """Normal test images."""
        return self._test_normal

    @property
    def test_anomalous(self) -> tf.data.Dataset:
        """Anomalous test images."""
        return self._test_anomalous

    @property
    def test(self) -> tf.data.Dataset:
        """All test images, in a fixed order."""
        return self._test

    @staticmethod
    def pipeline(
        dataset: tf.data.Dataset,
        new_size: tuple[int, int],
        batch_size: int,
        cache: bool = True,
        shuffle_buffer_size: int = 10_000,
        is_training: bool = False,
        drop_remainder: bool = True,
        output_range: tuple[float, float] = (-1.0, 1.0),
    ) -> tf.data.Dataset:
        """Single `(image, label)` pairs -> prepared batches.

        Images are resized with antialiasing and mapped linearly to `output_range`, each by the same fixed map: from
        [0, largest value of the type] for whole numbers of 8 or 16 bits, from [0, 255] for floats and for wider whole
        numbers, whose range no image fills. They are cached before they are shuffled, so that each epoch has an order
        of its own, which the global seed decides. Only training batches, those with `is_training`, are shuffled or have
        a remainder dropped.
        """
        low, high = output_range
        bytes_cached = 4 * math.prod(new_size) * (dataset.element_spec[0].shape[-1] or 3) * int(dataset.cardinality())
        dtype = dataset.element_spec[0].dtype
        white = dtype.max if dtype.is_integer and dtype.size <= 2 else 1 if dtype.is_bool else 255

        def prepare(image, label):
            image = tf.image.resize(tf.cast(image, tf.float32), new_size, antialias=True)
            return image * ((high - low) / white) + low, label

        if dataset.element_spec[0].shape.is_fully_defined():  # images of one size are resized many at a time
            dataset = dataset.batch(256).map(prepare, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
        else:
            dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        if cache and bytes_cached <= LARGEST_CACHE:  # where the cardinality is not known it is below 0
            dataset = dataset.cache()
        if is_training:
            dataset = dataset.shuffle(shuffle_buffer_size, reshuffle_each_iteration=True)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder and is_training)
        return dataset.prefetch(tf.data.AUTOTUNE)
