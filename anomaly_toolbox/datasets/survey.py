"""The first pass over a configured dataset, which reads every image of every split once.

It checks images and labels, and keeps a checksum of each image with its label. Later passes compare their images with
these checksums.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import ToolboxError, first_line

OVERSHOOT = 0.5  # how far pixels may exceed [-1, 1]; sharp methods of resizing overshoot
SMALL_RANGE = 1.0  # if the training pixels span less than this, half of [-1, 1], the user gets a note
REQUIRED_SPLITS = ("train_normal", "validation", "test")
KINDS = ("normal", "anomalous")  # by label
MOST_COPIES = 0.01  # the share of the test images that may be copies without a note
MOST_REPEATS = 10  # a split of unknown length that repeats its images more often, on average, counts as endless
LEAST_REPEATED = 10_000  # a split with at most this many images never counts as endless
MIXING_FACTOR = 1_327_217_885  # any large odd number mixes well
NOT_ENDLESS = "expected each image once; leave out .repeat()"

#: Called with the name of a split and the number of its images that were read so far.
OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class Survey:
    """The labels and checksums of one split, from one pass over its images.

    Attributes:
        name: the name of the split for errors, such as `Parts.test`.
        labels: (n,), int32, 0 for normal and 1 for anomalous images; of `train_classes` the numbers of the classes.
        digests: (n,), int32, a checksum of each image with its label.
        low, high: the lowest and the highest value of all pixels.
    """

    name: str
    labels: np.ndarray
    digests: np.ndarray
    low: float
    high: float


def surveys(dataset: AnomalyDetectionDataset, on_progress: OnProgress | None = None) -> dict[str, Survey]:
    """Surveys every split that is used.

    Args:
        dataset: configured.
        on_progress: called after each batch.

    Returns:
        The surveys of `validation`, `test` and `train_normal`, by name, and of `train_anomalous` if the dataset has it.

    Raises:
        ToolboxError: a split is missing, endless or broken, or its images or labels are wrong.
    """
    for split in REQUIRED_SPLITS:
        if not isinstance(getattr(dataset, split), tf.data.Dataset):
            raise ToolboxError(f"{type(dataset).__name__}.configure has not set {split}")
    surveyed = {split: survey(dataset, split, on_progress) for split in ("validation", "test", "train_normal")}
    train_normal = surveyed["train_normal"]
    _check_kind(train_normal.name, train_normal.labels, expected=0)
    if dataset.train_anomalous is not None:
        train_anomalous = survey(dataset, "train_anomalous", on_progress)
        _check_kind(train_anomalous.name, train_anomalous.labels, expected=1)
        surveyed["train_anomalous"] = train_anomalous
    for split in ("validation", "test"):
        for label, kind in enumerate(KINDS):
            _check_first_labels(dataset, f"{split}_{kind}", label)
    return surveyed


def survey_classes(dataset: AnomalyDetectionDataset, n_train: int, on_progress: OnProgress | None = None) -> Survey:
    """Surveys `train_classes`.

    Args:
        dataset: configured, with `train_classes` and `class_names`.
        n_train: the number of images in `train_normal`.
        on_progress: called after each batch.

    Raises:
        ToolboxError: the dataset is broken, a class has no name, or the number of images is another one.
    """
    surveyed = survey(dataset, "train_classes", on_progress, len(dataset.class_names or ()))
    if len(surveyed.labels) != n_train:
        raise ToolboxError(
            f"{surveyed.name} gives {len(surveyed.labels):,} images, expected the {n_train:,} of train_normal"
        )
    return surveyed


def survey(
    dataset: AnomalyDetectionDataset,
    split: str,
    on_progress: OnProgress | None = None,
    n_classes: int | None = None,
) -> Survey:
    """Reads every image of a split once, which also fills its cache; see `surveys`.

    Args:
        dataset: configured.
        split: the name of the split.
        on_progress: called after each batch.
        n_classes: the labels are the numbers of so many classes; None: they are 0 for normal, 1 for anomalous images.
    """
    name = f"{type(dataset).__name__}.{split}"
    batches = getattr(dataset, split)
    _check_structure(name, batches)
    repetition = _RepetitionCheck(name, batches)
    all_labels = [np.zeros(0, np.int32)]  # not empty: a split without images can then be concatenated, too
    all_digests = [np.zeros(0, np.int32)]
    low, high = 1.0, -1.0
    n_images = 0
    for batch_images, batch_labels in _read_batches(name, batches):
        images = np.asarray(batch_images, np.float32)
        labels = np.reshape(batch_labels, -1)
        if not _check_batch(name, images, labels, n_classes):
            continue
        labels = labels.astype(np.int32)
        digests = image_digests(images, labels).numpy()
        all_labels.append(labels)
        all_digests.append(digests)
        low, high = min(low, float(images.min())), max(high, float(images.max()))
        n_images += len(images)
        if on_progress is not None:
            on_progress(name, n_images)
        repetition.check(digests)
    return Survey(name, np.concatenate(all_labels), np.concatenate(all_digests), low, high)


def count_images(surveyed: dict[str, Survey]) -> dict[str, dict[str, int]]:
    """Counts the images of each kind in each split: {"train": {"normal": n, "anomalous": n}, ...}, from `surveys`."""
    train_anomalous = surveyed.get("train_anomalous")
    counts = {
        "train": {
            "normal": len(surveyed["train_normal"].labels),
            "anomalous": 0 if train_anomalous is None else len(train_anomalous.labels),
        }
    }
    for split in ("validation", "test"):
        labels = surveyed[split].labels
        counts[split] = {"normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())}
    return counts


def notes(surveyed: dict[str, Survey]) -> Iterator[str]:
    """Yields lines about likely mistakes in a dataset that does not read its images by a `Reading`, from `surveys`."""
    train, test = surveyed["train_normal"], surveyed["test"]
    if train.high - train.low < SMALL_RANGE or train.low > -SMALL_RANGE / 2:
        yield (
            f"all training images have values from {train.low:.3g} to {train.high:.3g}, where -1 is black and 1 is "
            "white: do the raw images have the range that `pipeline` expects of their type?"
        )
    n_test = len(test.digests)
    for split in ("train_normal", "validation"):
        n_shared = int(np.isin(test.digests, surveyed[split].digests).sum())
        if n_shared > MOST_COPIES * n_test:
            yield f"{n_shared:,} of {n_test:,} test images are also in {split}: the metrics will be too good"
    n_copies = n_test - len(np.unique(test.digests))
    if n_copies > MOST_COPIES * n_test:
        yield f"{n_copies:,} of {n_test:,} test images are copies of other test images: the interval will be too narrow"


def digest_of(surveyed: dict[str, Survey]) -> str:
    """A checksum of all validation and test images with their labels; training images may be augmented at random."""
    digests = surveyed["validation"].digests.tobytes() + surveyed["test"].digests.tobytes()
    return hashlib.sha256(digests).hexdigest()[:16]


def image_digests(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Checksums of images with their labels.

    With the bits b_i of pixel i as a whole number, m = MIXING_FACTOR and h(b) = b xor (b >> 16):

        digest = Σ_i h(h(b_i) · (2 i m + 1)) + m · label    (mod 2^32)

    Args:
        images: (batch, height, width, channels), float32.
        labels: (batch,).

    Returns:
        (batch,), int32.
    """
    with tf.device("CPU"):
        bits = tf.reshape(tf.bitcast(images, tf.uint32), (tf.shape(images)[0], -1))
        factors = 2 * tf.cast(tf.range(tf.shape(bits)[1]), tf.uint32) * MIXING_FACTOR + 1
        mixed = _fold(_fold(bits) * factors)
        return tf.reduce_sum(tf.bitcast(mixed, tf.int32), axis=1) + MIXING_FACTOR * tf.cast(labels, tf.int32)


