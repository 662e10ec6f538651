"""Batches of one static shape; every image is scored, and training goes on in the order where it was."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets.batches import count_images, images_at, sample_images, scoring_split, training_batches
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError, ToolboxError

SHAPE = (2, 2, 1)


def numbered(n, is_training=False):
    """n batched 2x2 images, the i-th full of i, every third anomalous."""
    images = np.ones((n, *SHAPE), np.float32) * np.arange(n, dtype=np.float32)[:, None, None, None]
    dataset = tf.data.Dataset.from_tensor_slices((images, (np.arange(n) % 3 == 2).astype(int)))
    return (dataset.shuffle(n) if is_training else dataset).batch(4)


def numbers(batches):
    return [batch[:, 0, 0, 0].tolist() for batch in batches.as_numpy_iterator()]


def test_scoring_fills_the_last_batch_and_leaves_nothing_out():
    split = scoring_split(numbered(10), 8, SHAPE)
    assert numbers(split.batches) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0, 0, 0]]
    assert split.labels.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert int(split.batches.cardinality()) == 2
    assert split.batches.element_spec.shape == (8, *SHAPE)


def test_examples_are_normal_ones_then_anomalous_ones():
    split = scoring_split(numbered(10), 8, SHAPE)
    assert split.examples[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 7, 2, 5, 8]


def test_images_at_some_places_of_a_split():
    split = scoring_split(numbered(10), 4, SHAPE)
    assert images_at(split, np.array([7, 0, 9]))[:, 0, 0, 0].tolist() == [7, 0, 9]


def test_a_sample_of_a_split_keeps_the_prevalence_and_the_order():
    split = scoring_split(numbered(30), 4, SHAPE, size=9)
    (chosen,) = [np.concatenate(numbers(split.batches))[:9]]
    assert split.labels.sum() == 3
    assert split.labels.tolist() == [int(number % 3 == 2) for number in chosen]
    assert (np.diff(chosen) > 0).all()
    assert chosen[-1] >= 27
    assert all(number % 3 == 2 for number in split.examples[6:, 0, 0, 0])
    assert len(scoring_split(numbered(30), 4, SHAPE, size=31).labels) == 30
    assert scoring_split(numbered(30), 4, SHAPE, size=2).labels.sum() == 1


def test_a_sample_of_the_training_images():
    drawn = lambda size, seed: sample_images(numbered(50), SHAPE, 50, size, seed)[:, 0, 0, 0].tolist()  # noqa: E731
    assert len(set(drawn(20, seed=1))) == 20
    assert drawn(20, seed=1) == drawn(20, seed=1) != drawn(20, seed=2)
    assert drawn(60, seed=1) == list(range(50))


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
    with pytest.raises(ToolboxError, match="gives images of shape"):
        scoring_split(numbered(10), 8, (2, 2, 3))


class Given(AnomalyDetectionDataset):
    """A dataset whose three needed splits are all the same one."""

    def __init__(self, split):
        super().__init__()
        self._train_normal = self._validation = self._test = split

    def configure(self, *_, **__):
        """Nothing is left to do."""


def test_images_are_counted_by_kind():
    counts = count_images(Given(numbered(10).map(lambda x, y: (x / 10, y))))
    assert counts == {split: {"normal": 7, "anomalous": 3} for split in ("train", "validation", "test")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x / 10, y + 5), r"gives labels .*, expected 0 \(normal\) and 1 \(anomalous\)"),
        (lambda x, y: (x / 10, tf.one_hot(y, 2)), r"labels of shape \(None, 2\), expected one number an image"),
        (lambda x, y: (x / 10, y, y), r"expected pairs \(image, label\)"),
        (lambda x, y: (x * 20, y), r"image values from 0.0 to 60.0, expected \[-1, 1\]"),
        (lambda x, y: (x / 0, y), r"image values from nan to nan"),
    ],
)
def test_what_a_dataset_must_not_give_is_told_before_training(change, told):
    with pytest.raises(ToolboxError, match=rf"Given\.validation.*{told}"):
        count_images(Given(numbered(4).map(change)))


def test_a_split_that_is_not_filled_is_named():
    with pytest.raises(ToolboxError, match=r"Given\.configure has not filled train_normal"):
        count_images(Given(None))


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
