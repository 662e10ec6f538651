"""Images with labels: the official division and that of the papers."""

import numpy as np
import pytest

from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.datasets.labelled import LabelledImages, Split, pooled_splits
from anomaly_toolbox.errors import InputError


def numbered_parts(labels, sizes=(30, 10)):
    """Splits of these sizes, and the rest, from images of one pixel; the pixel of the n-th image is n."""
    labels = np.asarray(labels)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    boundaries = np.cumsum(sizes)
    return [Split(*part) for part in zip(np.split(images, boundaries), np.split(labels, boundaries), strict=True)]


def numbers(split):
    return split.images.reshape(-1).tolist()


def contents(batches):
    """The numbers of the images of a configured split, and their labels."""
    pairs = [(int(image.item()), int(label)) for image, label in batches.unbatch().as_numpy_iterator()]
    return [number for number, _ in pairs], [label for _, label in pairs]


@pytest.mark.parametrize(
    ("n_normal", "n_anomalous", "expected"),
    [
        (50, 7, {"train": 36, "validation": 4, "test": 10 + 7}),  # 40 : 10, then 36 : 4
        (13, 1, {"train": 9, "validation": 1, "test": 3 + 1}),  # 80% are 10.4
        (126, 70, {"train": 90, "validation": 10, "test": 26 + 70}),  # 80% are 100.8, and EGBAD's program rounds down
        (3, 2, {"train": 1, "validation": 1, "test": 1 + 2}),
    ],
)
def test_sizes_of_the_pooled_division(n_normal, n_anomalous, expected):
    labels = np.random.default_rng(0).permutation([*np.arange(n_normal) % 2, *[2] * n_anomalous])
    splits = pooled_splits(numbered_parts(labels, (n_normal // 2,)), lambda labels: labels == 2)
    assert {name: len(split.labels) for name, split in splits.items()} == expected


def test_the_pooled_division_puts_each_image_into_one_split():
    """There are 100 images, 20 of each of five labels; the first 70 come from the training and validation splits."""
    labels = np.arange(100) % 5
    splits = pooled_splits(numbered_parts(labels, (60, 10)), lambda labels: labels == 2)
    assert sorted(number for split in splits.values() for number in numbers(split)) == list(range(100))
    assert set(range(2, 100, 5)) <= set(numbers(splits["test"]))
    for split in splits.values():
        assert numbers(split) == sorted(numbers(split))
        np.testing.assert_array_equal(split.labels, labels[numbers(split)])
    for name in ("train", "test"):
        normal = [number for number in numbers(splits[name]) if labels[number] != 2]
        assert min(normal) < 60
        assert max(normal) >= 70


def test_the_pooled_division_never_changes():
    """Runs of the same name have the same images, whatever their seed and the version of the toolbox."""
    parts = numbered_parts([0] * 20 + [2] * 2, (12,))
    np.random.seed(1)
    splits = pooled_splits(parts, lambda labels: labels == 2)
    assert {name: numbers(split) for name, split in splits.items()} == {
        "train": [2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 18, 19],
        "validation": [0, 4],
        "test": [1, 9, 14, 15, 20, 21],
    }


@pytest.mark.parametrize("options", [{}, {"split": "official"}])
def test_the_official_division_keeps_the_images_and_their_order(options):
    labels = np.arange(60) % 3
    dataset = LabelledImages(*numbered_parts(labels), **options)
    dataset.configure(7, (1, 1), anomalous_label=2, drop_remainder=False, output_range=(0, 255))
    assert contents(dataset.validation) == (list(range(30, 40)), (labels[30:40] == 2).tolist())
    assert contents(dataset.test) == (list(range(40, 60)), (labels[40:] == 2).tolist())
    assert sorted(contents(dataset.train_normal)[0]) == np.flatnonzero(labels[:30] != 2).tolist()
    assert sorted(contents(dataset.train_anomalous)[0]) == np.flatnonzero(labels[:30] == 2).tolist()


def test_the_pooled_division_follows_from_the_anomalous_label():
    """A configured dataset is configured again with another label, as in a grid of labels."""
    labels = np.arange(60) % 3
    dataset = LabelledImages(*numbered_parts(labels), split="pooled")
    for label in (2, 1):
        dataset.configure(7, (1, 1), anomalous_label=label, drop_remainder=False, output_range=(0, 255))
        test_numbers, test_labels = contents(dataset.test)
        assert [number for number, value in zip(test_numbers, test_labels, strict=True) if value] == np.flatnonzero(
            labels == label
        ).tolist()
        assert (len(test_numbers), sum(test_labels)) == (8 + 20, 20)
        assert len(contents(dataset.validation)[0]) == 4
        assert contents(dataset.validation_anomalous) == contents(dataset.train_anomalous) == ([], [])


@pytest.mark.parametrize("options", [{}, {"split": "pooled"}])
@pytest.mark.parametrize(
    ("raw_labels", "anomalous", "names"),
    [((0, 5, 11), 5, ["0", "11"]), (("bag", "coat", "boot"), "bag", ["boot", "coat"])],
)
def test_the_labels_of_normal_training_images_are_classes(options, raw_labels, anomalous, names):
    labels = np.array(raw_labels)[np.arange(100) % 3]
    dataset = LabelledImages(*numbered_parts(labels, (60, 10)), **options)
    dataset.configure(7, (1, 1), anomalous_label=anomalous, drop_remainder=False, output_range=(0, 255))
    assert dataset.class_names == names
    found, classes = contents(dataset.train_classes)
    assert sorted(found) == sorted(contents(dataset.train_normal)[0])
    assert found != sorted(found)
    assert [names[number] for number in classes] == labels[found].astype(str).tolist()
    assert dataset.train_classes.element_spec[1].dtype == np.int32


def test_one_normal_label_is_one_class():
    dataset = LabelledImages(*numbered_parts(np.arange(40) % 2))
    dataset.configure(4, (1, 1), anomalous_label=0, drop_remainder=False)
    assert dataset.class_names == ["1"]
    assert set(contents(dataset.train_classes)[1]) == {0}


def test_one_class_is_normal_and_all_others_anomalous():
    labels = np.arange(60) % 3
    dataset = LabelledImages(*numbered_parts(labels))
    dataset.configure(7, (1, 1), normal_label=1, drop_remainder=False, output_range=(0, 255))
    assert contents(dataset.validation) == (list(range(30, 40)), (labels[30:40] != 1).tolist())
    assert contents(dataset.test) == (list(range(40, 60)), (labels[40:] != 1).tolist())
    assert sorted(contents(dataset.train_normal)[0]) == np.flatnonzero(labels[:30] == 1).tolist()
    assert sorted(contents(dataset.train_anomalous)[0]) == np.flatnonzero(labels[:30] != 1).tolist()


def test_one_class_normal_in_the_pooled_division():
    """Of the 20 normal images, 16 train, 2 of which validate; the other 4 test with the 40 anomalous ones."""
    labels = np.arange(60) % 3
    dataset = LabelledImages(*numbered_parts(labels), split="pooled")
    dataset.configure(7, (1, 1), normal_label=1, drop_remainder=False, output_range=(0, 255))
    numbers_of_splits = {
        name: contents(split)[0]
        for name, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
    }
    assert {name: len(found) for name, found in numbers_of_splits.items()} == {"train": 14, "validation": 2, "test": 44}
    assert sorted(number for found in numbers_of_splits.values() for number in found) == list(range(60))
    for name in ("train", "validation"):
        assert (labels[numbers_of_splits[name]] == 1).all()
    assert contents(dataset.test)[1] == (labels[numbers_of_splits["test"]] != 1).tolist()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"normal_label": 3}, "normal_label: 3 is not a label of LabelledImages; it has 0, 1, 2"),
        ({"normal_label": 1, "anomalous_label": 2}, "anomalous_label and normal_label are both given"),
        ({"normal_label": 1, "class_label": "bottle"}, "class_label: LabelledImages has labels, not classes"),
    ],
)
def test_a_normal_label_that_cannot_be_used(chosen, message):
    with pytest.raises(InputError, match=message):
        LabelledImages(*numbered_parts(np.arange(60) % 3)).configure(7, (1, 1), **chosen)


def test_the_pooled_division_of_digits_uses_all_images():
    splits = pooled_splits(Digits("pooled")._raw.values(), lambda labels: labels == 3)
    assert sum(len(split.labels) for split in splits.values()) == 1797
    assert (splits["test"].labels == 3).sum() == 183