def _fold(bits: tf.Tensor) -> tf.Tensor:
    """b xor (b >> 16), for whole numbers of 32 bits."""
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))


class _RepetitionCheck:
    """Raises ToolboxError for a split of unknown length that repeats its images without end.

    Args:
        name: the name of the split, for errors.
        batches: the split.
    """

    def __init__(self, name: str, batches: tf.data.Dataset):
        self._name = name
        self._may_be_endless = int(batches.cardinality()) == tf.data.UNKNOWN_CARDINALITY
        self._n_images = 0
        self._distinct_digests: set[int] = set()

    def check(self, digests: np.ndarray) -> None:
        """Takes the checksums of the next batch, (batch,)."""
        if not self._may_be_endless:
            return
        self._n_images += len(digests)
        self._distinct_digests.update(digests.tolist())
        n_distinct = len(self._distinct_digests)
        if self._n_images > max(LEAST_REPEATED, MOST_REPEATS * n_distinct):
            raise ToolboxError(
                f"{self._name} has given {self._n_images:,} images, of which {n_distinct:,} are different, "
                f"and does not end: {NOT_ENDLESS}"
            )


def _check_structure(name: str, batches: tf.data.Dataset) -> None:
    """Raises ToolboxError unless a split gives images with labels and is not known to be endless."""
    spec = batches.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2):
        raise ToolboxError(f"{name} gives {spec}, expected pairs (image, label)")
    if not any(spec[1].shape.is_compatible_with(shape) for shape in ((None,), (None, 1))):
        raise ToolboxError(f"{name} gives labels of shape {spec[1].shape}, expected one number for each image")
    if int(batches.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ToolboxError(f"{name} is endless: {NOT_ENDLESS}")


def _check_batch(name: str, images: np.ndarray, labels: np.ndarray, n_classes: int | None) -> bool:
    """Whether a batch has images; raises ToolboxError if images or labels are wrong."""
    if len(images) != len(labels):
        raise ToolboxError(f"{name} gives {len(labels)} labels with {len(images)} images")
    if len(images) == 0:
        return False
    low, high = images.min(), images.max()
    is_in_range = low >= -1 - OVERSHOOT and high <= 1 + OVERSHOOT  # False for NaN
    if not is_in_range:
        raise ToolboxError(f"{name} gives image values from {low} to {high}, expected [-1, 1]")
    if n_classes is not None and not np.isin(labels, np.arange(n_classes)).all():
        raise ToolboxError(
            f"{name} gives the classes {np.unique(labels)}, expected whole numbers from 0 to {n_classes - 1}, because "
            f"class_names has {n_classes} {'name' if n_classes == 1 else 'names'}"
        )
    if n_classes is None and not np.isin(labels, (0, 1)).all():
        raise ToolboxError(f"{name} gives labels {np.unique(labels)}, expected 0 (normal) and 1 (anomalous)")
    return True


def _check_first_labels(dataset: AnomalyDetectionDataset, split: str, expected: int) -> None:
    """Checks the first batch of a split that nothing else reads; it is enough to find swapped labels."""
    batches = getattr(dataset, split)
    if isinstance(batches, tf.data.Dataset) and isinstance(batches.element_spec, tuple):
        name = f"{type(dataset).__name__}.{split}"
        for _, labels in _read_batches(name, batches.take(1)):
            _check_kind(name, np.reshape(labels, -1), expected)


def _check_kind(name: str, labels: np.ndarray, expected: int) -> None:
    """Raises ToolboxError if a split of one kind has an image of the other kind.

    Args:
        name: the name of the split, for errors.
        labels: (n,).
        expected: the label of its kind, 0 or 1.
    """
    n_wrong = int(np.count_nonzero(labels != expected))
    if n_wrong == 0:
        return
    other = 1 - expected
    advice = f"use only {KINDS[expected]} images"
    if n_wrong == len(labels):
        advice = "labels seem to be swapped: 0 means normal, 1 anomalous"
    raise ToolboxError(
        f"{name} gives {n_wrong:,} of {len(labels):,} images with the label {other}, which means {KINDS[other]}; "
        f"expected {expected} ({KINDS[expected]}) for all: {advice}"
    )


def _read_batches(name: str, batches: tf.data.Dataset) -> Iterator[Any]:
    """The batches of a split as NumPy arrays; raises ToolboxError, with the name of the split, if reading fails."""
    try:
        yield from batches.as_numpy_iterator()
    except tf.errors.OpError as problem:
        raise ToolboxError(f"{name} failed: {cause_of(problem)}") from problem


def cause_of(problem: tf.errors.OpError) -> str:
    """One line for a TensorFlow error: the Python error that it wraps, if there is one, else its first line."""
    python_errors = re.findall(r"^\w*(?:Error|Exception): .+$", str(problem), re.MULTILINE)
    return python_errors[-1] if python_errors else first_line(problem)
