"""The first look at a configured dataset: every image of every split that is used, once.

It finds what no image or label should be, and keeps a checksum of each image with its label, so that later passes can
tell whether they see the same.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import ToolboxError, first_line

OVERSHOOT = 0.5  # a user's resizing may overshoot the range a little
SMALL_RANGE = 1.0  # of [-1, 1]; images of a smaller range are worth a line
NEEDED = ("train_normal", "validation", "test")
KINDS = {"normal": 0, "anomalous": 1}
MOST_COPIES = 0.01  # share of the test images that may be in another split, or there twice, without a word
MOST_REPEATS = 10  # a split that goes on after so many times its different images is taken for endless
LEAST_REPEATED = 10_000  # images
MIXING = 1_327_217_885  # any large odd number will do
NOT_ENDLESS = "expected each image once; leave out .repeat()"


@dataclass(frozen=True)
class Survey:
    """What one pass over a split saw, image by image.

    Attributes:
        name: such as `Parts.test`, for errors.
        labels: (n,), 0 normal or 1 anomalous.
        digests: (n,), int32: checksums of the images and their labels, which tell whether a later pass sees the same
            in the same order.
        low, high: the lowest and the highest value of all pixels.
    """

    name: str
    labels: np.ndarray
    digests: np.ndarray
    low: float
    high: float


def surveys(dataset: AnomalyDetectionDataset, look: Callable[[str, int], None] | None = None) -> dict[str, Survey]:
    """A survey of each split that is used, by name: `validation`, `test`, `train_normal`, and `train_anomalous` if any.

    Args:
        dataset: configured.
        look: called with a split's name and the number of its images seen so far.

    Raises:
        ToolboxError: names a split, what it gives, and what would be right.
    """
    for split in NEEDED:
        if not isinstance(getattr(dataset, split), tf.data.Dataset):
            raise ToolboxError(f"{type(dataset).__name__}.configure has not filled {split}")
    found = {split: survey(dataset, split, look) for split in ("validation", "test", "train_normal")}
    _check_kind(found["train_normal"].name, found["train_normal"].labels, 0)
    if dataset.train_anomalous is not None:
        found["train_anomalous"] = survey(dataset, "train_anomalous", look)
        _check_kind(found["train_anomalous"].name, found["train_anomalous"].labels, 1)
    for split in ("validation", "test"):
        for kind, expected in KINDS.items():
            _check_first_labels(dataset, f"{split}_{kind}", expected)
    return found


def count_images(seen: dict[str, Survey]) -> dict[str, dict[str, int]]:
    """Images of each kind in each split: {"train": {"normal": n, "anomalous": n}, ...}, from `surveys`."""
    counts = {
        split: {"normal": int((seen[split].labels == 0).sum()), "anomalous": int((seen[split].labels == 1).sum())}
        for split in ("validation", "test")
    }
    n_anomalous = len(seen["train_anomalous"].labels) if "train_anomalous" in seen else 0
    return {"train": {"normal": len(seen["train_normal"].labels), "anomalous": n_anomalous}, **counts}


def notes(seen: dict[str, Survey]) -> Iterator[str]:
    """Lines about what looks like a mistake in splits of a dataset that makes its own pixels, see `surveys`."""
    learnt_from, test = seen["train_normal"], seen["test"]
    if learnt_from.high - learnt_from.low < SMALL_RANGE or learnt_from.low > -SMALL_RANGE / 2:
        yield (
            f"all training images have values from {learnt_from.low:.3g} to {learnt_from.high:.3g}, where -1 is black "
            "and 1 is white: do their numbers have the range that `pipeline` expects of their type?"
        )
    n_test = len(test.digests)
    for other in ("train_normal", "validation"):
        n_shared = int(np.isin(test.digests, seen[other].digests).sum())
        if n_shared > MOST_COPIES * n_test:
            yield f"{n_shared:,} of {n_test:,} test images are in {other}, too: the figures will be too good"
    n_copies = n_test - len(np.unique(test.digests))
    if n_copies > MOST_COPIES * n_test:
        yield f"{n_copies:,} of {n_test:,} test images are copies of others among them: the interval will be too narrow"


def digest_of(seen: dict[str, Survey]) -> str:
    """A checksum of all validation and test images with their labels; training images may be changed at random."""
    return hashlib.sha256(seen["validation"].digests.tobytes() + seen["test"].digests.tobytes()).hexdigest()[:16]


def digests_of(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Checksums of images (batch, height, width, channels), float32, and their labels (batch,) -> (batch,), int32.

    The bits of each pixel, mixed by shifts and by an odd factor of its place, are added up modulo 2^32.
    """
    with tf.device("CPU"):
        bits = tf.reshape(tf.bitcast(images, tf.uint32), (tf.shape(images)[0], -1))
        factors = 2 * tf.cast(tf.range(tf.shape(bits)[1]), tf.uint32) * MIXING + 1
        mixed = _mixed(_mixed(bits) * factors)
        return tf.reduce_sum(tf.bitcast(mixed, tf.int32), axis=1) + MIXING * tf.cast(labels, tf.int32)


