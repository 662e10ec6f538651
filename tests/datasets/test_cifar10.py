"""CIFAR-10 from both of the publisher's archives and from TensorFlow Datasets."""

import io
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from anomaly_toolbox.datasets import tfds as tfds_module
from anomaly_toolbox.datasets.cifar10 import CIFAR10
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.datasets.test_pickles import number, pickled_array, pickled_dict

IMAGES_PER_FILE = 315  # the publisher's have 10,000; of each of the labels 1, 2 and 3 there are 5 * 105 for training
FILES = [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]


def parts():
    """The name of each file, its images, (n, 32, 32, 3), of random squares, and its labels."""
    generator = np.random.default_rng(2)
    for name in FILES:
        labels = generator.permutation(np.repeat([1, 2, 3], IMAGES_PER_FILE // 3))
        squares = generator.integers(0, 256, (IMAGES_PER_FILE, 8, 8, 3), np.uint8)
        yield name, squares.repeat(4, axis=1).repeat(4, axis=2), labels


def as_rows(images):
    """All red numbers of an image, row by row, then all green and all blue ones."""
    rows = np.zeros((len(images), 3072), np.uint8)
    for channel in range(3):
        rows[:, 1024 * channel : 1024 * (channel + 1)] = images[..., channel].reshape(len(images), 1024)
    return rows


def pickled_batch(rows, labels):
    return pickled_dict(data=pickled_array(rows), labels=b"](" + b"".join(map(number, labels)) + b"e")


def publish(folder, kind="py"):
    """Writes the folder in the archive for Python (`py`) or for C (`bin`), and returns the folder above it."""
    inner = folder / f"cifar-10-batches-{kind}"
    inner.mkdir()
    for name, images, labels in parts():
        rows = as_rows(images)
        if kind == "py":
            (inner / name).write_bytes(pickled_batch(rows, labels))
        else:
            records = np.concatenate([labels[:, np.newaxis].astype(np.uint8), rows], axis=1)
            (inner / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def assert_holds_the_parts(dataset):
    *train, (_, test_images, test_labels) = parts()
    train_images = np.concatenate([images for _, images, _ in train])
    train_labels = np.concatenate([labels for _, _, labels in train])
    chosen = np.sort(np.concatenate([np.flatnonzero(train_labels == label)[:500] for label in (1, 2, 3)]))
    np.testing.assert_array_equal(dataset._raw["validation"].images, train_images[chosen])
    np.testing.assert_array_equal(dataset._raw["validation"].labels, train_labels[chosen])
    np.testing.assert_array_equal(dataset._raw["train"].images, np.delete(train_images, chosen, axis=0))
    np.testing.assert_array_equal(dataset._raw["test"].images, test_images)
    np.testing.assert_array_equal(dataset._raw["test"].labels, test_labels)
    assert dataset.channels == 3
    assert dataset.notes[0].endswith("has 1,890 images, the publisher's files have 60,000")


def test_both_folders_hold_the_same_images(tmp_path):
    for kind in ("py", "bin"):
        publish(tmp_path, kind)
        assert_holds_the_parts(CIFAR10(tmp_path / f"cifar-10-batches-{kind}"))
        assert_holds_the_parts(CIFAR10(tmp_path))
        shutil.rmtree(tmp_path / f"cifar-10-batches-{kind}")


@pytest.mark.parametrize(("kind", "name"), [("py", "cifar-10-python.tar.gz"), ("bin", "cifar-10-binary.tar.gz")])
def test_the_publishers_archives(tmp_path, kind, name):
    inner = publish(tmp_path, kind) / f"cifar-10-batches-{kind}"
    with tarfile.open(tmp_path / name, "w:gz", compresslevel=1) as packed:
        packed.add(inner, inner.name)
    shutil.rmtree(inner)
    assert_holds_the_parts(CIFAR10(tmp_path / name))
    assert_holds_the_parts(CIFAR10(tmp_path))


def test_an_archive_without_the_files(tmp_path):
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(InputError, match=r"other\.tar\.gz: expected an archive with cifar-10-batches-py/data_batch_1"):
        CIFAR10(tmp_path / "other.tar.gz")


ROWS, LABELS = np.zeros((IMAGES_PER_FILE, 3072), np.uint8), [1] * IMAGES_PER_FILE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lacks data_batch_2; expected data_batch_1, data_batch_2"),
        (pickled_batch(ROWS, LABELS)[:-9], "data_batch_2 is damaged, or not a pickle"),
        (pickled_batch(ROWS[:, 1:], LABELS), "data_batch_2: data: expected bytes in n x 3072, received bytes in 315 x"),
        (pickled_batch(ROWS[:0], []), "data_batch_2: data: expected bytes in n x 3072, received bytes in 0 x 3072"),
        (pickled_dict(labels=b"]"), "data_batch_2: data: expected bytes in n x 3072, received nothing"),
        (pickled_batch(ROWS, LABELS[:-1]), "data_batch_2: labels: expected a list of 315 whole .*received 314 values"),
        (pickled_dict(data=pickled_array(ROWS)), "data_batch_2: labels: expected a list .* received nothing"),
        (pickled_batch(ROWS, [*LABELS[1:], 10]), "data_batch_2: labels: expected 0 to 9, received 10"),
        (pickled_batch(ROWS, [*LABELS[1:], -1]), "data_batch_2: labels: expected 0 to 9, received -1"),
        (pickle.dumps({b"data": ROWS, b"labels": [print]}, 3), "data_batch_2 is refused: it names builtins.print"),
    ],
)
def test_pickles_that_cannot_be_used(tmp_path, content, message):
    path = publish(tmp_path) / "cifar-10-batches-py" / "data_batch_2"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ToolboxError, match=message) as caught:
        CIFAR10(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], r"test_batch\.bin is damaged: expected 3073 bytes for .* received 967994 bytes"),
        (lambda content: b"", r"test_batch\.bin is damaged"),
        (lambda content: b"\x0a" + content[1:], r"test_batch\.bin: labels: expected 0 to 9, received 10"),
    ],
)
def test_binaries_that_cannot_be_used(tmp_path, change, message):
    path = publish(tmp_path, "bin") / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ToolboxError, match=message):
        CIFAR10(tmp_path)


def test_loading_through_tensorflow_datasets(tmp_path, monkeypatch):
    addresses = []
    monkeypatch.setattr(tfds_module, "_check_connection", addresses.append)
    monkeypatch.setattr(CIFAR10, "validation_images_per_label", 4)
    with tfds.testing.mock_data(num_examples=200):
        dataset = CIFAR10(tmp_path)
    assert {split: raw.images.shape for split, raw in dataset._raw.items()} == {
        "train": (160, 32, 32, 3),
        "validation": (40, 32, 32, 3),
        "test": (200, 32, 32, 3),
    }
    assert all(address.startswith("https://www.cs.toronto.edu/") for address in addresses)


def test_the_error_without_files_or_network_names_both_remedies(tmp_path, monkeypatch):
    def no_network(address, timeout):
        raise OSError(f"cannot reach {address} within {timeout} s")

    monkeypatch.setattr(tfds_module, "getproxies", dict)
    monkeypatch.setattr(tfds_module.socket, "create_connection", no_network)
    with pytest.raises(ToolboxError, match=r"could not be downloaded.*'cifar10'.*cifar-10-python\.tar\.gz.*--data-dir"):
        CIFAR10(tmp_path)
