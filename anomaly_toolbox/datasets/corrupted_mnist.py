"""MNIST-C: the 60,000 + 10,000 grey images of MNIST, 28x28 pixels, clean and in 15 corrupted versions.

They come from the publisher's `mnist_c.zip` or its folder `mnist_c`, which holds
`<corruption>/{train,test}_{images,labels}.npy`, if `data_dir` names one, else through TensorFlow Datasets, which
downloads them to `data_dir` once (https://zenodo.org/record/3239543, CC BY 4.0).
"""

from pathlib import Path

import numpy as np

from anomaly_toolbox.datasets.archives import data_folder
from anomaly_toolbox.datasets.labelled import ImagesInMemory, Split
from anomaly_toolbox.datasets.mnist import held_for_validation, load_tfds
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
    """Clean digits are normal, corrupted ones anomalous (Mu and Gilmer, arXiv 1906.02337).

    One looks for corrupted images among clean ones, whichever digits they show. `class_label` names the corruption:
    shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe, fog,
    spatter, dotted_line, zigzag or canny_edges. The earlier toolbox's class of this name was plain MNIST by mistake.

    No digit is in two splits, or in one both clean and corrupted: of the official test split every second image is
    corrupted, the others are clean. So it is with the first 600 training images of each label, which validate; all
    other training images are clean.

    Args:
        data_dir: the publisher's archive, the folder that it holds or the one above, or where TensorFlow Datasets keeps
            its data.

    Raises:
        InputError: there is no such folder or archive, or it is an archive of something else.
        ToolboxError: a file is missing or damaged, or the images could not be downloaded.
    """

    def __init__(self, data_dir: Path | None = None):
        super().__init__()
        self._data_dir = data_dir and data_folder(data_dir)
        self._publishers = self._data_dir and _publishers_folder(self._data_dir)
        if data_dir and data_dir.is_file() and not self._publishers:
            raise InputError(f"--data-dir {data_dir}: expected an archive with mnist_c/{CLEAN} and the like in it")
        self._clean = self._read(CLEAN)

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`; raises InputError for what is no corruption."""
        if anomalous_label is not None:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} given; CorruptedMNIST has corruptions: use class_label instead"
            )
        if class_label not in CORRUPTIONS:
            raise InputError(
                f"class_label: expected a corruption, received {class_label!r}: "
                f"{did_you_mean(str(class_label), CORRUPTIONS)}"
            )
        self.fill(self._splits(class_label), batch_size=batch_size, new_size=new_size, **options)

    def _splits(self, corruption: str) -> dict[str, Split]:
        """Training, validation and test, with the label 1 for corrupted images."""
        clean_train, clean_test = self._clean
        corrupted_train, corrupted_test = self._read(corruption)
        for clean, corrupted in ((clean_train, corrupted_train), (clean_test, corrupted_test)):
            if clean.images.shape != corrupted.images.shape or not np.array_equal(clean.labels, corrupted.labels):
                raise ToolboxError(f"CorruptedMNIST: {corruption} does not hold the same digits as {CLEAN}")
        is_held = held_for_validation("CorruptedMNIST", clean_train.labels)
        learnt = clean_train.images[~is_held]
        return {
            "train": Split(learnt, np.zeros(len(learnt), np.int32)),
            "validation": _every_second_corrupted(clean_train, corrupted_train, np.flatnonzero(is_held)),
            "test": _every_second_corrupted(clean_test, corrupted_test, np.arange(len(clean_test.labels))),
        }

    def _read(self, corruption: str) -> list[Split]:
        """The official training and test split in one version."""
        if not self._publishers:
            instead = "get mnist_c.zip from https://zenodo.org/record/3239543 and name it with --data-dir"
            return load_tfds("CorruptedMNIST", f"mnist_corrupted/{corruption}", self._data_dir, instead, URL)
        splits = []
        for split in ("train", "test"):
            images_path, labels_path = (
                self._publishers / corruption / f"{split}_{what}.npy" for what in ("images", "labels")
            )
            images, labels = _array(images_path), _array(labels_path)
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 1:
                raise ToolboxError(
                    f"{images_path}: expected grey images of 8 bits, (n, height, width, 1), "
                    f"received {images.dtype}, {images.shape}"
                )
            if labels.shape != images.shape[:1]:
                raise ToolboxError(f"{labels_path}: expected {len(images)} labels, received {labels.shape}")
            splits.append(Split(images, labels))
        return splits


def _every_second_corrupted(clean: Split, corrupted: Split, places: np.ndarray) -> Split:
    """The digits at these places, each in one version, with the label 1 for corrupted images."""
    images = clean.images[places]
    images[1::2] = corrupted.images[places[1::2]]
    return Split(images, (np.arange(len(places)) % 2).astype(np.int32))


def _publishers_folder(folder: Path) -> Path | None:
    places = (folder, folder / "mnist_c")
    return next((place for place in places if any((place / name).is_dir() for name in (CLEAN, *CORRUPTIONS))), None)


def _array(path: Path) -> np.ndarray:
    """The array in a `.npy` file, of which only what is used is read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ToolboxError(f"{path} is missing") from None
    except (ValueError, EOFError) as problem:
        raise ToolboxError(f"{path} is damaged, or no .npy file: {problem}") from None
