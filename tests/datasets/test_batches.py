"""Batches of one static shape; every image is scored, and training goes on in the order where it was."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets.batches import (
    images_at,
    same_order,
    sample_images,
    scoring_split,
    training_batches,
)
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.survey import Survey, count_images, digests_of, notes, surveys
from anomaly_toolbox.errors import InputError, ToolboxError

SHAPE = (2, 2, 1)


def numbered(n, is_training=False):
    """n batched 2x2 images, the i-th full of i, every third anomalous."""
    images = np.ones((n, *SHAPE), np.float32) * np.arange(n, dtype=np.float32)[:, None, None, None]
    dataset = tf.data.Dataset.from_tensor_slices((images, (np.arange(n) % 3 == 2).astype(int)))
    return (dataset.shuffle(n) if is_training else dataset).batch(4)


def numbers(batches):
    return [batch[:, 0, 0, 0].tolist() for batch in batches.as_numpy_iterator()]


def surveyed(dataset):
    """What a survey of a dataset says whose images need not be in [-1, 1]."""
    pairs = [(digests_of(tf.cast(images, tf.float32), labels).numpy(), labels.numpy()) for images, labels in dataset]
    digests, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return Survey("Given.test", labels.astype(np.int32), digests, 0.0, 1.0)


def split_of(dataset, batch_size, shape=SHAPE, size=None):
    return scoring_split(dataset, surveyed(dataset), batch_size, shape, size)


def test_scoring_fills_the_last_batch_and_leaves_nothing_out():
    split = split_of(numbered(10), 8)
    assert numbers(split.batches) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0, 0, 0]]
    assert split.labels.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert int(split.batches.cardinality()) == 2
    assert split.batches.element_spec.shape == (8, *SHAPE)


def test_examples_are_normal_ones_then_anomalous_ones():
    split = split_of(numbered(10), 8)
    assert split.examples[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7, 2, 5, 8]
    assert split.normal_examples[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7]
    assert split.anomalous_examples[:, 0, 0, 0].tolist() == [2, 5, 8]
    assert split_of(numbered(2), 8).anomalous_examples.shape == (0, *SHAPE)


def test_images_at_some_places_of_a_split():
    split = split_of(numbered(10), 4)
    assert images_at(split, np.array([7, 0, 9]))[:, 0, 0, 0].tolist() == [7, 0, 9]


def test_a_sample_of_a_split_keeps_the_prevalence_and_the_order():
    split = split_of(numbered(30), 4, size=9)
    (chosen,) = [np.concatenate(numbers(split.batches))[:9]]
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
def test_a_split_that_gives_other_images_the_next_time_is_refused_by_name(change):
    with pytest.raises(
        ToolboxError, match=r"^Given\.test gives other images, or in another order, .*is_training=False"
    ):
        scoring_split(change(numbered(10)), surveyed(numbered(10)), 8, SHAPE)


def test_a_later_pass_that_comes_in_another_order_is_found_too():
    """The first two passes agree, as those of a small shuffled split may."""
    passes = tf.Variable(0, dtype=tf.int64)

    def turned_later():
        data = numbered(10)
        count = passes.assign_add(1)
        return data.map(lambda x, y: (tf.where(count > 2, -x, x), y))

    data = tf.data.Dataset.range(1).flat_map(lambda _: turned_later())
    split = scoring_split(data, surveyed(data), 8, SHAPE)
    with same_order(), pytest.raises(tf.errors.OpError, match=r"Given\.test gives other images"):
        numbers(split.batches)
    with pytest.raises(ToolboxError, match=r"^Given\.test gives other images"), same_order():
        numbers(split.batches)


def test_a_digest_is_of_each_pixel_and_its_place():
    images = np.random.default_rng(0).uniform(-1, 1, (5, 4, 4, 3)).astype(np.float32)
    known, normal = digests_of(images, np.zeros(5)).numpy(), np.zeros(5)
    fold = lambda number: number ^ (number >> 16)  # noqa: E731
    for image, digest in zip(images, known, strict=True):
        total = 0
        for place, bits in enumerate(image.ravel().view(np.uint32).tolist()):
            total += fold(fold(bits) * (2 * place * 1_327_217_885 + 1) % 2**32)
        assert (total + 2**31) % 2**32 - 2**31 == digest
    assert not np.isin(digests_of(-images, normal), known).any()
    assert not np.isin(digests_of(images, normal + 1), known).any()
    swapped = images.copy()
    swapped[0, 0, 0], swapped[0, 0, 1] = images[0, 0, 1], images[0, 0, 0]
    assert (digests_of(swapped, normal).numpy() == known).tolist() == [False, True, True, True, True]


def test_a_sample_of_the_training_images():
    def drawn(size, seed):
        images, _ = sample_images(numbered(50), surveyed(numbered(50)), SHAPE, size, seed)
        return images[:, 0, 0, 0].tolist()

    assert len(set(drawn(20, seed=1))) == 20
    assert drawn(20, seed=1) == drawn(20, seed=1) != drawn(20, seed=2)
    assert drawn(60, seed=1) == list(range(50))


def test_training_images_that_become_fewer_are_refused():
    with pytest.raises(ToolboxError, match=r"Given\.test gave 50 images, and 40 when it was read again"):
        sample_images(numbered(50).take(10), surveyed(numbered(50)), SHAPE, 5, 0)


def test_training_images_that_are_not_shuffled_are_noticed_and_shuffled():
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


def test_training_batches_are_whole_and_endless():
    batches = training_batches(numbered(10), 4, SHAPE, count=10, epochs_done=0)
    assert numbers(batches.take(3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert batches.element_spec.shape == (4, *SHAPE)


def test_the_order_goes_on_where_it_was():
    tf.random.set_seed(1)
    whole = numbers(training_batches(numbered(8, is_training=True), 4, SHAPE, 8, epochs_done=0).take(8))
    tf.random.set_seed(1)
    rest = numbers(training_batches(numbered(8, is_training=True), 4, SHAPE, 8, epochs_done=3).take(2))
    assert rest == whole[6:]
    assert len({str(whole[i : i + 2]) for i in (0, 2, 4, 6)}) == 4


def test_a_batch_larger_than_the_training_set():
    with pytest.raises(InputError, match="batch_size: 11 is larger than the training set, which has 10"):
        training_batches(numbered(10), 11, SHAPE, count=10, epochs_done=0)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ToolboxError, match=r"Given\.test gives images of shape"):
        split_of(numbered(10), 8, (2, 2, 3))


class Given(AnomalyDetectionDataset):
    """A dataset whose needed splits are given."""

    def __init__(self, split, train_normal=None, train_anomalous=None, test_normal=None):
        super().__init__()
        self._validation = self._test = split
        self._train_normal = normal_of(split) if train_normal is None and split is not None else train_normal
        self._train_anomalous, self._test_normal = train_anomalous, test_normal

    def configure(self, *_, **__):
        """Nothing is left to do."""


def normal_of(split):
    return split.unbatch().filter(lambda *pair: tf.reduce_all(tf.equal(pair[-1], 0))).batch(4)


def shrunk(x, y):
    return x / 10, y


def test_images_are_counted_by_kind():
    looked_at = []
    given = Given(numbered(10).map(shrunk), train_anomalous=numbered(3).map(shrunk).unbatch().skip(2).batch(2))
    counts = count_images(surveys(given, lambda split, count: looked_at.append((split, count))))
    assert counts == {
        "train": {"normal": 7, "anomalous": 1},
        "validation": {"normal": 7, "anomalous": 3},
        "test": {"normal": 7, "anomalous": 3},
    }
    assert looked_at[:3] == [("Given.validation", 4), ("Given.validation", 8), ("Given.validation", 10)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x / 10, y + 5), r"gives labels .*, expected 0 \(normal\) and 1 \(anomalous\)"),
        (lambda x, y: (x / 10, tf.one_hot(y, 2)), r"labels of shape \(None, 2\), expected one number an image"),
        (lambda x, y: (x / 10, y, y), r"expected pairs \(image, label\)"),
        (lambda x, y: (x * 20, y), r"image values from 0.0 to 60.0, expected \[-1, 1\]"),
        (lambda x, y: (x / 0, y), r"image values from nan to nan"),
        (lambda x, y: (x / 10, y[1:]), r"gives 3 labels with 4 images"),
    ],
)
def test_what_a_dataset_must_not_give_is_told_before_training(change, told):
    with pytest.raises(ToolboxError, match=rf"Given\.validation.*{told}"):
        surveys(Given(numbered(4).map(change), numbered(4)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"train_normal": numbered(10).map(shrunk)},
            r"train_normal gives 3 of 10 images with the label 1, which means anomalous; expected 0 \(normal\) for "
            "all: fill it with normal images alone",
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
def test_labels_that_do_not_belong_in_a_split(given, told):
    with pytest.raises(ToolboxError, match=rf"^Given\.{told}"):
        surveys(Given(numbered(10).map(shrunk), **given))


@pytest.mark.parametrize(
    "endless",
    [
        lambda data: data.repeat(),
        lambda data: data.unbatch().repeat().filter(lambda _, label: tf.equal(label, 0)).batch(1000),
    ],
    ids=["known to be", "found to be"],
)
def test_a_split_without_an_end_is_refused_by_name(endless):
    with pytest.raises(
        ToolboxError, match=r"^Given\.train_normal .*endless.*expected each image once.*\.repeat\(\)|goes on"
    ):
        surveys(Given(numbered(10).map(shrunk), endless(numbered(10).map(shrunk))))


def test_a_split_that_is_not_filled_is_named():
    with pytest.raises(ToolboxError, match=r"Given\.configure has not filled train_normal"):
        surveys(Given(None))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_images_that_fill_a_small_part_of_the_range_are_noticed(dtype):
    """Numbers from 0 to 255 are images in every type, those from 0 to 1 or of 12 bits in 16 are nearly black."""

    def seen(pixels):
        raw = tf.data.Dataset.from_tensor_slices((pixels.reshape(4, 8, 8, 1), np.zeros(4, int)))
        data = AnomalyDetectionDataset.pipeline(raw, (8, 8), 2)
        return [line for line in notes(surveys(Given(data, data))) if "have values from" in line]

    assert not seen(np.arange(256).astype(dtype))
    assert seen((np.arange(256) / 255).astype(dtype))
    assert seen((16 * np.arange(256)).astype(np.uint16))
    assert seen(np.arange(160, 256).repeat(3)[:256].astype(np.uint8))


def test_images_in_two_splits_and_copies_are_noticed():
    clean = numbered(10).map(shrunk)
    others = numbered(3).map(lambda x, y: (-x / 10 - 0.1, 0 * y))
    lines = [line for line in notes(surveys(Given(clean, others))) if "test images" in line]
    assert lines == ["10 of 10 test images are in validation, too: the figures will be too good"]
    lines = [line for line in notes(surveys(Given(clean.repeat(2)))) if "test images" in line]
    assert lines[0] == "14 of 20 test images are in train_normal, too: the figures will be too good"
    assert "10 of 20 test images are copies of others among them: the interval will be too narrow" in lines


def test_what_a_users_own_function_raises_is_told_with_the_splits_name():
    def fail(image):
        raise ValueError("the disk is gone")

    def broken(x, y):
        return tf.ensure_shape(tf.numpy_function(fail, [x], tf.float32), x.shape), y

    with pytest.raises(ToolboxError, match=r"^Given\.validation failed: ValueError: the disk is gone$"):
        surveys(Given(numbered(10).map(broken)))


def test_the_pipeline_maps_by_type_not_by_image():
    """A constant image keeps its grey: it is not stretched, and does not become NaN."""
    raw = tf.data.Dataset.from_tensor_slices((np.full((3, 4, 4, 1), 51, np.uint8), np.zeros(3, int)))
    batches = AnomalyDetectionDataset.pipeline(raw, (2, 2), 2, True, 10, is_training=False, output_range=(0.0, 1.0))
    assert [len(batch) for batch, _ in batches] == [2, 1]
    np.testing.assert_allclose(next(iter(batches))[0], 0.2, rtol=1e-6)


def test_downscaling_is_antialiased():
    stripes = np.tile(np.array([[0], [255]], np.uint8), (8, 16))[None, ..., None]  # rows of black and white
    raw = tf.data.Dataset.from_tensor_slices((stripes, [0]))
    batch, _ = next(iter(AnomalyDetectionDataset.pipeline(raw, (4, 4), 1, False, 1, is_training=False)))
    assert np.abs(batch).max() < 0.2  # grey; without antialiasing all black or all white
