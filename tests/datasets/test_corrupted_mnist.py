"""MNIST-C: which digits are clean and which are corrupted, from the publisher's files and TensorFlow Datasets."""

import shutil
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from anomaly_toolbox.datasets import corrupted_mnist
from anomaly_toolbox.datasets import tfds as tfds_module
from anomaly_toolbox.datasets.corrupted_mnist import CORRUPTIONS, CorruptedMNIST
from anomaly_toolbox.errors import InputError, ToolboxError

PER_LABEL = {"train": 635, "test": 11}


def publish(folder, *corruptions):
    """Writes the publisher's folder: digits 0, 1 and 2 of 6x5 pixels; each corruption blackens another column."""
    generator = np.random.default_rng(3)
    for split, per_label in PER_LABEL.items():
        labels = generator.permutation(np.repeat([0, 1, 2], per_label))
        images = generator.integers(1, 256, (len(labels), 6, 5, 1), np.uint8)
        for column, corruption in enumerate(("identity", *corruptions)):
            version_folder = folder / "mnist_c" / corruption
            version_folder.mkdir(parents=True, exist_ok=True)
            version = images.copy()
            if corruption != "identity":
                version[:, :, column - 1] = 0
            np.save(version_folder / f"{split}_images.npy", version)
            np.save(version_folder / f"{split}_labels.npy", labels)
    return folder


def configured(folder, corruption="fog", **options):
    dataset = CorruptedMNIST(folder)
    dataset.configure(16, (6, 5), class_label=corruption, drop_remainder=False, **options)
    return dataset


def pairs(split):
    """The images, (n, 6, 5), uint8, and the labels of a split."""
    images, labels = zip(*split.as_numpy_iterator(), strict=True)
    return np.round(np.concatenate(images) * 127.5 + 127.5).astype(np.uint8)[..., 0], np.concatenate(labels)


def digits(images):
    """The columns of each digit that are the same in both versions; they identify it."""
    return [image[:, 1:].tobytes() for image in images]


def test_clean_is_normal_and_corrupted_anomalous(tmp_path):
    dataset = configured(publish(tmp_path, "fog"))
    sizes = {"train": (105, 0), "validation": (900, 900), "test": (17, 16)}
    for split, (n_normal, n_anomalous) in sizes.items():
        images, labels = pairs(getattr(dataset, split))
        is_corrupted = (images[..., 0] == 0).all(axis=1)
        np.testing.assert_array_equal(is_corrupted, labels)
        assert np.bincount(labels, minlength=2).tolist() == [n_normal, n_anomalous]


def test_no_digit_is_in_two_splits_or_of_both_kinds(tmp_path):
    dataset = configured(publish(tmp_path, "fog"))
    found = []
    for split in (dataset.train, dataset.validation, dataset.test):
        images, _ = pairs(split)
        found += digits(images)
    assert len(found) == len(set(found)) == 3 * sum(PER_LABEL.values())


def test_the_digits_are_the_classes_of_clean_training_images(tmp_path):
    dataset = configured(publish(tmp_path, "fog"))
    official = np.load(tmp_path / "mnist_c" / "identity" / "train_images.npy")[..., 0]
    labels = np.load(tmp_path / "mnist_c" / "identity" / "train_labels.npy")
    label_of = {image.tobytes(): label for image, label in zip(official, labels, strict=True)}
    images, classes = pairs(dataset.train_classes)
    assert dataset.class_names == ["0", "1", "2"]
    assert [label_of[image.tobytes()] for image in images] == classes.tolist()
    assert len(images) == 105


def test_every_second_image_of_the_official_test_is_corrupted(tmp_path):
    images, labels = pairs(configured(publish(tmp_path, "fog")).test)
    assert labels.tolist() == [0, 1] * 16 + [0]
    for number, image in enumerate(images):
        corruption = ("identity", "fog")[number % 2]
        official = np.load(tmp_path / "mnist_c" / corruption / "test_images.npy")[..., 0]
        np.testing.assert_array_equal(image, official[number])


def test_validation_is_the_first_600_of_each_label(tmp_path):
    dataset = configured(publish(tmp_path, "fog"))
    official = np.load(tmp_path / "mnist_c" / "identity" / "train_images.npy")[..., 0]
    labels = np.load(tmp_path / "mnist_c" / "identity" / "train_labels.npy")
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:600] for label in range(3)]))
    assert digits(pairs(dataset.validation)[0]) == digits(official[chosen])


