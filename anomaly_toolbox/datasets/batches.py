"""From a configured dataset to what the compiled steps take: batches of images, all of one static shape.

XLA compiles a step for one shape, so training leaves out the last, incomplete batch, and scoring fills it up; the
filling is cut off again, so that every image is scored.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError, ToolboxError

OVERSHOOT = 0.5  # a user's resizing may overshoot the range a little
NEEDED = ("train_normal", "validation", "test")
EXAMPLES_OF_EACH_KIND = 6


@dataclass(frozen=True)
class ScoringSplit:
    """A validation or test split.

    Attributes:
        batches: images, each batch of the full size; the last is filled up with zeros.
        labels: (n,), 0 or 1, in the order of the images.
        examples: a few normal, then a few anomalous images, float32, for pictures.
    """

    batches: tf.data.Dataset
    labels: np.ndarray
    examples: np.ndarray


def count_images(dataset: AnomalyDetectionDataset) -> dict[str, dict[str, int]]:
    """Images of each kind in each split: {"train": {"normal": n, "anomalous": n}, ...}.

    The pass over the training images fills their cache, so the first epoch is none the slower for it.
    """
    for name in NEEDED:
        if not isinstance(getattr(dataset, name), tf.data.Dataset):
            raise ToolboxError(f"{type(dataset).__name__}.configure has not filled {name}")
    labels = {split: _checked_labels(dataset, split) for split in ("validation", "test")}
    labels["train"] = _checked_labels(dataset, "train_normal")
    if dataset.train_anomalous is not None:
        labels["train"] = np.concatenate([labels["train"], _checked_labels(dataset, "train_anomalous")])
    return {
        split: {"normal": int((labels[split] == 0).sum()), "anomalous": int((labels[split] == 1).sum())}
        for split in ("train", "validation", "test")
    }


def training_batches(
    train_normal: tf.data.Dataset, batch_size: int, image_shape: tuple[int, int, int], count: int, epochs_done: int
) -> tf.data.Dataset:
    """Whole batches of the normal training images, epoch after epoch without end, `count // batch_size` in each.

    Args:
        train_normal: what a dataset gives.
        batch_size, image_shape: the static shape of the batches.
        count: images in it.
        epochs_done: epochs to leave behind: the order goes on as if they had been drawn from it.

    Raises:
        InputError: there is not even one whole batch.
    """
    if count < batch_size:
        raise InputError(
            f"batch_size: {batch_size} is larger than the training set, which has {count} normal images; give a "
            f"smaller one, such as --set batch_size={max(2, count // 4)}"
        )
    for _ in range(epochs_done):
        iter(train_normal)  # the shuffling draws a new order for each iterator
    return (
        _images(train_normal, image_shape).rebatch(batch_size, drop_remainder=True).repeat().prefetch(tf.data.AUTOTUNE)
    )


def sample_images(
    train_normal: tf.data.Dataset, image_shape: tuple[int, int, int], count: int, size: int, seed: int
) -> np.ndarray:
    """`size` of the `count` normal training images, (size, ...), drawn without preference; all if there are fewer."""
    is_drawn = np.zeros(count, bool)
    is_drawn[np.random.default_rng(seed).permutation(count)[:size]] = True
    drawn, seen = [], 0
    for images in _images(train_normal, image_shape).as_numpy_iterator():
        drawn.append(images[is_drawn[seen : seen + len(images)]])
        seen += len(images)
    return np.concatenate(drawn)


def scoring_split(
    dataset: tf.data.Dataset, batch_size: int, image_shape: tuple[int, int, int], size: int | None = None
) -> ScoringSplit:
    """A split that can be scored: all of its images in order, or a sample.

    Args:
        dataset: what a dataset gives.
        batch_size, image_shape: the static shape of the batches.
        size: take about so many images, spread evenly over each kind, so that the prevalence stays; None: all.
    """

    def fill(images):
        missing = batch_size - tf.shape(images)[0]
        return tf.ensure_shape(tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]), (batch_size, *image_shape))

    labels = _labels(dataset)
    if size is not None and size < len(labels):
        is_chosen = _spread(labels, size)
        keep = tf.data.Dataset.from_tensor_slices(is_chosen)
        pairs = tf.data.Dataset.zip(dataset.unbatch(), keep).filter(lambda _, kept: kept).map(lambda pair, _: pair)
        dataset, labels = pairs.batch(batch_size), labels[is_chosen]
    images = _images(dataset, image_shape)
    batches = images.rebatch(batch_size).map(fill).prefetch(tf.data.AUTOTUNE)
    return ScoringSplit(
        batches=batches.apply(tf.data.experimental.assert_cardinality(-(-len(labels) // batch_size))),
        labels=labels,
        examples=np.concatenate([_examples(dataset, images, kind) for kind in (0, 1)]),
    )


def images_at(split: ScoringSplit, indices: np.ndarray) -> np.ndarray:
    """The images of a split at these places, in this order."""
    found, first = {}, 0
    for batch in split.batches.as_numpy_iterator():
        found |= {index: batch[index - first] for index in indices if first <= index < first + len(batch)}
        first += len(batch)
    return np.stack([found[index] for index in indices])


def _images(dataset: tf.data.Dataset, image_shape: tuple[int, int, int]) -> tf.data.Dataset:
    received, expected = dataset.element_spec[0].shape, tf.TensorShape((None, *image_shape))
    if not received.is_compatible_with(expected):
        raise ToolboxError(f"the dataset gives images of shape {received}, expected batches of shape {expected}")
    return dataset.map(lambda image, _: tf.ensure_shape(tf.cast(image, tf.float32), expected))


def _labels(dataset: tf.data.Dataset) -> np.ndarray:
    labels = dataset.map(lambda _, label: tf.reshape(tf.cast(label, tf.int32), [-1]))
    return np.concatenate([np.zeros(0, np.int32), *labels.as_numpy_iterator()])


def _spread(labels: np.ndarray, size: int) -> np.ndarray:
    """Which images to keep: of each kind its share of `size`, but at least one, at even distances."""
    is_chosen = np.zeros(len(labels), bool)
    for kind in np.unique(labels):
        of_kind = np.flatnonzero(labels == kind)
        share = max(1, round(size * len(of_kind) / len(labels)))
        is_chosen[of_kind[np.linspace(0, len(of_kind) - 1, share).astype(int)]] = True
    return is_chosen


def _checked_labels(dataset: AnomalyDetectionDataset, name: str) -> np.ndarray:
    """The labels of a split whose batches are what they should be: images in [-1, 1], labels 0 or 1."""
    place, split = f"{type(dataset).__name__}.{name}", getattr(dataset, name)
    spec = split.element_spec
    if not (isinstance(spec, tuple) and len(spec) == 2):
        raise ToolboxError(f"{place} gives {spec}, expected pairs (image, label)")
    if not any(spec[1].shape.is_compatible_with(shape) for shape in ((None,), (None, 1))):
        raise ToolboxError(f"{place} gives labels of shape {spec[1].shape}, expected one number an image")
    extremes = split.map(lambda image, label: (tf.reduce_min(image), tf.reduce_max(image), tf.reshape(label, [-1])))
    labels = [np.zeros(0, np.int32)]
    for low, high, of_batch in extremes.as_numpy_iterator():
        if not (low >= -1 - OVERSHOOT and high <= 1 + OVERSHOOT):  # NaN is neither
            raise ToolboxError(f"{place} gives image values from {low} to {high}, expected [-1, 1]")
        if not np.isin(of_batch, (0, 1)).all():
            raise ToolboxError(f"{place} gives labels {np.unique(of_batch)}, expected 0 (normal) and 1 (anomalous)")
        labels.append(of_batch.astype(np.int32))
    return np.concatenate(labels)


def _examples(dataset: tf.data.Dataset, images: tf.data.Dataset, kind: int) -> np.ndarray:
    labels = dataset.map(lambda _, label: tf.reshape(label, [-1]))
    chosen = (
        tf.data.Dataset.zip(images, labels).unbatch().filter(lambda _, label: tf.equal(tf.cast(label, tf.int32), kind))
    )
    found = [image for image, _ in chosen.take(EXAMPLES_OF_EACH_KIND).as_numpy_iterator()]
    return np.reshape(found, (len(found), *images.element_spec.shape[1:])).astype(np.float32)
