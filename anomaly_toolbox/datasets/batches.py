"""From a configured dataset to what the compiled steps take: batches of images, all of one static shape.

XLA compiles a step for one shape, so training leaves out the last, incomplete batch, and scoring fills it up; the
filling is cut off again, so that every image is scored.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.survey import Survey, cause_of, digests_of
from anomaly_toolbox.errors import InputError, ToolboxError

EXAMPLES_OF_EACH_KIND = 6
LEAST_SHUFFLED = 10  # fewer different images may come in the same order twice by chance
OTHER_ORDER = (
    "gives other images, or in another order, each time it is read, so that scores would not belong to the labels; "
    "expected the same order: leave out shuffle and random changes, and pass is_training=False to pipeline"
)


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
    images = _pairs(train_normal, image_shape, "train_normal").map(lambda images, _: images)
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
    for images, labels in _pairs(train_normal, image_shape, seen.name).as_numpy_iterator():
        drawn.append(images[is_drawn[first : first + len(images)]])
        digests.append(digests_of(images, labels).numpy())
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

    def compare(pair, digests):
        images, of_images = pair
        is_same = tf.cond(
            tf.equal(tf.shape(images)[0], tf.shape(digests)[0]),
            lambda: tf.reduce_all(tf.equal(digests_of(images, of_images), digests)),
            lambda: False,
        )
        with tf.control_dependencies([tf.debugging.Assert(is_same, [f"{seen.name} {OTHER_ORDER}"])]):
            count = tf.shape(images)[0]
        filled = tf.pad(images, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
        return tf.ensure_shape(filled, (batch_size, *image_shape)), count

    pairs, labels, digests = _pairs(dataset, image_shape, seen.name), seen.labels, seen.digests
    if size is not None and size < len(labels):
        is_chosen = _spread(labels, size)
        keep = tf.data.Dataset.from_tensor_slices(is_chosen)
        chosen = tf.data.Dataset.zip(pairs.unbatch(), keep).filter(lambda _, kept: kept)
        pairs = chosen.map(lambda pair, _: pair).batch(batch_size)
        labels, digests = labels[is_chosen], digests[is_chosen]
    # Both end in an empty batch, so that a pass with fewer or more images than expected is noticed, too.
    nothing = tf.zeros((0,), tf.int32)
    no_pairs = tf.data.Dataset.from_tensors((tf.zeros((0, *image_shape)), nothing)).repeat()
    given = pairs.rebatch(batch_size).concatenate(no_pairs)
    expected = tf.data.Dataset.from_tensor_slices(digests).batch(batch_size)
    expected = expected.concatenate(tf.data.Dataset.from_tensors(nothing))
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
        if not told and "Traceback" not in str(problem):
            raise
        line = told.group() if told else f"while images were read: {cause_of(problem)}"
        raise ToolboxError(line) from problem


def images_at(split: ScoringSplit, indices: np.ndarray) -> np.ndarray:
    """The images of a split at these places, in this order."""
    return _images_at(split.batches, indices, split.normal_examples.shape[1:])


def _images_at(batches: tf.data.Dataset, indices: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    found, first = {}, 0
    for batch in batches.as_numpy_iterator():
        found |= {index: batch[index - first] for index in indices if first <= index < first + len(batch)}
        first += len(batch)
    return np.reshape([found[index] for index in indices], (len(indices), *image_shape)).astype(np.float32)


def _pairs(dataset: tf.data.Dataset, image_shape: tuple[int, int, int], name: str) -> tf.data.Dataset:
    """Batches of images, float32, and labels, (batch,), int32; ToolboxError if images have another shape."""
    received, expected = dataset.element_spec[0].shape, tf.TensorShape((None, *image_shape))
    if not received.is_compatible_with(expected):
        raise ToolboxError(f"{name} gives images of shape {received}, expected batches of shape {expected}")

    def prepare(images, labels):
        images = tf.ensure_shape(tf.cast(images, tf.float32), expected)
        return images, tf.reshape(tf.cast(labels, tf.int32), [-1])

    return dataset.map(prepare)


def _spread(labels: np.ndarray, size: int) -> np.ndarray:
    """Which images to keep: of each kind its share of `size`, but at least one, at even distances."""
    is_chosen = np.zeros(len(labels), bool)
    for kind in np.unique(labels):
        of_kind = np.flatnonzero(labels == kind)
        share = max(1, round(size * len(of_kind) / len(labels)))
        is_chosen[of_kind[np.linspace(0, len(of_kind) - 1, share).astype(int)]] = True
    return is_chosen
