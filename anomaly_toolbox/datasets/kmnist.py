"""KMNIST: 60,000 + 10,000 grey images of 28x28 pixels, cursive Japanese characters with labels 0 to 9.

If `data_dir` holds the publisher's files, either four in the IDX format or four in NumPy's, they are read. Otherwise
TensorFlow Datasets downloads the images to `data_dir` once. The splits are made as those of MNIST.
"""

import zipfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from anomaly_toolbox.datasets.archives import names_in, published_folder
from anomaly_toolbox.datasets.labelled import Split
from anomaly_toolbox.datasets.mnist import IDX_FILES, IDX_NAMES, MNIST, FileNames, plain_or_gzipped, read_idx_splits
from anomaly_toolbox.datasets.published import matched_split
from anomaly_toolbox.errors import ToolboxError, first_line

NPZ_FILES: FileNames = {
    "train": ("kmnist-train-imgs.npz", "kmnist-train-labels.npz"),
    "test": ("kmnist-test-imgs.npz", "kmnist-test-labels.npz"),
}
NPZ_NAMES = [name for names in NPZ_FILES.values() for name in names]
ARRAY = "arr_0"  # the name of the only array in each file


class KMNIST(MNIST):
    """Kuzushiji-MNIST (Clanuwat et al., arXiv 1812.01718); the arguments and errors are those of `PublishedImages`.

    Labels: 0 o, 1 ki, 2 su, 3 tsu, 4 na, 5 ha, 6 ma, 7 ya, 8 re, 9 wo.
    """

    tfds_name: ClassVar[str] = "kmnist"
    alternative: ClassVar[str] = (
        f"put its four files ({', '.join(IDX_NAMES)}, plain or .gz; or {', '.join(NPZ_NAMES)}) in a folder and name "
        "that with --data-dir"
    )

    def read_published(self, data_dir: Path) -> list[Split] | None:
        """See `PublishedImages.read_published`."""
        idx_names = plain_or_gzipped(IDX_NAMES)
        folder = published_folder(data_dir, [*idx_names, *NPZ_NAMES])
        if folder is None:
            return None
        if names_in(folder).isdisjoint(idx_names):
            return [_read_npz_split(folder, *names, self.valid_labels) for names in NPZ_FILES.values()]
        return read_idx_splits(folder, IDX_FILES, self.valid_labels)


def _read_npz_split(folder: Path, images_name: str, labels_name: str, valid_labels: range) -> Split:
    images_path, labels_path = folder / images_name, folder / labels_name
    images, labels = _read_npz(images_path, dimensions=3), _read_npz(labels_path, dimensions=1)
    return matched_split(images[..., np.newaxis], images_path, labels, labels_path, valid_labels)


def _read_npz(path: Path, dimensions: int) -> np.ndarray:
    """The array of bytes in a `.npz` file; raises ToolboxError."""
    if not path.is_file():
        raise ToolboxError(f"{path} is missing; expected four files: {', '.join(NPZ_NAMES)}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{ARRAY}.npy") as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError) as problem:
        raise ToolboxError(f"{path} is damaged, or not a .npz file with {ARRAY}: {first_line(problem)}") from None
    if array.dtype != np.uint8 or array.ndim != dimensions:
        raise ToolboxError(
            f"{path}: expected bytes (uint8) in {dimensions} dimension(s), received {array.dtype} in {array.ndim}"
        )
    return array
