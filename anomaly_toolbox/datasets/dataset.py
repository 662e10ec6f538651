"""The interface of all datasets, and the `tf.data` pipeline that they share."""

import abc
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.decoding import WHITE
from anomaly_toolbox.datasets.geometry import Aspect
from anomaly_toolbox.datasets.splits import SPLITS
from anomaly_toolbox.files import sha256
from anomaly_toolbox.tf_data import without_autotuning

LARGEST_CACHE = 2**32  # bytes


class AnomalyDetectionDataset(abc.ABC):
    """Images for training, validation and testing, as nine `tf.data.Dataset`s of batches `(images, labels)`.

    Images are (batch, height, width, channels), float32; labels are (batch,), 0 for normal and 1 for anomalous images.
    Each of the three splits has a dataset of its normal images, one of its anomalous images, and one of all images.

    A subclass reads its raw data in the constructor. In `configure` it calls `set_split` once for each split; the
    simplest way to make the datasets is `pipeline`. It sets `self._channels` unless images are grey. If the normal
    training images have classes, it also calls `set_train_classes`, for the methods that use them. If its `configure`
    has a parameter `normal_label`, it is called with that instead of `anomalous_label` where a run has the
    hyperparameter of that name: the raw label of the only normal images.
    """

    #: The anomalous label of a run that names neither an anomalous label nor a class label.
    default_anomalous_label: int | str | None = None
    #: Lines for the user about images that were left out and about likely mistakes; complete after `configure`.
    notes: Sequence[str] = ()
    #: The names of the test images' files in the order of `test`; None if images do not come from files.
    test_files: Sequence[str] | None = None
    #: The folder that `test_files` are relative to.
    test_folder: Path | None = None
    #: The masks of the test images, (n, height, width), bool, in the order of `test`; True marks a defect. None if
    #: there are no masks.
    test_masks: np.ndarray | None = None
    #: The padding of the test images, (n, height, width), bool, in the order of `test`; True at pixels that are not
    #: part of the image. None if no image is padded.
    test_padding: np.ndarray | None = None
    #: How images that are not square become square; None if images do not come from files.
    aspect: Aspect | None = None
    #: The user's Python file with the class of this dataset.
    source_file: Path | None = None
    #: The names of the normal classes, in the order of their numbers; None if there are no normal classes.
    class_names: Sequence[str] | None = None
    #: Why there are no normal classes, and what the user can do about it; the end of an error message.
    why_no_classes: str = (
        "this dataset has none; in a folder of images, put them into train/good/<class>/; a dataset class calls "
        "set_train_classes"
    )
    #: The highest level, 255 or 65535, if resized pixels are rounded to whole levels; else None.
    levels: int | None = None
    #: The white level of images of 16 bits, if it is not 65535.
    white_level: int | None = None

    _train_classes: tf.data.Dataset | None = None

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
            new_size: (height, width) of the resized images, in pixels.
            anomalous_label: the raw label that counts as anomalous; all others count as normal.
            class_label: the class to look at, if each class has normal and anomalous images of its own.
            shuffle_buffer_size: the number of images from which the next training image is drawn.
            cache: keep decoded, resized images in memory after the first epoch, unless they take more than 4 GiB.
            drop_remainder: leave out the last, incomplete batch of training images.
            output_range: the values of black and of white.
        """

    def set_split(
        self,
        split: str,
        *,
        normal: tf.data.Dataset | None = None,
        anomalous: tf.data.Dataset | None = None,
        all: tf.data.Dataset | None = None,
    ) -> None:
        """Sets the three datasets of a split.

        Args:
            split: `train`, `validation` or `test`.
            normal: batches of the normal images.
            anomalous: batches of the anomalous images.
            all: batches of both.

        Raises:
            ValueError: there is no split of that name.
        """
        if split not in SPLITS:
            raise ValueError(f"split: expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, received {split!r}")
        # Subclasses may also assign these attributes themselves.
        setattr(self, f"_{split}_normal", normal)
        setattr(self, f"_{split}_anomalous", anomalous)
        setattr(self, f"_{split}", all)

    def set_train_classes(self, batches: tf.data.Dataset, names: Sequence[str]) -> None:
        """Sets the normal training images with their classes, for the methods that use them.

        Args:
            batches: batches `(images, classes)` of the images of `train_normal`, shuffled as these are; the class of an
                image is a whole number from 0 to K - 1.
            names: the names of the K classes, in the order of their numbers; they become text.
        """
        self._train_classes = batches
        self.class_names = [str(name) for name in names]

    def fingerprint(self, class_label: int | str | None = None) -> str | None:
        """A checksum of the files that a class's images come from; None if they do not come from files.

        Here it is a checksum of the user's Python file, if there is one.
        """
        return None if self.source_file is None else sha256(self.source_file)[:12]

    @property
    def channels(self) -> int:
        """The number of channels of an image: 1 for grey, 3 for RGB."""
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
        """Normal training images, the only images that a detector is trained on."""
        return self._train_normal

    @property
    def train_classes(self) -> tf.data.Dataset | None:
        """Normal training images with the numbers of their normal classes; None if there are no such classes."""
        return self._train_classes

    @property
    def train_anomalous(self) -> tf.data.Dataset:
        """Anomalous training images; no detector uses them."""
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
        """All validation images, in a fixed order; they set the threshold, and can choose the epoch."""
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
        """Makes batches of resized, scaled images from a dataset of single `(image, label)` pairs.

        Images are resized with antialiasing and mapped linearly to `output_range`. The map depends on the type alone,
        never on the image: whole numbers of 8 or 16 bits range from 0 to the largest value of their type; floats and
        wider whole numbers range from 0 to 255.

        Images are cached before they are shuffled, so each epoch has a new order, which follows from the global seed.
        Only training batches are shuffled and have their remainder dropped.

        Args:
            dataset: images (height, width, channels) and their labels.
            is_training: whether these are training images.
            new_size, batch_size, cache, shuffle_buffer_size, drop_remainder, output_range: see `configure`.
        """
        image_spec = dataset.element_spec[0]
        n_images = int(dataset.cardinality())  # negative if it is unknown; such a dataset is cached
        bytes_cached = 4 * math.prod(new_size) * (image_spec.shape[-1] or 3) * n_images
        low, high = output_range
        scale = (high - low) / _white(image_spec.dtype)

        def prepare(image, label):
            resized = tf.image.resize(tf.cast(image, tf.float32), new_size, antialias=True)
            return resized * scale + low, label

        if image_spec.shape.is_fully_defined():  # images of one size are faster to resize in batches
            dataset = dataset.batch(256).map(prepare, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
        else:
            dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        if cache and bytes_cached <= LARGEST_CACHE:
            dataset = dataset.cache()
        if is_training:
            dataset = dataset.shuffle(shuffle_buffer_size, reshuffle_each_iteration=True)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder and is_training)
        return without_autotuning(dataset.prefetch(tf.data.AUTOTUNE))


def _white(dtype: tf.DType) -> int:
    """The value of white in images of a type; `pipeline` describes the rule."""
    if dtype.is_bool:
        return 1
    if dtype.is_integer and dtype.size <= 2:
        return dtype.max
    return WHITE
