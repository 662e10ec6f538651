"""EMNIST from the publisher's archive and folder and from TensorFlow Datasets: upright letters, and the variant."""

import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from anomaly_toolbox.datasets import tfds as tfds_module
from anomaly_toolbox.datasets.emnist import EMNISTBalanced, EMNISTLetters
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.conftest import write_idx

VARIANTS = {"balanced": EMNISTBalanced, "letters": EMNISTLetters}


def parts(per_label=250):
    """Upright images of 6x5 pixels with the labels 1, 2 and 3, `per_label` + 5 of each."""
    generator = np.random.default_rng(8)
    for split, number in (("train", per_label), ("test", 5)):
        labels = generator.permutation(np.repeat([1, 2, 3], number))
        yield split, generator.integers(0, 256, (len(labels), 6, 5), np.uint8), labels


def publish(folder, variant="balanced", per_label=250):
    """Writes the four files of a variant; their images lie on their sides."""
    folder.mkdir(exist_ok=True)
    for split, images, labels in parts(per_label):
        suffix = ".gz" if split == "train" else ""
        write_idx(folder / f"emnist-{variant}-{split}-images-idx3-ubyte{suffix}", np.transpose(images, (0, 2, 1)))
        write_idx(folder / f"emnist-{variant}-{split}-labels-idx1-ubyte{suffix}", labels)
    return folder


def assert_holds_the_parts(dataset, per_label=250):
    (_, train_images, train_labels), (_, test_images, test_labels) = parts(per_label)
    n_validation = dataset.validation_images_per_label
    chosen = np.sort(np.concatenate([np.flatnonzero(train_labels == label)[:n_validation] for label in (1, 2, 3)]))
    np.testing.assert_array_equal(dataset._raw["validation"].images[..., 0], train_images[chosen])
    np.testing.assert_array_equal(dataset._raw["train"].images[..., 0], np.delete(train_images, chosen, axis=0))
    np.testing.assert_array_equal(dataset._raw["test"].images[..., 0], test_images)
    np.testing.assert_array_equal(dataset._raw["test"].labels, test_labels)


@pytest.mark.parametrize(("variant", "per_label"), [("balanced", 250), ("letters", 490)])
def test_letters_stand_upright(tmp_path, variant, per_label):
    assert_holds_the_parts(VARIANTS[variant](publish(tmp_path, variant, per_label)), per_label)


@pytest.mark.parametrize("data_dir", ["gzip.zip", "."])
def test_the_publishers_archive_or_its_folder(tmp_path, data_dir):
    folder = publish(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"gzip/{path.name}")
    for _ in range(2):  # the second time, the archive is extracted already
        assert_holds_the_parts(EMNISTBalanced(tmp_path / data_dir))


def test_a_folder_that_was_extracted_by_hand(tmp_path):
    publish(tmp_path / "gzip")
    assert_holds_the_parts(EMNISTBalanced(tmp_path))


@pytest.mark.parametrize(
    ("present", "wanted", "message"),
    [
        ("letters", EMNISTBalanced, "holds files of EMNIST letters, but none of EMNIST balanced, .*EMNISTLetters, or"),
        ("balanced", EMNISTLetters, "holds files of EMNIST balanced, but none of EMNIST letters, .*EMNISTBalanced, or"),
        ("digits", EMNISTLetters, "EMNIST digits, but none of EMNIST letters, .*-ubyte; another --data-dir"),
    ],
)
def test_the_files_of_another_variant_are_named(tmp_path, present, wanted, message):
    with pytest.raises(InputError, match=message) as caught:
        wanted(publish(tmp_path, present))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported_by_name(tmp_path):
    (publish(tmp_path) / "emnist-balanced-test-labels-idx1-ubyte").unlink()
    with pytest.raises(ToolboxError, match="neither emnist-balanced-test-labels-idx1-ubyte nor"):
        EMNISTBalanced(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_loading_through_tensorflow_datasets(tmp_path, monkeypatch, variant):
    """Its images lie on their sides too, so each one is transposed."""

    def as_dataset(self, *_, **__):
        images = np.zeros((90, 28, 28, 1), np.uint8)
        images[:, 3, 20] = 255
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": 1 + np.arange(90) % 3})

    monkeypatch.setattr(tfds_module, "_check_connection", lambda url: None)
    monkeypatch.setattr(VARIANTS[variant], "validation_images_per_label", 20)
    with tfds.testing.mock_data(num_examples=90, as_dataset_fn=as_dataset):
        dataset = VARIANTS[variant](tmp_path)
    assert {split: len(raw.labels) for split, raw in dataset._raw.items()} == {
        "train": 30,
        "validation": 60,
        "test": 90,
    }
    for raw in dataset._raw.values():
        assert (raw.images[:, 20, 3] == 255).all()
        assert raw.images.sum() == 255 * len(raw.images)


@pytest.mark.parametrize("cls", VARIANTS.values())
def test_tensorflow_datasets_has_the_variant(cls):
    name, _, config = cls.tfds_name.partition("/")
    assert config in tfds.builder_cls(name).builder_configs
