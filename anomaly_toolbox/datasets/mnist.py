"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels with labels 0 to 9.

They come from four IDX files in `data_dir` if they are there, else through TensorFlow Datasets, which downloads them
to `data_dir` once. The official test split is the test; the first 600 training images of each label are validation.
"""

import socket
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from anomaly_toolbox.datasets.idx import read_idx
from anomaly_toolbox.datasets.labelled import LabelledImages, Split
from anomaly_toolbox.errors import InputError, ToolboxError

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
VALIDATION_IMAGES_PER_LABEL = 600


class MNIST(LabelledImages):
    """Handwritten digits (LeCun, Cortes and Burges)."""

    tfds_name: ClassVar[str] = "mnist"

    def __init__(self, data_dir: Path | None = None):
        if data_dir is not None and not data_dir.is_dir():
            raise InputError(
                f"--data-dir {data_dir}: {'is a file' if data_dir.exists() else 'there is no such folder'}"
            )
        name = type(self).__name__
        if _has_idx(data_dir):
            train, test = self._read_idx(data_dir)
        else:
            instead = (
                f"put its four IDX files ({', '.join(sum(IDX_FILES.values(), ()))}, plain or .gz) in a folder and name "
                f"that with --data-dir"
            )
            train, test = load_tfds(name, self.tfds_name, data_dir, instead)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ToolboxError(
                f"{name}: training images are {train.images.shape[1]}x{train.images.shape[2]} pixels, "
                f"test images {test.images.shape[1]}x{test.images.shape[2]}"
            )
        is_validation = held_for_validation(name, train.labels)
        super().__init__(
            Split(train.images[~is_validation], train.labels[~is_validation]),
            Split(train.images[is_validation], train.labels[is_validation]),
            test,
        )

    def _read_idx(self, folder: Path) -> list[Split]:
        splits = []
        for images_name, labels_name in IDX_FILES.values():
            images_path, labels_path = _idx_path(folder, images_name), _idx_path(folder, labels_name)
            images, labels = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
            if len(images) != len(labels):
                raise ToolboxError(
                    f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels"
                )
            splits.append(Split(images[..., np.newaxis], labels))
        return splits


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format (Xiao, Rasul and Vollgraf, arXiv 1708.07747).

    Labels: 0 T-shirt, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.
    """

    tfds_name = "fashion_mnist"


def held_for_validation(name: str, labels: np.ndarray) -> np.ndarray:
    """Which training images validate, (n,), bool: the first 600 of each label.

    Args:
        name: of the dataset, for an error.
        labels: of the training images, (n,).

    Raises:
        ToolboxError: none would be left.
    """
    is_held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_held[np.flatnonzero(labels == label)[:VALIDATION_IMAGES_PER_LABEL]] = True
    if is_held.all():
        raise ToolboxError(
            f"{name} has {len(labels)} training images; "
            f"more than {VALIDATION_IMAGES_PER_LABEL} of each label are needed, as so many are held for validation"
        )
    return is_held


def load_tfds(name: str, tfds_name: str, data_dir: Path | None, instead: str, url: str | None = None) -> list[Split]:
    """Training and test images through TensorFlow Datasets, which downloads them once.

    Args:
        name: of the dataset, for an error.
        tfds_name: what TensorFlow Datasets calls it.
        data_dir: where they are or go; None: where TensorFlow Datasets keeps its data.
        instead: what a person without a network can do, for an error.
        url: where they come from, if the builder does not say.

    Raises:
        ToolboxError: they are not on this machine and cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(tfds_name, data_dir=data_dir)
        if not builder.is_prepared():
            _reach(url or builder.URL)
            builder.download_and_prepare()
        splits = builder.as_dataset(split=["train", "test"], as_supervised=True)
    except Exception as problem:
        raise ToolboxError(
            f"{name} is not on this machine and could not be downloaded ({type(problem).__name__}); either connect to "
            f"the network, so that TensorFlow Datasets can fetch {tfds_name!r}, or {instead}"
        ) from problem
    return [_in_memory(split) for split in splits]


def _reach(url: str) -> None:
    """Raises OSError within seconds where there is no network; the download itself tries for minutes."""
    address = urlsplit(url)
    if not getproxies():
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), timeout=10).close()


def _in_memory(dataset) -> Split:
    batches = list(dataset.batch(1000).as_numpy_iterator())
    return Split(*(np.concatenate(part) for part in zip(*batches, strict=True)))


def _has_idx(folder: Path | None) -> bool:
    names = [name for pair in IDX_FILES.values() for name in pair]
    return folder is not None and any(_find(folder, name) for name in names)


def _idx_path(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise ToolboxError(f"{folder} holds some of the four IDX files, but neither {name} nor {name}.gz")
    return path


def _find(folder: Path, name: str) -> Path | None:
    """`name` or `name.gz` in `folder`; an OSError where the folder may not be read."""
    present = {path.name: path for path in folder.iterdir()}
    return present.get(name) or present.get(f"{name}.gz")
