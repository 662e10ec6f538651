"""From a configured dataset to what the compiled steps take: batches of images, all of one static shape.

XLA compiles a step for one shape, so training leaves out the last, incomplete batch, and scoring fills it up; the
filling is cut off again, so that every image is scored.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError, ToolboxError

OVERSHOOT = 0.5  # a user's resizing may overshoot the range a little
DARK = 0.25  # share of the range that all training images may keep within without a word
NEEDED = ("train_normal", "validation", "test")
EXAMPLES_OF_EACH_KIND = 6
MOST_REPEATS = 10  # a split that goes on after so many times its different images is taken for endless
LEAST_REPEATED = 10_000  # images
MIXING = 1_327_217_885  # any large number will do
NOT_ENDLESS = "expected each image once; leave out .repeat()"
LEAST_SHUFFLED = 10  # fewer different images may come in the same order twice by chance
OTHER_ORDER = (
    "gives other images, or in another order, each time it is read, so their scores would not belong to their labels; "
    "expected the same order: leave out shuffle and random changes, and pass is_training=False to pipeline"
)


@dataclass(frozen=True)
class Survey:
    """What one pass over a split saw, image by image.

    Attributes:
        name: such as `Parts.test`, for errors.
        labels: (n,), 0 normal or 1 anomalous.
        digests: (n,), int32: checksums of the images' pixels, which tell whether a later pass sees the same images in
            the same order.
        low, high: the lowest and the highest value of all pixels.
    """

    name: str
    labels: np.ndarray
    digests: np.ndarray
    low: float
    high: float


@dataclass(frozen=True)
class ScoringSplit:
    """A validation or test split.

    Attributes:
        batches: images, each batch of the full size; the last is filled up with zeros. Every pass compares the images
            with those that the labels belong to, and raises an error that `same_order` explains.
        labels: (n,), 0 or 1, in the order of the images.
        normal_examples: a few normal images, float32, for pictures.
        anomalous_examples: likewise.
        fingerprint: a checksum of all images.
    """

    batches: tf.data.Dataset
    labels: np.ndarray
    normal_examples: np.ndarray
    anomalous_examples: np.ndarray
    fingerprint: str

    @property
    def examples(self) -> np.ndarray:
        """The normal examples, then the anomalous ones."""
        return np.concatenate([self.normal_examples, self.anomalous_examples])


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
    _check_kind(found["train_normal"], 0)
    if dataset.train_anomalous is not None:
        found["train_anomalous"] = survey(dataset, "train_anomalous", look)
        _check_kind(found["train_anomalous"], 1)
    return found


def count_images(seen: dict[str, Survey]) -> dict[str, dict[str, int]]:
    """Images of each kind in each split: {"train": {"normal": n, "anomalous": n}, ...}, from `surveys`."""
    counts = {
        split: {"normal": int((seen[split].labels == 0).sum()), "anomalous": int((seen[split].labels == 1).sum())}
        for split in ("validation", "test")
    }
    n_anomalous = len(seen["train_anomalous"].labels) if "train_anomalous" in seen else 0
    return {"train": {"normal": len(seen["train_normal"].labels), "anomalous": n_anomalous}, **counts}


def digests_of(images: tf.Tensor) -> tf.Tensor:
    """Checksums of images (batch, height, width, channels), float32 -> (batch,), int32.

    The bits of each pixel, mixed by shifts and by an odd factor of its place, are added up modulo 2^32.
    """
    with tf.device("CPU"):
        bits = tf.reshape(tf.bitcast(images, tf.uint32), (tf.shape(images)[0], -1))
        factors = 2 * tf.cast(tf.range(tf.shape(bits)[1]), tf.uint32) * MIXING + 1
        mixed = _mixed(_mixed(bits) * factors)
        return tf.reduce_sum(tf.bitcast(mixed, tf.int32), axis=1)


def _mixed(bits: tf.Tensor) -> tf.Tensor:
    """The upper half of each number added to the lower one, bit by bit."""
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))


def is_dark(seen: Survey) -> bool:
    """Whether all images keep within a small part of [-1, 1], as if their numbers were of a smaller range."""
    return len(seen.labels) > 0 and seen.high - seen.low < 2 * DARK


def training_batches(
    train_normal: tf.data.Dataset,
    batch_size: int,
    image_shape: tuple[int, int, int],
    count: int,
    epochs_done: int,
    shuffle_buffer_size: int | None = None,
) -> tf.data.Dataset:
    """Whole batches of the normal training images, epoch after epoch without end, `count // batch_size` in each.

    Args:
        train_normal: what a dataset gives.
        batch_size, image_shape: the static shape of the batches.
        count: images in it.
        epochs_done: epochs to leave behind: the order goes on as if they had been drawn from it.
        shuffle_buffer_size: shuffle them, as the dataset does not; None: it does.

    Raises:
        InputError: there is not even one whole batch.
    """
    check_batch_size(batch_size, count)
    images = _images(train_normal, image_shape)
    if shuffle_buffer_size is not None:
        images = images.unbatch().shuffle(shuffle_buffer_size, reshuffle_each_iteration=True).batch(batch_size)
    for _ in range(epochs_done):
        iter(images)  # the shuffling draws a new order for each iterator
    return images.rebatch(batch_size, drop_remainder=True).repeat().prefetch(tf.data.AUTOTUNE)


def check_batch_size(batch_size: int, count: int) -> None:
    """Raises InputError if `count` training images do not make one whole batch."""
    if count < batch_size:
        raise InputError(
            f"batch_size: {batch_size} is larger than the training set, which has {count} normal images; give a "
            f"smaller one, such as --set batch_size={max(2, count // 4)}"
        )


def sample_images(
    train_normal: tf.data.Dataset, seen: Survey, image_shape: tuple[int, int, int], size: int, seed: int
) -> tuple[np.ndarray, bool]:
    """`size` of the normal training images, (size, ...), drawn without preference; all if there are fewer.

    Args:
        train_normal: what a dataset gives.
        seen: what `surveys` saw of it.
        image_shape: (height, width, channels).
        size, seed: how many, and what decides which.

    Returns:
        The images, and whether they came in another order than in the survey, as training images should.
    """
    n = len(seen.labels)
    is_drawn = np.zeros(n, bool)
    is_drawn[np.random.default_rng(seed).permutation(n)[:size]] = True
    drawn, digests, first = [], [np.zeros(0, np.int32)], 0
    for images in _images(train_normal, image_shape).as_numpy_iterator():
        drawn.append(images[is_drawn[first : first + len(images)]])
        digests.append(digests_of(images).numpy())
        first += len(images)
    if first != n:
        raise ToolboxError(f"{seen.name} gave {n:,} images, and {first:,} when it was read again; expected the same")
    has_few = len(np.unique(seen.digests)) < LEAST_SHUFFLED
    return np.concatenate(drawn), has_few or not np.array_equal(np.concatenate(digests), seen.digests)


def scoring_split(
    dataset: tf.data.Dataset,
    seen: Survey,
    batch_size: int,
    image_shape: tuple[int, int, int],
    size: int | None = None,
) -> ScoringSplit:
    """A split that can be scored: all of its images in order, or a sample.

    Args:
        dataset: what a dataset gives.
        seen: what `surveys` saw of it.
        batch_size, image_shape: the static shape of the batches.
        size: take about so many images, spread evenly over each kind, so that the prevalence stays; None: all.

    Raises:
        ToolboxError: images have another shape, or come in another order than in the survey.
    """

    def compare(images, digests):
        is_same = tf.cond(
            tf.equal(tf.shape(images)[0], tf.shape(digests)[0]),
            lambda: tf.reduce_all(tf.equal(digests_of(images), digests)),
            lambda: False,
        )
        with tf.control_dependencies([tf.debugging.Assert(is_same, [f"{seen.name} {OTHER_ORDER}"])]):
            count = tf.shape(images)[0]
        filled = tf.pad(images, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
        return tf.ensure_shape(filled, (batch_size, *image_shape)), count

    images, labels, digests = _images(dataset, image_shape), seen.labels, seen.digests
    if size is not None and size < len(labels):
        is_chosen = _spread(labels, size)
        keep = tf.data.Dataset.from_tensor_slices(is_chosen)
        chosen = tf.data.Dataset.zip(images.unbatch(), keep).filter(lambda _, kept: kept)
        images = chosen.map(lambda image, _: image).batch(batch_size)
        labels, digests = labels[is_chosen], digests[is_chosen]
    # Both end in an empty batch, so that a pass with fewer or more images than expected is noticed, too.
    no_images = tf.data.Dataset.from_tensors(tf.zeros((0, *image_shape))).repeat()
    no_digests = tf.data.Dataset.from_tensors(tf.zeros((0,), tf.int32))
    given = images.rebatch(batch_size).concatenate(no_images)
    expected = tf.data.Dataset.from_tensor_slices(digests).batch(batch_size).concatenate(no_digests)
    compared = tf.data.Dataset.zip(given, expected).map(compare).filter(lambda _, count: count > 0)
    batches = compared.map(lambda filled, _: filled).prefetch(tf.data.AUTOTUNE)
    batches = batches.apply(tf.data.experimental.assert_cardinality(-(-len(labels) // batch_size)))
    normal, anomalous = (np.flatnonzero(labels == kind)[:EXAMPLES_OF_EACH_KIND] for kind in (0, 1))
    with same_order():  # this second look at a split finds most of those that come in another order each time
        examples = _images_at(batches, np.concatenate([normal, anomalous]), image_shape)
    fingerprint = hashlib.sha256(digests.tobytes()).hexdigest()
    return ScoringSplit(batches, labels, examples[: len(normal)], examples[len(normal) :], fingerprint)


@contextlib.contextmanager
def same_order() -> Iterator[None]:
    """Turns the error of a split that gave other images than in its survey into one line that names the split."""
    try:
        yield
    except tf.errors.OpError as problem:
        told = re.search(rf"[\w.]+ {re.escape(OTHER_ORDER)}", str(problem))
        if not told:
            raise
        raise ToolboxError(told.group()) from problem


def images_at(split: ScoringSplit, indices: np.ndarray) -> np.ndarray:
    """The images of a split at these places, in this order."""
    return _images_at(split.batches, indices, split.normal_examples.shape[1:])


def _images_at(batches: tf.data.Dataset, indices: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    found, first = {}, 0
    for batch in batches.as_numpy_iterator():
        found |= {index: batch[index - first] for index in indices if first <= index < first + len(batch)}
        first += len(batch)
    return np.reshape([found[index] for index in indices], (len(indices), *image_shape)).astype(np.float32)


def _images(dataset: tf.data.Dataset, image_shape: tuple[int, int, int]) -> tf.data.Dataset:
    received, expected = dataset.element_spec[0].shape, tf.TensorShape((None, *image_shape))
    if not received.is_compatible_with(expected):
        raise ToolboxError(f"the dataset gives images of shape {received}, expected batches of shape {expected}")
    return dataset.map(lambda image, _: tf.ensure_shape(tf.cast(image, tf.float32), expected))


def _spread(labels: np.ndarray, size: int) -> np.ndarray:
    """Which images to keep: of each kind its share of `size`, but at least one, at even distances."""
    is_chosen = np.zeros(len(labels), bool)
    for kind in np.unique(labels):
        of_kind = np.flatnonzero(labels == kind)
        share = max(1, round(size * len(of_kind) / len(labels)))
        is_chosen[of_kind[np.linspace(0, len(of_kind) - 1, share).astype(int)]] = True
    return is_chosen


def survey(dataset: AnomalyDetectionDataset, split: str, look: Callable[[str, int], None] | None = None) -> Survey:
    """Looks at every image of a split once, which fills its cache; see `surveys`."""
    name, batches = f"{type(dataset).__name__}.{split}", getattr(dataset, split)
    _check_pairs(name, batches)
    labels, digests = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    low, high, count, different = 1.0, -1.0, 0, set()
    for images, of_batch in batches.as_numpy_iterator():
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
        digests.append(digests_of(images).numpy())
        different.update(digests[-1].tolist())
        count += len(images)
        if look is not None:
            look(name, count)
        if int(batches.cardinality()) < 0 and count > max(LEAST_REPEATED, MOST_REPEATS * len(different)):
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


def _check_kind(seen: Survey, expected: int) -> None:
    """Raises ToolboxError if a split that should have images of one kind, 0 or 1, has others."""
    n_wrong = int(np.count_nonzero(seen.labels != expected))
    if not n_wrong:
        return
    kinds = ("normal", "anomalous")
    advice = f"fill it with {kinds[expected]} images alone"
    if n_wrong == len(seen.labels):
        advice = "labels seem to be swapped: 0 means normal, 1 anomalous"
    raise ToolboxError(
        f"{seen.name} gives {n_wrong:,} of {len(seen.labels):,} images with the label {1 - expected}, which means "
        f"{kinds[1 - expected]}; expected {expected} ({kinds[expected]}) for all: {advice}"
    )
