"""MNIST and Fashion-MNIST from IDX files and from TensorFlow Datasets."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from anomaly_toolbox.datasets import tfds as tfds_module
from anomaly_toolbox.datasets.labelled import pooled_splits
from anomaly_toolbox.datasets.mnist import MNIST, FashionMNIST
from anomaly_toolbox.datasets.published import first_of_each_label
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.conftest import FASHION_MNIST, write_idx


def test_validation_is_the_first_600_of_each_label(idx_folder):
    dataset = MNIST(idx_folder)
    for split, per_label in (("train", 50), ("validation", 600), ("test", 20)):
        assert np.bincount(dataset._raw[split].labels).tolist() == [per_label] * 3


def test_different_numbers_of_images_and_labels_are_refused(idx_folder):
    write_idx(idx_folder / "t10k-labels-idx1-ubyte", np.zeros(59))
    with pytest.raises(ToolboxError, match=r"holds 60 images, but .* holds 59 labels"):
        MNIST(idx_folder)


def test_a_label_that_the_dataset_lacks_is_an_error(idx_folder):
    labels = np.repeat([0, 1, 2], 20).astype(np.uint8)
    labels[7] = 77
    write_idx(idx_folder / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(ToolboxError, match=r"t10k-labels-idx1-ubyte: labels: expected 0 to 9, received 77"):
        MNIST(idx_folder)


def test_files_with_fewer_images_than_the_publishers_have_a_note(idx_folder):
    assert MNIST(idx_folder).notes == [f"{idx_folder} has 2,010 images, the publisher's files have 70,000"]


def test_a_missing_file_is_reported_by_name(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ToolboxError, match="neither train-labels-idx1-ubyte nor"):
        MNIST(idx_folder)


def test_a_tenth_of_a_small_training_set_is_for_validation(idx_folder):
    """It has 20 images of each of three labels."""
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        (idx_folder / f"train-{name}.gz").unlink()
        (idx_folder / f"train-{name}").write_bytes((idx_folder / f"t10k-{name}").read_bytes())
    dataset = MNIST(idx_folder)
    assert np.bincount(dataset._raw["validation"].labels).tolist() == [2, 2, 2]
    assert np.bincount(dataset._raw["train"].labels).tolist() == [18, 18, 18]


def test_a_training_set_of_single_images():
    with pytest.raises(ToolboxError, match="MNIST has 3 training images; expected at least two of a label"):
        first_of_each_label("MNIST", np.arange(3), 600)


def test_the_pooled_division_needs_no_validation_images_of_each_label(idx_folder):
    """Both official splits have 20 images of each of three labels; label 2 is anomalous."""
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        (idx_folder / f"train-{name}.gz").unlink()
        (idx_folder / f"train-{name}").write_bytes((idx_folder / f"t10k-{name}").read_bytes())
    dataset = MNIST(idx_folder, split="pooled")
    splits = pooled_splits(dataset._raw.values(), lambda labels: labels == 2)
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 57, "validation": 7, "test": 56}


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason=f"{FASHION_MNIST} is absent: Debian's dataset-fashion-mnist")
def test_the_pooled_division_of_fashion_mnist_has_the_prevalence_of_the_papers():
    splits = pooled_splits(FashionMNIST(FASHION_MNIST, split="pooled")._raw.values(), lambda labels: labels == 2)
    counts = {name: (int((split.labels != 2).sum()), int((split.labels == 2).sum())) for name, split in splits.items()}
    assert counts == {"train": (45_360, 0), "validation": (5_040, 0), "test": (12_600, 7_000)}
    assert (splits["test"].labels == 2).mean() == pytest.approx(0.357, abs=5e-4)


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        MNIST(tmp_path / "none")


def test_loading_through_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_module, "_check_connection", lambda url: None)
    with tfds.testing.mock_data(num_examples=6500):
        dataset = FashionMNIST(tmp_path)
    sizes = {split: len(raw.labels) for split, raw in dataset._raw.items()}
    assert sizes["train"] + sizes["validation"] == sizes["test"] == 6500
    assert np.bincount(dataset._raw["validation"].labels).max() == 600
    assert dataset._raw["test"].images.shape == (6500, 28, 28, 1)


def test_the_error_without_files_or_network_names_both_remedies(tmp_path, monkeypatch):
    def no_network(address, timeout):
        raise OSError(f"cannot reach {address} within {timeout} s")

    monkeypatch.setattr(tfds_module, "getproxies", dict)
    monkeypatch.setattr(tfds_module.socket, "create_connection", no_network)
    with pytest.raises(ToolboxError, match=r"could not be downloaded.*'mnist'.*train-images-idx3-ubyte.*--data-dir"):
        MNIST(tmp_path)
