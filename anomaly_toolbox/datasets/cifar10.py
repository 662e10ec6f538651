"""CIFAR-10: 50,000 + 10,000 colour images of 32x32 pixels with labels 0 to 9 (Krizhevsky, 2009).

If `data_dir` is the publisher's archive for Python or for C, the folder in it, or a folder with one of these, it is
read. Otherwise TensorFlow Datasets downloads the images to `data_dir` once. The official test split is for testing; the
first 500 training images of each label are for validation. With `split="pooled"`, all 60,000 images are divided anew.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anomaly_toolbox.datasets.archives import names_in, published_folder
from anomaly_toolbox.datasets.labelled import Split
from anomaly_toolbox.datasets.pickles import array_of, name_of_type, read_pickled_dict
from anomaly_toolbox.datasets.published import PublishedImages
from anomaly_toolbox.errors import ToolboxError

SIZE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIZE * SIZE  # numbers of an image: all rows of red, then of green, then of blue
N_LABELS = 10
#: The files of the archive for Python, which are pickles; in the archive for C, their names end in `.bin`.
TRAIN_FILES = [f"data_batch_{number}" for number in range(1, 6)]
TEST_FILE = "test_batch"
PICKLES = [*TRAIN_FILES, TEST_FILE]
BINARIES = [f"{name}.bin" for name in PICKLES]
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")


class CIFAR10(PublishedImages):
    """Photographs of animals and vehicles; the arguments and errors are those of `PublishedImages`.

    Labels: 0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.
    """

    tfds_name: ClassVar[str] = "cifar10"
    url: ClassVar[str | None] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    alternative: ClassVar[str] = f"get {' or '.join(ARCHIVES)} from {url} and name it with --data-dir"
    validation_images_per_label: ClassVar[int] = 500
    n_published: ClassVar[int] = 60_000

    def read_published(self, data_dir: Path) -> list[Split] | None:
        """See `PublishedImages.read_published`."""
        folder = published_folder(data_dir, [*PICKLES, *BINARIES], FOLDERS, ARCHIVES)
        if folder is None:
            return None
        present = names_in(folder)
        names, read = (BINARIES, _read_binary) if present.isdisjoint(PICKLES) else (PICKLES, _read_pickle)
        missing = [name for name in names if name not in present]
        if missing:
            raise ToolboxError(f"{folder} lacks {', '.join(missing)}; expected {', '.join(names)}")
        *train_parts, test = (read(folder / name) for name in names)
        images, labels = zip(*train_parts, strict=True)
        return [Split(np.concatenate(images), np.concatenate(labels)), test]


def _read_pickle(path: Path) -> Split:
    """Reads a file of the archive for Python; raises ToolboxError."""
    content = read_pickled_dict(path)
    pixels, labels = array_of(_entry(content, "data")), _entry(content, "labels")
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != PIXELS or len(pixels) == 0:
        received = (
            name_of_type(_entry(content, "data"))
            if pixels is None
            else f"bytes in {' x '.join(map(str, pixels.shape))}"
        )
        raise ToolboxError(f"{path}: data: expected bytes in n x {PIXELS}, received {received}")
    n_images = len(pixels)
    if not isinstance(labels, list) or len(labels) != n_images or any(type(label) is not int for label in labels):
        received = f"{len(labels)} values" if isinstance(labels, list) else name_of_type(labels)
        raise ToolboxError(f"{path}: labels: expected a list of {n_images} whole numbers, received {received}")
    return _as_split(path, pixels, np.array(labels, object))


def _entry(content: dict[Any, Any], name: str) -> Any:
    """A value of a pickled dict, whose keys are bytes if Python 2 wrote it, or None."""
    return content.get(name.encode(), content.get(name))


def _read_binary(path: Path) -> Split:
    """Reads a file of the archive for C: a byte with the label before the bytes of each image; raises ToolboxError."""
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % (1 + PIXELS):
        raise ToolboxError(
            f"{path} is damaged: expected {1 + PIXELS} bytes for each image, a label and {PIXELS} pixels, received "
            f"{len(content)} bytes"
        )
    records = content.reshape(-1, 1 + PIXELS)
    return _as_split(path, records[:, 1:], records[:, 0])


def _as_split(path: Path, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """The images, (n, 32, 32, 3), of rows of pixels; raises ToolboxError if a label is not one of CIFAR-10."""
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= N_LABELS:
        wrong = lowest if lowest < 0 else highest
        raise ToolboxError(f"{path}: labels: expected 0 to {N_LABELS - 1}, received {wrong}")
    images = pixels.reshape(-1, CHANNELS, SIZE, SIZE).transpose(0, 2, 3, 1)
    return Split(images, labels.astype(np.uint8))
