"""KMNIST from both kinds of the publisher's files and from TensorFlow Datasets."""

import io
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from anomaly_toolbox.datasets import tfds as tfds_module
from anomaly_toolbox.datasets.kmnist import KMNIST
from anomaly_toolbox.errors import ToolboxError
from tests.conftest import write_idx


def parts():
    """Images of 6x5 pixels and labels: 610 + 4 of each of the labels 0, 1 and 2."""
    generator = np.random.default_rng(5)
    for split, per_label in (("train", 610), ("test", 4)):
        labels = generator.permutation(np.repeat([0, 1, 2], per_label)).astype(np.uint8)
        yield split, generator.integers(0, 256, (len(labels), 6, 5), np.uint8), labels


def publish_npz(folder):
    """Writes the four files in NumPy's format."""
    for split, images, labels in parts():
        np.savez_compressed(folder / f"kmnist-{split}-imgs.npz", images)
        np.savez_compressed(folder / f"kmnist-{split}-labels.npz", labels)
    return folder


def publish_idx(folder):
    """Writes the four IDX files, with the same content."""
    for split, images, labels in parts():
        prefix = "train" if split == "train" else "t10k"
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def assert_holds_the_parts(dataset):
    (_, train_images, train_labels), (_, test_images, test_labels) = parts()
    chosen = np.sort(np.concatenate([np.flatnonzero(train_labels == label)[:600] for label in range(3)]))
    np.testing.assert_array_equal(dataset._raw["validation"].images[..., 0], train_images[chosen])
    np.testing.assert_array_equal(dataset._raw["train"].images[..., 0], np.delete(train_images, chosen, axis=0))
    np.testing.assert_array_equal(dataset._raw["train"].labels, np.delete(train_labels, chosen))
    np.testing.assert_array_equal(dataset._raw["test"].images[..., 0], test_images)
    np.testing.assert_array_equal(dataset._raw["test"].labels, test_labels)


@pytest.mark.parametrize("publish", [publish_npz, publish_idx])
def test_both_kinds_of_files_hold_the_same_images(tmp_path, publish):
    assert_holds_the_parts(KMNIST(publish(tmp_path)))


def test_a_label_that_the_dataset_lacks_is_an_error(tmp_path):
    publish_npz(tmp_path)
    labels = np.full(12, 10, np.uint8)
    np.savez_compressed(tmp_path / "kmnist-test-labels.npz", labels)
    with pytest.raises(ToolboxError, match=r"kmnist-test-labels\.npz: labels: expected 0 to 9, received 10"):
        KMNIST(tmp_path)


def test_an_archive_with_the_files(tmp_path):
    (tmp_path / "made").mkdir()
    publish_npz(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "characters.zip", "w") as packed:
        for path in (tmp_path / "made").iterdir():
            packed.write(path, path.name)
    assert_holds_the_parts(KMNIST(tmp_path / "characters.zip"))


def array_file(array, name="arr_0", allow_pickle=False):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed, packed.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kmnist-test-imgs.npz", None, r"kmnist-test-imgs\.npz is missing"),
        ("kmnist-test-imgs.npz", b"", r"kmnist-test-imgs\.npz is damaged"),
        ("kmnist-test-imgs.npz", array_file(np.zeros((12, 6, 5), np.uint8))[:-40], r"imgs\.npz is damaged"),
        ("kmnist-test-imgs.npz", array_file(np.zeros((12, 6, 5), np.uint8), "images"), r"no item named 'arr_0\.npy'"),
        ("kmnist-test-imgs.npz", array_file(np.zeros((12, 6, 5))), r"expected bytes .* in 3 .*received float64 in 3"),
        ("kmnist-test-imgs.npz", array_file(np.zeros((12, 30), np.uint8)), r"in 3 .*received uint8 in 2"),
        (
            "kmnist-test-imgs.npz",
            array_file(np.zeros((11, 6, 5), np.uint8)),
            r"holds 11 images, but .* holds 12 labels",
        ),
        ("kmnist-test-labels.npz", array_file(np.array([{}]), allow_pickle=True), "Object arrays cannot be loaded"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    path = publish_npz(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ToolboxError, match=message) as caught:
        KMNIST(tmp_path)
    assert "\n" not in str(caught.value)


def test_loading_through_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_module, "_check_connection", lambda url: None)
    monkeypatch.setattr(KMNIST, "validation_images_per_label", 4)
    with tfds.testing.mock_data(num_examples=200):
        dataset = KMNIST(tmp_path)
    assert {split: raw.images.shape for split, raw in dataset._raw.items()} == {
        "train": (160, 28, 28, 1),
        "validation": (40, 28, 28, 1),
        "test": (200, 28, 28, 1),
    }
