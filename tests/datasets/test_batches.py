"""Surveys of datasets, and batches of one static shape for training and scoring."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets.batches import (
    images_at,
    reraise_other_order,
    sample_images,
    scoring_split,
    training_batches,
)
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.survey import Survey, count_images, image_digests, notes, surveys
from anomaly_toolbox.errors import InputError, ToolboxError

SHAPE = (2, 2, 1)


def numbered(n, is_training=False):
    """n images of 2x2 pixels in batches; all pixels of image i are i, and every third image is anomalous."""
    images = np.ones((n, *SHAPE), np.float32) * np.arange(n, dtype=np.float32)[:, None, None, None]
    dataset = tf.data.Dataset.from_tensor_slices((images, (np.arange(n) % 3 == 2).astype(int)))
    return (dataset.shuffle(n) if is_training else dataset).batch(4)


def numbers(batches):
    return [batch[:, 0, 0, 0].tolist() for batch in batches.as_numpy_iterator()]


def surveyed(dataset):
    """A survey of a dataset whose images need not be in [-1, 1]."""
    all_digests, all_labels = [], []
    for images, labels in dataset:
        all_digests.append(image_digests(tf.cast(images, tf.float32), labels).numpy())
        all_labels.append(labels.numpy().astype(np.int32))
    return Survey("Given.test", np.concatenate(all_labels), np.concatenate(all_digests), 0.0, 1.0)


def split_of(dataset, batch_size, shape=SHAPE, size=None):
    return scoring_split(dataset, surveyed(dataset), batch_size, shape, size)


def test_scoring_fills_the_last_batch_and_has_every_image():
    split = split_of(numbered(10), 8)
    assert numbers(split.batches) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0, 0, 0]]
    assert split.labels.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert int(split.batches.cardinality()) == 2
    assert split.batches.element_spec.shape == (8, *SHAPE)


def test_examples_are_normal_images_then_anomalous_images():
    split = split_of(numbered(10), 8)
    assert split.examples[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7, 2, 5, 8]
    assert split.normal_examples[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7]
    assert split.anomalous_examples[:, 0, 0, 0].tolist() == [2, 5, 8]
    assert split_of(numbered(2), 8).anomalous_examples.shape == (0, *SHAPE)


def test_images_at_some_indices_of_a_split():
    split = split_of(numbered(10), 4)
    assert images_at(split, np.array([7, 0, 9]))[:, 0, 0, 0].tolist() == [7, 0, 9]


def test_a_sample_of_a_split_keeps_the_prevalence_and_the_order():
    split = split_of(numbered(30), 4, size=9)
    chosen = np.concatenate(numbers(split.batches))[:9]
    assert split.labels.sum() == 3
    assert split.labels.tolist() == [int(number % 3 == 2) for number in chosen]
    assert (np.diff(chosen) > 0).all()
    assert chosen[-1] >= 27
    assert all(number % 3 == 2 for number in split.anomalous_examples[:, 0, 0, 0])
    assert len(split_of(numbered(30), 4, size=31).labels) == 30
    assert split_of(numbered(30), 4, size=2).labels.sum() == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.unbatch().shuffle(10, seed=1).batch(4),
        lambda data: data.map(lambda x, y: (x + tf.random.uniform(()), y)),
        lambda data: data.unbatch().skip(2).batch(4),
        lambda data: data.map(lambda x, y: (x, y[::-1])),
        lambda data: data.take(1),
        lambda data: data.concatenate(data.take(1)),
        lambda data: data.unbatch().filter(lambda x, y: y == 0).batch(4),
    ],
    ids=["another order", "other pixels", "other labels", "fewer images", "fewer batches", "more batches", "one kind"],
)
def test_a_split_with_other_images_in_the_second_pass_is_refused_by_name(change):
    with pytest.raises(
        ToolboxError, match=r"^Given\.test gives other images, or in another order, .*is_training=False"
    ):
        scoring_split(change(numbered(10)), surveyed(numbered(10)), 8, SHAPE)


def test_another_order_in_a_later_pass_is_found():
    """The first two passes agree, as those of a small shuffled split may."""
    passes = tf.Variable(0, dtype=tf.int64)

    def negated_later():
        data = numbered(10)
        count = passes.assign_add(1)
        return data.map(lambda x, y: (tf.where(count > 2, -x, x), y))

    data = tf.data.Dataset.range(1).flat_map(lambda _: negated_later())
    split = scoring_split(data, surveyed(data), 8, SHAPE)
    with reraise_other_order(), pytest.raises(tf.errors.OpError, match=r"Given\.test gives other images"):
        numbers(split.batches)
    with pytest.raises(ToolboxError, match=r"^Given\.test gives other images"), reraise_other_order():
        numbers(split.batches)


def test_a_digest_depends_on_each_pixel_and_its_position():
    images = np.random.default_rng(0).uniform(-1, 1, (5, 4, 4, 3)).astype(np.float32)
    normal = np.zeros(5)
    digests = image_digests(images, normal).numpy()

    def fold(number):
        return number ^ (number >> 16)

    for image, digest in zip(images, digests, strict=True):
        total = 0
        for position, bits in enumerate(image.ravel().view(np.uint32).tolist()):
            total += fold(fold(bits) * (2 * position * 1_327_217_885 + 1) % 2**32)
        assert (total + 2**31) % 2**32 - 2**31 == digest
    assert not np.isin(image_digests(-images, normal), digests).any()
    assert not np.isin(image_digests(images, normal + 1), digests).any()
    swapped = images.copy()
    swapped[0, 0, 0], swapped[0, 0, 1] = images[0, 0, 1], images[0, 0, 0]
    assert (image_digests(swapped, normal).numpy() == digests).tolist() == [False, True, True, True, True]


def test_a_sample_of_the_training_images():
    def drawn(size, seed):
        images, _ = sample_images(numbered(50), surveyed(numbered(50)), SHAPE, size, seed)
        return images[:, 0, 0, 0].tolist()

    assert len(set(drawn(20, seed=1))) == 20
    assert drawn(20, seed=1) == drawn(20, seed=1) != drawn(20, seed=2)
    assert drawn(60, seed=1) == list(range(50))


def test_fewer_training_images_in_the_second_pass_are_refused():
    with pytest.raises(ToolboxError, match=r"Given\.test gave 50 images, and 40 when it was read again"):
        sample_images(numbered(50).take(10), surveyed(numbered(50)), SHAPE, 5, 0)


def test_training_images_without_shuffling_are_found_and_shuffled():
    _, is_shuffled = sample_images(numbered(50), surveyed(numbered(50)), SHAPE, 5, 0)
    assert not is_shuffled
    shuffled = numbered(50, is_training=True)
    assert sample_images(shuffled, surveyed(shuffled), SHAPE, 5, 0)[1]
    tf.random.set_seed(1)
    epochs = numbers(training_batches(numbered(12), 4, SHAPE, 12, 0, shuffle_buffer_size=12).take(9))
    orders = [np.ravel(epochs[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(map(str, orders))) == 3
    tf.random.set_seed(1)
    rest = numbers(training_batches(numbered(12), 4, SHAPE, 12, 2, shuffle_buffer_size=12).take(3))
    assert rest == epochs[6:]


def test_training_batches_are_full_and_endless():
    batches = training_batches(numbered(10), 4, SHAPE, count=10, epochs_done=0)
    assert numbers(batches.take(3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert batches.element_spec.shape == (4, *SHAPE)


def test_the_training_order_continues_after_a_break():
    tf.random.set_seed(1)
    uninterrupted = numbers(training_batches(numbered(8, is_training=True), 4, SHAPE, 8, epochs_done=0).take(8))
    tf.random.set_seed(1)
    rest = numbers(training_batches(numbered(8, is_training=True), 4, SHAPE, 8, epochs_done=3).take(2))
    assert rest == uninterrupted[6:]
    assert len({str(uninterrupted[i : i + 2]) for i in (0, 2, 4, 6)}) == 4


@pytest.mark.parametrize("shuffle_buffer_size", [None, 10])
def test_training_batches_with_classes_are_those_without_and_their_classes(shuffle_buffer_size):
    def batches(with_classes):
        tf.random.set_seed(1)
        dataset = numbered(10, is_training=True)
        return training_batches(dataset, 4, SHAPE, 10, 1, shuffle_buffer_size, with_classes).take(6)

    pairs = batches(with_classes=True)
    assert numbers(pairs.map(lambda images, _: images)) == numbers(batches(with_classes=False))
    for images, classes in pairs.as_numpy_iterator():
        assert classes.dtype == np.int32
        np.testing.assert_array_equal(classes, images[:, 0, 0, 0] % 3 == 2)


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(InputError, match="batch_size: 11 is larger than the training set, which has 10"):
        training_batches(numbered(10), 11, SHAPE, count=10, epochs_done=0)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ToolboxError, match=r"Given\.test gives images of shape"):
        split_of(numbered(10), 8, (2, 2, 3))


class Given(AnomalyDetectionDataset):
    """A dataset with the given splits."""

    def __init__(self, split, train_normal=None, train_anomalous=None, test_normal=None):
        super().__init__()
        self._validation = self._test = split
        self._train_normal = normal_of(split) if train_normal is None and split is not None else train_normal
        self._train_anomalous, self._test_normal = train_anomalous, test_normal

    def configure(self, *_, **__):
        """Does nothing: the constructor has set the splits."""


def normal_of(split):
    return split.unbatch().filter(lambda *pair: tf.reduce_all(tf.equal(pair[-1], 0))).batch(4)


def shrunk(x, y):
    return x / 10, y


def test_images_are_counted_by_kind():
    progress = []
    given = Given(numbered(10).map(shrunk), train_anomalous=numbered(3).map(shrunk).unbatch().skip(2).batch(2))
    counts = count_images(surveys(given, lambda split, count: progress.append((split, count))))
    assert counts == {
        "train": {"normal": 7, "anomalous": 1},
        "validation": {"normal": 7, "anomalous": 3},
        "test": {"normal": 7, "anomalous": 3},
    }
    assert progress[:3] == [("Given.validation", 4), ("Given.validation", 8), ("Given.validation", 10)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x / 10, y + 5), r"gives labels .*, expected 0 \(normal\) and 1 \(anomalous\)"),
        (lambda x, y: (x / 10, tf.one_hot(y, 2)), r"labels of shape \(None, 2\), expected one number for each image"),
        (lambda x, y: (x / 10, y, y), r"expected pairs \(image, label\)"),
        (lambda x, y: (x * 20, y), r"image values from 0.0 to 60.0, expected \[-1, 1\]"),
        (lambda x, y: (x / 0, y), r"image values from nan to nan"),
        (lambda x, y: (x / 10, y[1:]), r"gives 3 labels with 4 images"),
    ],
)
def test_wrong_images_and_labels_are_refused_before_training(change, message):
    with pytest.raises(ToolboxError, match=rf"Given\.validation.*{message}"):
        surveys(Given(numbered(4).map(change), numbered(4)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train_normal": numbered(10).map(shrunk)},
            r"train_normal gives 3 of 10 images with the label 1, which means anomalous; expected 0 \(normal\) for "
            "all: use only normal images",
        ),
        (
            {"train_normal": normal_of(numbered(10)).map(lambda x, y: (x / 10, 1 - y))},
            r"train_normal gives 7 of 7 .*: labels seem to be swapped: 0 means normal, 1 anomalous",
        ),
        (
            {"train_anomalous": numbered(10).map(shrunk)},
            r"train_anomalous gives 7 of 10 images with the label 0, which means normal; expected 1 \(anomalous\)",
        ),
        (
            {"test_normal": normal_of(numbered(10)).map(lambda x, y: (x / 10, 1 - y))},
            r"test_normal gives 4 of 4 .*: labels seem to be swapped",
        ),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(given, message):
    with pytest.raises(ToolboxError, match=rf"^Given\.{message}"):
        surveys(Given(numbered(10).map(shrunk), **given))


@pytest.mark.parametrize(
    "endless",
    [
        lambda data: data.repeat(),
        lambda data: data.unbatch().repeat().filter(lambda _, label: tf.equal(label, 0)).batch(1000),
    ],
    ids=["of infinite length", "of unknown length"],
)
def test_an_endless_split_is_refused_by_name(endless):
    with pytest.raises(
        ToolboxError, match=r"^Given\.train_normal .*endless.*expected each image once.*\.repeat\(\)|does not end"
    ):
        surveys(Given(numbered(10).map(shrunk), endless(numbered(10).map(shrunk))))


def test_a_missing_split_is_refused_by_name():
    with pytest.raises(ToolboxError, match=r"Given\.configure has not set train_normal"):
        surveys(Given(None))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_images_with_a_small_range_are_noted(dtype):
    """Values from 0 to 255 are fine in every type; values from 0 to 1, or 12 bits in 16, are nearly black."""

    def range_notes(pixels):
        raw = tf.data.Dataset.from_tensor_slices((pixels.reshape(4, 8, 8, 1), np.zeros(4, int)))
        data = AnomalyDetectionDataset.pipeline(raw, (8, 8), 2)
        return [line for line in notes(surveys(Given(data, data))) if "have values from" in line]

    assert not range_notes(np.arange(256).astype(dtype))
    assert range_notes((np.arange(256) / 255).astype(dtype))
    assert range_notes((16 * np.arange(256)).astype(np.uint16))
    assert range_notes(np.arange(160, 256).repeat(3)[:256].astype(np.uint8))


def test_images_in_two_splits_and_copies_are_noted():
    clean = numbered(10).map(shrunk)
    others = numbered(3).map(lambda x, y: (-x / 10 - 0.1, 0 * y))
    lines = [line for line in notes(surveys(Given(clean, others))) if "test images" in line]
    assert lines == ["10 of 10 test images are also in validation: the metrics will be too good"]
    lines = [line for line in notes(surveys(Given(clean.repeat(2)))) if "test images" in line]
    assert lines[0] == "14 of 20 test images are also in train_normal: the metrics will be too good"
    assert "10 of 20 test images are copies of other test images: the interval will be too narrow" in lines


def test_an_error_of_a_users_function_is_reported_with_the_split():
    def fail(image):
        raise ValueError("the disk is gone")

    def broken(x, y):
        return tf.ensure_shape(tf.numpy_function(fail, [x], tf.float32), x.shape), y

    with pytest.raises(ToolboxError, match=r"^Given\.validation failed: ValueError: the disk is gone$"):
        surveys(Given(numbered(10).map(broken)))


def test_the_pipeline_scales_by_type_and_not_by_image():
    """A constant image keeps its value: its contrast is not stretched, and it does not become NaN."""
    raw = tf.data.Dataset.from_tensor_slices((np.full((3, 4, 4, 1), 51, np.uint8), np.zeros(3, int)))
    batches = AnomalyDetectionDataset.pipeline(raw, (2, 2), 2, True, 10, is_training=False, output_range=(0.0, 1.0))
    assert [len(batch) for batch, _ in batches] == [2, 1]
    np.testing.assert_allclose(next(iter(batches))[0], 0.2, rtol=1e-6)


def test_the_pipeline_reduces_images_with_antialiasing():
    stripes = np.tile(np.array([[0], [255]], np.uint8), (8, 16))[None, ..., None]  # rows of black and white
    raw = tf.data.Dataset.from_tensor_slices((stripes, [0]))
    batch, _ = next(iter(AnomalyDetectionDataset.pipeline(raw, (4, 4), 1, False, 1, is_training=False)))
    assert np.abs(batch).max() < 0.2  # grey; without antialiasing all black or all white
