"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels with labels 0 to 9.

If the four IDX files are in `data_dir`, they are read. Otherwise TensorFlow Datasets downloads the images to
`data_dir` once. The official test split is for testing; the first 600 training images of each label are for validation.
With `split="pooled"`, all 70,000 images are divided anew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from anomaly_toolbox.datasets.archives import names_in, published_folder
from anomaly_toolbox.datasets.idx import read_idx
from anomaly_toolbox.datasets.labelled import Split
from anomaly_toolbox.datasets.published import PublishedImages, matched_split
from anomaly_toolbox.errors import ToolboxError

#: The names of two files, of images and of labels, for the official training and test split.
FileNames = Mapping[str, tuple[str, str]]

IDX_FILES: FileNames = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_NAMES = [name for names in IDX_FILES.values() for name in names]


class MNIST(PublishedImages):
    """Handwritten digits (LeCun, Cortes and Burges); the arguments and errors are those of `PublishedImages`."""

    tfds_name: ClassVar[str] = "mnist"
    alternative: ClassVar[str] = (
        f"put its four IDX files ({', '.join(IDX_NAMES)}, plain or .gz) in a folder and name that with --data-dir"
    )

    def read_published(self, data_dir: Path) -> list[Split] | None:
        """See `PublishedImages.read_published`."""
        folder = published_folder(data_dir, plain_or_gzipped(IDX_NAMES))
        return None if folder is None else read_idx_splits(folder, IDX_FILES, self.valid_labels)


class FashionMNIST(MNIST):
    """Articles of clothing in MNIST's format (Xiao, Rasul and Vollgraf, arXiv 1708.07747).

    Labels: 0 T-shirt, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.
    """

    tfds_name = "fashion_mnist"


def plain_or_gzipped(names: Sequence[str]) -> list[str]:
    """All names that the files may have."""
    return [*names, *(f"{name}.gz" for name in names)]


def read_idx_splits(folder: Path, files: FileNames, valid_labels: range) -> list[Split]:
    """Reads the official training and test split from four IDX files, each plain or gzipped.

    Returns:
        Splits of grey images, (n, height, width, 1).

    Raises:
        ToolboxError: a file is missing or damaged, there are not as many labels as images, or a label is
            none of the dataset's.
    """
    splits = []
    for images_name, labels_name in files.values():
        images_path, labels_path = _idx_path(folder, images_name), _idx_path(folder, labels_name)
        images, labels = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
        splits.append(matched_split(images[..., np.newaxis], images_path, labels, labels_path, valid_labels))
    return splits


def _idx_path(folder: Path, name: str) -> Path:
    present = names_in(folder)
    for candidate in plain_or_gzipped([name]):
        if candidate in present:
            return folder / candidate
    raise ToolboxError(f"{folder} holds some of the four IDX files, but neither {name} nor {name}.gz")
