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
            raise InputError(f"--data-dir {data_dir}: there is no such folder")
        train, test = self._read_idx(data_dir) if _has_idx(data_dir) else self._load_tfds(data_dir)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ToolboxError(
                f"{type(self).__name__}: training images are {train.images.shape[1]}x{train.images.shape[2]} pixels, "
                f"test images {test.images.shape[1]}x{test.images.shape[2]}"
            )
        is_validation = np.zeros(len(train.labels), bool)
        for label in np.unique(train.labels):
            is_validation[np.flatnonzero(train.labels == label)[:VALIDATION_IMAGES_PER_LABEL]] = True
        if is_validation.all():
            raise ToolboxError(
                f"{type(self).__name__} has {len(train.labels)} training images; "
                f"more than {VALIDATION_IMAGES_PER_LABEL} of each label are needed, as so many are held for validation"
            )
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

    def _load_tfds(self, data_dir: Path | None) -> list[Split]:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(self.tfds_name, data_dir=data_dir)
            if not builder.is_prepared():
                _reach(builder.URL)
                builder.download_and_prepare()
            splits = builder.as_dataset(split=["train", "test"], as_supervised=True)
        except Exception as problem:
            raise ToolboxError(
                f"{type(self).__name__} is not on this machine and could not be downloaded "
                f"({type(problem).__name__}); either connect to the network, so that TensorFlow Datasets can fetch "
                f"{self.tfds_name!r}, or put its four IDX files ({', '.join(sum(IDX_FILES.values(), ()))}, "
                f"plain or .gz) in a folder and name that with --data-dir"
            ) from problem
        return [_in_memory(split) for split in splits]


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format (Xiao, Rasul and Vollgraf, arXiv 1708.07747).

    Labels: 0 T-shirt, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.
    """

    tfds_name = "fashion_mnist"


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