def test_one_corruption_after_another(tmp_path):
    dataset = configured(publish(tmp_path, "fog", "zigzag"))
    dataset.configure(16, (6, 5), class_label="zigzag")
    images, labels = pairs(dataset.test_anomalous)
    assert (images[..., 1] == 0).all()
    assert labels.all()


@pytest.mark.parametrize("data_dir", [".", "mnist_c"])
def test_the_publishers_folder_or_the_one_above(tmp_path, data_dir):
    configured(publish(tmp_path, "fog") / data_dir)


def test_the_publishers_archive(tmp_path):
    folder, archive = publish(tmp_path / "made", "fog"), tmp_path / "mnist_c.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.rglob("*.npy"):
            packed.write(path, path.relative_to(folder))
    np.testing.assert_array_equal(pairs(configured(archive).test)[0], pairs(configured(folder).test)[0])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("notes.txt", "no digits")
    with pytest.raises(InputError, match=r"other\.zip: expected an archive with mnist_c/identity"):
        CorruptedMNIST(tmp_path / "other.zip")


def test_loading_through_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_module, "_check_connection", lambda url: None)
    monkeypatch.setattr(corrupted_mnist, "VALIDATION_IMAGES_PER_LABEL", 4)
    with tfds.testing.mock_data(num_examples=200):
        dataset = CorruptedMNIST(tmp_path)
        dataset.configure(100, (28, 28), class_label="fog", drop_remainder=False)
    counts = [np.bincount(pairs(split)[1]).tolist() for split in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [[160], [20, 20], [100, 100]]


def test_every_corruption_is_one_of_tensorflow_datasets():
    assert {*CORRUPTIONS, "identity"} == set(tfds.builder_cls("mnist_corrupted").builder_configs)


def test_the_error_without_files_or_network_names_both_remedies(tmp_path, monkeypatch):
    def no_network(address, timeout):
        raise OSError(f"cannot reach {address} within {timeout} s")

    monkeypatch.setattr(tfds_module, "getproxies", dict)
    monkeypatch.setattr(tfds_module.socket, "create_connection", no_network)
    with pytest.raises(
        ToolboxError, match=r"could not be downloaded.*'mnist_corrupted/identity'.*mnist_c\.zip"
    ) as caught:
        CorruptedMNIST(tmp_path)
    assert "('zenodo.org', 443)" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "received None: valid names are shot_noise"),
        ("fogg", r"received 'fogg': did you mean fog\?"),
        ("identity", "received 'identity'"),
    ],
)
def test_a_class_label_that_is_not_a_corruption(tmp_path, label, message):
    with pytest.raises(InputError, match=f"class_label: expected a corruption, {message}"):
        configured(publish(tmp_path), label)


def test_an_anomalous_label_is_refused(tmp_path):
    with pytest.raises(InputError, match="anomalous_label: 2 given; CorruptedMNIST has corruptions: use class_label"):
        configured(publish(tmp_path), anomalous_label=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "is damaged or not a .npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged or not a .npy file"),
        (lambda path: path.write_text("no array at all"), "is damaged or not a .npy file"),
        (lambda path: np.save(path, np.array([{}])), "is damaged or not a .npy file"),
        (lambda path: np.save(path, np.zeros((33, 6, 5))), r"expected grey images of 8 bits.*float64, \(33, 6, 5\)"),
        (lambda path: np.save(path, np.zeros((33, 6, 5, 3), np.uint8)), r"expected grey images.*\(33, 6, 5, 3\)"),
    ],
)
def test_damaged_images_are_reported(tmp_path, damage, message):
    path = publish(tmp_path, "fog") / "mnist_c" / "fog" / "test_images.npy"
    damage(path)
    with pytest.raises(ToolboxError, match=message) as caught:
        configured(tmp_path)
    assert str(path) in str(caught.value)


def test_different_numbers_of_images_and_labels_are_refused(tmp_path):
    np.save(publish(tmp_path, "fog") / "mnist_c" / "fog" / "test_labels.npy", np.zeros(32, np.uint8))
    with pytest.raises(ToolboxError, match=r"test_labels\.npy: expected 33 labels, received \(32,\)"):
        configured(tmp_path)


def test_other_digits_than_the_clean_ones_are_refused(tmp_path):
    other = publish(tmp_path / "other") / "mnist_c" / "identity"
    np.save(other / "test_labels.npy", np.load(other / "test_labels.npy")[::-1])
    shutil.copytree(other, publish(tmp_path) / "mnist_c" / "fog")
    with pytest.raises(ToolboxError, match="fog does not hold the same digits as identity"):
        configured(tmp_path)
