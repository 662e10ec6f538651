"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels with labels 0 to 9.

If the four IDX files are in `data_dir`, they are read. Otherwise TensorFlow Datasets downloads the images to
`data_dir` once. The official test split is for testing; the first 600 training images of each label are for validation.
With `split="pooled"`, all 70,000 images are divided anew.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from anomaly_toolbox.datasets.idx import read_idx
from anomaly_toolbox.datasets.labelled import Division, LabelledImages, Split
from anomaly_toolbox.datasets.tfds import load_tfds
from anomaly_toolbox.errors import InputError, ToolboxError

#: The files of images and of labels, for the official training and test split.
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_NAMES = [*IDX_FILES["train"], *IDX_FILES["test"]]
VALIDATION_IMAGES_PER_LABEL = 600


class MNIST(LabelledImages):
    """Handwritten digits (LeCun, Cortes and Burges).

    Args:
        data_dir: a folder with the four IDX files, or the folder of TensorFlow Datasets; None: its default folder.
        split: `official`, or `pooled` for the division of `pooled_splits`.

    Raises:
        InputError: there is no such folder or no such division.
        ToolboxError: a file is missing or damaged, or the images could not be downloaded.
    """

    tfds_name: ClassVar[str] = "mnist"

    def __init__(self, data_dir: Path | None = None, split: Division = "official"):
        if data_dir is not None and not data_dir.is_dir():
            problem = "is a file" if data_dir.exists() else "there is no such folder"
            raise InputError(f"--data-dir {data_dir}: {problem}")
        name = type(self).__name__
        if data_dir is not None and _has_idx_files(data_dir):
            train, test = (_read_split(data_dir, *names) for names in IDX_FILES.values())
        else:
            file_names = ", ".join(IDX_NAMES)
            alternative = (
                f"put its four IDX files ({file_names}, plain or .gz) in a folder and name that with --data-dir"
            )
            train, test = load_tfds(name, self.tfds_name, data_dir, alternative)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ToolboxError(
                f"{name}: training images are {train.images.shape[1]}x{train.images.shape[2]} pixels, "
                f"test images {test.images.shape[1]}x{test.images.shape[2]}"
            )
        is_validation = np.zeros(len(train.labels), bool)
        if split != "pooled":  # the pooled division takes its validation images from all normal images
            is_validation = first_of_each_label(name, train.labels)
        super().__init__(
            Split(train.images[~is_validation], train.labels[~is_validation]),
            Split(train.images[is_validation], train.labels[is_validation]),
            test,
            split,
        )


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format (Xiao, Rasul and Vollgraf, arXiv 1708.07747).

    Labels: 0 T-shirt, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.
    """

    tfds_name = "fashion_mnist"


def first_of_each_label(name: str, labels: np.ndarray) -> np.ndarray:
    """Chooses the training images for validation: the first 600 of each label.

    Args:
        name: the name of the dataset, for errors.
        labels: the labels of the training images, (n,).

    Returns:
        Whether an image is for validation, (n,), bool.

    Raises:
        ToolboxError: no image would be left for training.
    """
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        first = np.flatnonzero(labels == label)[:VALIDATION_IMAGES_PER_LABEL]
        is_chosen[first] = True
    if is_chosen.all():
        raise ToolboxError(
            f"{name} has {len(labels)} training images; more than {VALIDATION_IMAGES_PER_LABEL} of each label are "
            "needed, because that many are used for validation"
        )
    return is_chosen


def _read_split(folder: Path, images_name: str, labels_name: str) -> Split:
    """Reads an official split from its two IDX files; raises ToolboxError."""
    images_path = _idx_path(folder, images_name)
    labels_path = _idx_path(folder, labels_name)
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise ToolboxError(f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels")
    return Split(images[..., np.newaxis], labels)


def _has_idx_files(folder: Path) -> bool:
    return any(_find(folder, name) for name in IDX_NAMES)


def _idx_path(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise ToolboxError(f"{folder} holds some of the four IDX files, but neither {name} nor {name}.gz")
    return path


def _find(folder: Path, name: str) -> Path | None:
    """The path of `name` or `name.gz` in a folder; raises OSError if the folder cannot be read."""
    present = {path.name: path for path in folder.iterdir()}  # `exists` would hide a folder without permission
    return present.get(name) or present.get(f"{name}.gz")
