"""MNIST-C: the 60,000 + 10,000 grey images of MNIST, 28x28 pixels, clean and in 15 corrupted versions.

If `data_dir` is the publisher's `mnist_c.zip` or its folder `mnist_c`, which holds
`<corruption>/{train,test}_{images,labels}.npy`, these files are read. Otherwise TensorFlow Datasets downloads the
images to `data_dir` once (https://zenodo.org/record/3239543, CC BY 4.0).
"""

from pathlib import Path

import numpy as np

from anomaly_toolbox.datasets.archives import published_folder
from anomaly_toolbox.datasets.labelled import ImagesInMemory, Split
from anomaly_toolbox.datasets.published import VALIDATION_IMAGES_PER_LABEL, first_of_each_label
from anomaly_toolbox.datasets.tfds import load_tfds
from anomaly_toolbox.errors import InputError, ToolboxError, did_you_mean

CLEAN = "identity"
CORRUPTIONS = (
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
)
URL = "https://zenodo.org"


class CorruptedMNIST(ImagesInMemory):
    """Clean digits are normal, corrupted digits are anomalous (Mu and Gilmer, arXiv 1906.02337).

    The task is to find corrupted images among clean ones, whichever digits they show. `class_label` names the
    corruption: shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe,
    fog, spatter, dotted_line, zigzag or canny_edges. The earlier toolbox's class of this name was plain MNIST by
    mistake.

    No digit is in two splits, and none is in a split both clean and corrupted. In the official test split, every second
    image is corrupted and the others are clean. The same holds for the first 600 training images of each label, which
    are for validation. All other training images are clean; their normal classes are the digits.

    Args:
        data_dir: the publisher's archive, the folder in it, the folder above, or the folder of TensorFlow Datasets.

    Raises:
        InputError: there is no such folder or archive, or the archive holds something else.
        ToolboxError: a file is missing or damaged, or the images could not be downloaded.
    """

    def __init__(self, data_dir: Path | None = None):
        super().__init__()
        self._data_dir = data_dir
        self._published_folder = None
        if data_dir is not None:
            self._published_folder = published_folder(data_dir, (CLEAN, *CORRUPTIONS), ("mnist_c",))
        self._clean = self._read(CLEAN)
        self._is_validation = first_of_each_label("CorruptedMNIST", self._clean[0].labels, VALIDATION_IMAGES_PER_LABEL)

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`.

        Raises:
            InputError: the class label is not a corruption, or an anomalous label is given.
            ToolboxError: the files of the corruption are missing or damaged, or could not be downloaded.
        """
        if anomalous_label is not None:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} given; CorruptedMNIST has corruptions: use class_label instead"
            )
        if class_label not in CORRUPTIONS:
            raise InputError(
                f"class_label: expected a corruption, received {class_label!r}: "
                f"{did_you_mean(str(class_label), CORRUPTIONS)}"
            )
        digits = self._clean[0].labels[~self._is_validation]
        self.fill(self._splits(class_label), digits, batch_size=batch_size, new_size=new_size, **options)

    def _splits(self, corruption: str) -> dict[str, Split]:
        """Training, validation and test images, with label 1 for corrupted ones."""
        clean_train, clean_test = self._clean
        corrupted_train, corrupted_test = self._read(corruption)
        for clean, corrupted in ((clean_train, corrupted_train), (clean_test, corrupted_test)):
            if clean.images.shape != corrupted.images.shape or not np.array_equal(clean.labels, corrupted.labels):
                raise ToolboxError(f"CorruptedMNIST: {corruption} does not hold the same digits as {CLEAN}")
        train_images = clean_train.images[~self._is_validation]
        validation_indices = np.flatnonzero(self._is_validation)
        test_indices = np.arange(len(clean_test.labels))
        return {
            "train": Split(train_images, np.zeros(len(train_images), np.int32)),
            "validation": _corrupt_every_second(clean_train, corrupted_train, validation_indices),
            "test": _corrupt_every_second(clean_test, corrupted_test, test_indices),
        }

    def _read(self, corruption: str) -> list[Split]:
        """The official training and test split in one version."""
        if self._published_folder is None:
            alternative = "get mnist_c.zip from https://zenodo.org/record/3239543 and name it with --data-dir"
            return load_tfds("CorruptedMNIST", f"mnist_corrupted/{corruption}", self._data_dir, alternative, URL)
        folder = self._published_folder / corruption
        return [_read_split(folder, split) for split in ("train", "test")]


def _corrupt_every_second(clean: Split, corrupted: Split, indices: np.ndarray) -> Split:
    """The digits at these indices, alternately clean and corrupted, with label 1 for corrupted ones."""
    images = clean.images[indices]
    images[1::2] = corrupted.images[indices[1::2]]
    return Split(images, (np.arange(len(indices)) % 2).astype(np.int32))


def _read_split(folder: Path, split: str) -> Split:
    """Reads the images and labels of a split in one version; raises ToolboxError."""
    images_path = folder / f"{split}_images.npy"
    labels_path = folder / f"{split}_labels.npy"
    images = _map_array(images_path)
    labels = _map_array(labels_path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 1:
        raise ToolboxError(
            f"{images_path}: expected grey images of 8 bits, (n, height, width, 1), "
            f"received {images.dtype}, {images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise ToolboxError(f"{labels_path}: expected {len(images)} labels, received {labels.shape}")
    return Split(images, labels)


def _map_array(path: Path) -> np.ndarray:
    """The array in a `.npy` file, mapped into memory: only the parts that are used are read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ToolboxError(f"{path} is missing") from None
    except (ValueError, EOFError) as problem:
        raise ToolboxError(f"{path} is damaged or not a .npy file: {problem}") from None
