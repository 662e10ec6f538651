"""EMNIST: grey images of 28x28 pixels, handwritten letters and digits (Cohen et al., arXiv 1702.05373).

If `data_dir` is the publisher's `gzip.zip`, or a folder with it or with its IDX files, they are read. Otherwise
TensorFlow Datasets downloads the images to `data_dir` once. In both, rows and columns of the images are swapped; here
the letters stand upright. The splits are made as those of MNIST.
"""

from pathlib import Path
from typing import ClassVar

from anomaly_toolbox.datasets.archives import names_in, published_folder
from anomaly_toolbox.datasets.labelled import Split
from anomaly_toolbox.datasets.mnist import FileNames, plain_or_gzipped, read_idx_splits
from anomaly_toolbox.datasets.published import PublishedImages
from anomaly_toolbox.errors import InputError

VARIANTS = ("balanced", "letters", "byclass", "bymerge", "digits", "mnist")  # those in the publisher's archive
#: The variants that are datasets here, and the names of these.
DATASET_NAMES = {"balanced": "EMNISTBalanced", "letters": "EMNISTLetters"}
REMEDY = "get gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset and name it with --data-dir"


class EMNISTBalanced(PublishedImages):
    """112,800 + 18,800 images with labels 0 to 46; the arguments and errors are those of `PublishedImages`.

    Labels 0 to 9 are the digits, 10 to 35 the capital letters, and 36 to 46 the small letters a, b, d, e, f, g, h, n,
    q, r and t. Other small letters share the label of their capital letter, because they look like it.
    """

    variant: ClassVar[str] = "balanced"
    tfds_name: ClassVar[str] = "emnist/balanced"
    alternative: ClassVar[str] = REMEDY
    validation_images_per_label: ClassVar[int] = 240
    is_transposed: ClassVar[bool] = True
    valid_labels: ClassVar[range] = range(47)
    n_published: ClassVar[int] = 131_600

    def read_published(self, data_dir: Path) -> list[Split] | None:
        """See `PublishedImages.read_published`; also raises InputError if there are only files of other variants."""
        names = {variant: plain_or_gzipped(_names(variant)) for variant in (self.variant, *VARIANTS)}
        all_names = [name for names_of_variant in names.values() for name in names_of_variant]
        folder = published_folder(data_dir, all_names, ("gzip",), ("gzip.zip",))
        if folder is None:
            return None
        present = names_in(folder)
        if present.isdisjoint(names[self.variant]):
            others = [variant for variant, its_names in names.items() if not present.isdisjoint(its_names)]
            usable = [DATASET_NAMES[variant] for variant in others if variant in DATASET_NAMES]
            choice = f"choose --dataset {' or '.join(usable)}, or " if usable else ""
            raise InputError(
                f"{folder} holds files of EMNIST {', '.join(others)}, but none of EMNIST {self.variant}, such as "
                f"{names[self.variant][0]}; {choice}another --data-dir"
            )
        return read_idx_splits(folder, _idx_files(self.variant), self.valid_labels)


class EMNISTLetters(EMNISTBalanced):
    """124,800 + 20,800 images with labels 1 to 26: the letters a to z, small and capital ones with the same label.

    TensorFlow Datasets has only the first 88,800 + 14,800 of them.
    """

    variant = "letters"
    tfds_name = "emnist/letters"
    validation_images_per_label = 480
    valid_labels = range(1, 27)
    n_published = 145_600


def _idx_files(variant: str) -> FileNames:
    files = {}
    for split in ("train", "test"):
        prefix = f"emnist-{variant}-{split}"
        files[split] = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    return files


def _names(variant: str) -> list[str]:
    return [name for names in _idx_files(variant).values() for name in names]