def _mixed(bits: tf.Tensor) -> tf.Tensor:
    """The upper half of each number added to the lower one, bit by bit."""
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))


def survey(dataset: AnomalyDetectionDataset, split: str, look: Callable[[str, int], None] | None = None) -> Survey:
    """Looks at every image of a split once, which fills its cache; see `surveys`."""
    name, batches = f"{type(dataset).__name__}.{split}", getattr(dataset, split)
    _check_pairs(name, batches)
    labels, digests = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    low, high, count, different = 1.0, -1.0, 0, set()
    may_be_endless = int(batches.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    for images, of_batch in _without_tensorflows_words(name, batches):
        images, of_batch = np.asarray(images, np.float32), np.reshape(of_batch, -1)
        if len(images) != len(of_batch):
            raise ToolboxError(f"{name} gives {len(of_batch)} labels with {len(images)} images")
        if not len(images):
            continue
        if not (images.min() >= -1 - OVERSHOOT and images.max() <= 1 + OVERSHOOT):  # NaN is neither
            raise ToolboxError(f"{name} gives image values from {images.min()} to {images.max()}, expected [-1, 1]")
        if not np.isin(of_batch, (0, 1)).all():
            raise ToolboxError(f"{name} gives labels {np.unique(of_batch)}, expected 0 (normal) and 1 (anomalous)")
        low, high = min(low, float(images.min())), max(high, float(images.max()))
        labels.append(of_batch.astype(np.int32))
        digests.append(digests_of(images, labels[-1]).numpy())
        count += len(images)
        if look is not None:
            look(name, count)
        if may_be_endless:
            different.update(digests[-1].tolist())
        if may_be_endless and count > max(LEAST_REPEATED, MOST_REPEATS * len(different)):
            raise ToolboxError(
                f"{name} has given {count:,} images, of which {len(different):,} are different, and goes on: "
                f"{NOT_ENDLESS}"
            )
    return Survey(name, np.concatenate(labels), np.concatenate(digests), low, high)


def _check_pairs(name: str, batches: tf.data.Dataset) -> None:
    """Raises ToolboxError unless a split is finite and made of images and labels."""
    spec = batches.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2):
        raise ToolboxError(f"{name} gives {spec}, expected pairs (image, label)")
    if not any(spec[1].shape.is_compatible_with(shape) for shape in ((None,), (None, 1))):
        raise ToolboxError(f"{name} gives labels of shape {spec[1].shape}, expected one number an image")
    if int(batches.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ToolboxError(f"{name} is endless: {NOT_ENDLESS}")


def _check_first_labels(dataset: AnomalyDetectionDataset, split: str, expected: int) -> None:
    """Looks at the first batch of a split that nothing else reads: swapped labels show there already."""
    batches = getattr(dataset, split)
    if isinstance(batches, tf.data.Dataset) and isinstance(batches.element_spec, tuple):
        name = f"{type(dataset).__name__}.{split}"
        for _, labels in _without_tensorflows_words(name, batches.take(1)):
            _check_kind(name, np.reshape(labels, -1), expected)


def _check_kind(name: str, labels: np.ndarray, expected: int) -> None:
    """Raises ToolboxError if a split that should have images of one kind, 0 or 1, has others."""
    n_wrong = int(np.count_nonzero(labels != expected))
    if not n_wrong:
        return
    kinds = tuple(KINDS)
    advice = f"fill it with {kinds[expected]} images alone"
    if n_wrong == len(labels):
        advice = "labels seem to be swapped: 0 means normal, 1 anomalous"
    raise ToolboxError(
        f"{name} gives {n_wrong:,} of {len(labels):,} images with the label {1 - expected}, which means "
        f"{kinds[1 - expected]}; expected {expected} ({kinds[expected]}) for all: {advice}"
    )


def _without_tensorflows_words(name: str, batches: tf.data.Dataset) -> Iterator:
    """The batches of a split; what its own functions raise becomes one line that names the split."""
    try:
        yield from batches.as_numpy_iterator()
    except tf.errors.OpError as problem:
        raise ToolboxError(f"{name} failed: {cause_of(problem)}") from problem


def cause_of(problem: tf.errors.OpError) -> str:
    """The error of Python that a TensorFlow error is about, if there is one, in one line."""
    own_errors = re.findall(r"^\w*(?:Error|Exception): .+$", str(problem), re.MULTILINE)
    return own_errors[-1] if own_errors else first_line(problem)
