"""From a configured dataset to the batches that compiled steps take, all of one static shape.

XLA compiles a step for one shape. Training therefore leaves out the last, incomplete batch. Scoring fills it up with
zeros, whose scores are removed afterwards, so that every image is scored.
"""

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.survey import Survey, cause_of, image_digests
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.tf_data import without_autotuning

BATCHES_AHEAD = 2  # that are ready before they are needed
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
        batches: batches of images, (batch, height, width, channels), float32; the last batch is filled up with zeros.
            Every pass compares the images with those of the survey and raises a TensorFlow error if they differ, which
            `reraise_other_order` turns into one line.
        labels: (n,), 0 or 1, in the order of the images.
        positions: (n,), of the images in the whole split, from 0.
        normal_examples: at most six normal images, (m, height, width, channels), float32, for pictures.
        anomalous_examples: at most six anomalous images, likewise.
        digest: a checksum of all images with their labels.
    """

    batches: tf.data.Dataset
    labels: np.ndarray
    positions: np.ndarray
    normal_examples: np.ndarray
    anomalous_examples: np.ndarray
    digest: str

    @property
    def examples(self) -> np.ndarray:
        """The normal examples, then the anomalous ones."""
        return np.concatenate([self.normal_examples, self.anomalous_examples])


def training_batches(
    train: tf.data.Dataset,
    batch_size: int,
    image_shape: tuple[int, int, int],
    count: int,
    epochs_done: int,
    shuffle_buffer_size: int | None = None,
    with_classes: bool = False,
) -> tf.data.Dataset:
    """Makes full batches of the normal training images, without end; an epoch has `count // batch_size` of them.

    Args:
        train: `train_normal` or, for a method that uses normal classes, `train_classes` of a dataset.
        batch_size, image_shape: the static shape of the batches; `image_shape` is (height, width, channels).
        count: the number of images in the split.
        epochs_done: the number of epochs of an interrupted training; the order of the images continues after them.
        shuffle_buffer_size: the number of images that are shuffled at a time; None: the dataset shuffles them itself.
        with_classes: whether a batch is `(images, classes)`, with classes (batch,), int32, or `images` alone.

    Raises:
        InputError: there are not enough images for one batch.
    """
    check_batch_size(batch_size, count)
    batches = _pairs(train, image_shape, "train_classes" if with_classes else "train_normal")
    if not with_classes:
        batches = batches.map(lambda images, _: images)
    if shuffle_buffer_size is not None:
        batches = batches.unbatch().shuffle(shuffle_buffer_size, reshuffle_each_iteration=True).batch(batch_size)
    for _ in range(epochs_done):
        iter(batches)  # each iterator makes the shuffling draw the next order
    return without_autotuning(batches.rebatch(batch_size, drop_remainder=True).repeat().prefetch(BATCHES_AHEAD))


def check_batch_size(batch_size: int, count: int) -> None:
    """Raises InputError if `count` training images are not enough for one batch."""
    if count < batch_size:
        raise InputError(
            f"batch_size: {batch_size} is larger than the training set, which has {count} normal images; give a "
            f"smaller one, such as --set batch_size={max(2, count // 4)}"
        )


def sample_images(
    train: tf.data.Dataset, survey: Survey, image_shape: tuple[int, int, int], size: int, seed: int
) -> tuple[np.ndarray, bool]:
    """Draws a uniform sample of the normal training images, without replacement.

    Args:
        train: `train_normal` or `train_classes` of a dataset.
        survey: its survey.
        image_shape: (height, width, channels).
        size: the number of images to draw; all are taken if there are fewer.
        seed: the seed of the draw.

    Returns:
        The images, (size, height, width, channels), float32; and whether the dataset shuffles its training images: they
        came in another order than in the survey, or there are too few to compare orders.

    Raises:
        ToolboxError: the number of images is not that of the survey.
    """
    n_images = len(survey.labels)
    is_drawn = np.zeros(n_images, bool)
    is_drawn[np.random.default_rng(seed).permutation(n_images)[:size]] = True
    drawn = []
    all_digests = [np.zeros(0, np.int32)]
    start = 0
    for images, labels in _pairs(train, image_shape, survey.name).as_numpy_iterator():
        drawn.append(images[is_drawn[start : start + len(images)]])
        all_digests.append(image_digests(images, labels).numpy())
        start += len(images)
    if start != n_images:
        raise ToolboxError(
            f"{survey.name} gave {n_images:,} images, and {start:,} when it was read again; expected the same number"
        )
    has_few = len(np.unique(survey.digests)) < LEAST_SHUFFLED
    is_reordered = not np.array_equal(np.concatenate(all_digests), survey.digests)
    return np.concatenate(drawn), has_few or is_reordered


def scoring_split(
    dataset: tf.data.Dataset,
    survey: Survey,
    batch_size: int,
    image_shape: tuple[int, int, int],
    size: int | None = None,
) -> ScoringSplit:
    """Prepares a split, or a sample of it, for scoring.

    Args:
        dataset: a split of a dataset.
        survey: the survey of the split.
        batch_size, image_shape: the static shape of the batches; `image_shape` is (height, width, channels).
        size: the approximate size of the sample, spread evenly over each kind so that the prevalence stays; None: all
            images.

    Raises:
        ToolboxError: the images have another shape, or are not those of the survey in the same order.
    """
    pairs = _pairs(dataset, image_shape, survey.name)
    labels, digests = survey.labels, survey.digests
    positions = np.arange(len(labels))
    if size is not None and size < len(labels):
        is_chosen = _spread(labels, size)
        pairs = _select(pairs, is_chosen).batch(batch_size)
        labels, digests, positions = labels[is_chosen], digests[is_chosen], positions[is_chosen]
    batches = _checked_batches(pairs, digests, survey.name, batch_size, image_shape)
    normal = np.flatnonzero(labels == 0)[:EXAMPLES_OF_EACH_KIND]
    anomalous = np.flatnonzero(labels == 1)[:EXAMPLES_OF_EACH_KIND]
    with reraise_other_order():  # this second pass finds most splits that come in a new order each time
        examples = _read_images(batches, np.concatenate([normal, anomalous]), image_shape)
    digest = hashlib.sha256(digests.tobytes()).hexdigest()
    return ScoringSplit(batches, labels, positions, examples[: len(normal)], examples[len(normal) :], digest)


def _checked_batches(
    pairs: tf.data.Dataset, digests: np.ndarray, name: str, batch_size: int, image_shape: tuple[int, int, int]
) -> tf.data.Dataset:
    """Batches of images, the last one filled up with zeros; every pass compares them with the checksums.

    Args:
        pairs: batches of images and labels.
        digests: the expected checksums, (n,).
        name: the name of the split, for errors.
        batch_size, image_shape: the static shape of the batches.
    """
    # Empty batches follow the images on both sides, so that too few or too many images are found as well.
    no_labels = tf.zeros((0,), tf.int32)
    no_pairs = tf.data.Dataset.from_tensors((tf.zeros((0, *image_shape)), no_labels)).repeat()
    received = pairs.rebatch(batch_size).concatenate(no_pairs)
    no_digests = tf.data.Dataset.from_tensors(tf.zeros((0,), tf.int32))
    expected = tf.data.Dataset.from_tensor_slices(digests).batch(batch_size).concatenate(no_digests)

    def check_and_fill(pair, digests):
        images, labels = pair
        n_images = tf.shape(images)[0]
        is_same = tf.cond(
            tf.equal(n_images, tf.shape(digests)[0]),
            lambda: tf.reduce_all(tf.equal(image_digests(images, labels), digests)),
            lambda: False,
        )
        with tf.control_dependencies([tf.debugging.Assert(is_same, [f"{name} {OTHER_ORDER}"])]):
            n_images = tf.identity(n_images)
        filled = tf.pad(images, [[0, batch_size - n_images], [0, 0], [0, 0], [0, 0]])
        return tf.ensure_shape(filled, (batch_size, *image_shape)), n_images

    checked = tf.data.Dataset.zip(received, expected).map(check_and_fill)
    batches = checked.filter(lambda _, n_images: n_images > 0).map(lambda images, _: images)
    n_batches = math.ceil(len(digests) / batch_size)
    ahead = without_autotuning(batches.prefetch(BATCHES_AHEAD))
    return ahead.apply(tf.data.experimental.assert_cardinality(n_batches))


@contextlib.contextmanager
def reraise_other_order() -> Iterator[None]:
    """Turns the error of a split that gave other images than in its survey into one line with the split's name.

    Raises:
        ToolboxError: replaces a TensorFlow error about the order, or about a user's own function.
    """
    try:
        yield
    except tf.errors.OpError as problem:
        order_message = re.search(rf"[\w.]+ {re.escape(OTHER_ORDER)}", str(problem))
        if order_message:
            raise ToolboxError(order_message.group()) from problem
        if "Traceback" in str(problem):
            raise ToolboxError(f"reading images failed: {cause_of(problem)}") from problem
        raise


def images_at(split: ScoringSplit, indices: np.ndarray) -> np.ndarray:
    """The images of a split at some indices, in their order -> (len(indices), height, width, channels), float32."""
    return _read_images(split.batches, indices, split.normal_examples.shape[1:])


def _read_images(batches: tf.data.Dataset, indices: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    images = np.zeros((len(indices), *image_shape), np.float32)
    start = 0
    for batch in batches.as_numpy_iterator():
        is_in_batch = (start <= indices) & (indices < start + len(batch))
        images[is_in_batch] = batch[indices[is_in_batch] - start]
        start += len(batch)
    return images


def _pairs(dataset: tf.data.Dataset, image_shape: tuple[int, int, int], name: str) -> tf.data.Dataset:
    """Batches of images, float32, and of labels, (batch,), int32; raises ToolboxError if images have another shape."""
    received, expected = dataset.element_spec[0].shape, tf.TensorShape((None, *image_shape))
    if not received.is_compatible_with(expected):
        raise ToolboxError(f"{name} gives images of shape {received}, expected batches of shape {expected}")

    def prepare(images, labels):
        images = tf.ensure_shape(tf.cast(images, tf.float32), expected)
        return images, tf.reshape(tf.cast(labels, tf.int32), [-1])

    return dataset.map(prepare)


def _select(pairs: tf.data.Dataset, is_chosen: np.ndarray) -> tf.data.Dataset:
    """The chosen pairs, one at a time; `is_chosen` is (n,), bool, in the order of the images."""
    choices = tf.data.Dataset.from_tensor_slices(is_chosen)
    chosen = tf.data.Dataset.zip(pairs.unbatch(), choices).filter(lambda _, is_chosen: is_chosen)
    return chosen.map(lambda pair, _: pair)


def _spread(labels: np.ndarray, size: int) -> np.ndarray:
    """Chooses about `size` images at even distances, and at least one of each kind; the prevalence stays -> (n,), bool.

    Args:
        labels: (n,), 0 or 1.
        size: the number of images to choose.
    """
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        n_chosen = max(1, round(size * len(indices) / len(labels)))
        positions = np.linspace(0, len(indices) - 1, n_chosen).astype(int)
        is_chosen[indices[positions]] = True
    return is_chosen
