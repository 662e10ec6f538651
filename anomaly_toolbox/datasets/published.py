"""Images with class labels and an official test split, from the publisher's files or from TensorFlow Datasets."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from anomaly_toolbox.datasets.labelled import Division, LabelledImages, Split
from anomaly_toolbox.datasets.tfds import load_tfds
from anomaly_toolbox.errors import ToolboxError

VALIDATION_IMAGES_PER_LABEL = 600  # of MNIST and its relatives


class PublishedImages(LabelledImages):
    """A dataset with an official training and test split; the first training images of each label are for validation.

    A subclass sets the class attributes and defines `read_published`. With `split="pooled"`, all images are divided
    anew.

    Args:
        data_dir: the publisher's files, or the folder of TensorFlow Datasets; None: its default folder.
        split: `official`, or `pooled` for the division of `pooled_splits`.

    Raises:
        InputError: there is no such folder, archive or division.
        ToolboxError: a file is missing or damaged, or the images could not be downloaded.
    """

    #: The name in TensorFlow Datasets.
    tfds_name: ClassVar[str]
    #: The labels that the publisher's files have.
    valid_labels: ClassVar[range] = range(10)
    #: The number of images in the publisher's files.
    n_published: ClassVar[int] = 70_000
    #: The address of the data, if TensorFlow Datasets does not name it.
    url: ClassVar[str | None] = None
    #: What the user can do without a network, for errors.
    alternative: ClassVar[str]
    #: The number of training images of each label for validation: about a tenth of them.
    validation_images_per_label: ClassVar[int] = VALIDATION_IMAGES_PER_LABEL
    #: Whether the publisher's images have their rows and columns swapped.
    is_transposed: ClassVar[bool] = False

    def __init__(self, data_dir: Path | None = None, split: Division = "official"):
        name = type(self).__name__
        published = None if data_dir is None else self.read_published(data_dir)
        n_images = sum(len(part.labels) for part in published or ())
        if published and n_images != self.n_published:
            self.notes = [f"{data_dir} has {n_images:,} images, the publisher's files have {self.n_published:,}"]
        train, test = published or load_tfds(name, self.tfds_name, data_dir, self.alternative, self.url)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ToolboxError(
                f"{name}: training images are {train.images.shape[1]}x{train.images.shape[2]} pixels, "
                f"test images {test.images.shape[1]}x{test.images.shape[2]}"
            )
        if self.is_transposed:
            train, test = (Split(part.images.swapaxes(1, 2), part.labels) for part in (train, test))
        is_validation = np.zeros(len(train.labels), bool)
        if split != "pooled":  # the pooled division takes its validation images from all normal images
            is_validation = first_of_each_label(name, train.labels, self.validation_images_per_label)
        super().__init__(
            Split(train.images[~is_validation], train.labels[~is_validation]),
            Split(train.images[is_validation], train.labels[is_validation]),
            test,
            split,
        )

    def read_published(self, data_dir: Path) -> list[Split] | None:
        """The official training and test split from the publisher's files; None if `data_dir` has none of them.

        Raises:
            InputError: there is no such folder or archive.
            ToolboxError: a file is missing or damaged.
        """
        raise NotImplementedError


def first_of_each_label(name: str, labels: np.ndarray, per_label: int) -> np.ndarray:
    """Chooses the training images for validation: the first ones of each label.

    Args:
        name: the name of the dataset, for errors.
        labels: the labels of the training images, (n,).
        per_label: how many of each label are for validation; of a label that has no more images than these, a tenth
            is, rounded up, so that a small part of a dataset can be used too.

    Returns:
        Whether an image is for validation, (n,), bool.

    Raises:
        ToolboxError: no image would be left for training.
    """
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        with_label = np.flatnonzero(labels == label)
        count = per_label if len(with_label) > per_label else -(-len(with_label) // 10)
        is_chosen[with_label[:count]] = True
    if is_chosen.all():
        raise ToolboxError(
            f"{name} has {len(labels)} training images; expected at least two of a label, one of them for validation"
        )
    return is_chosen


def matched_split(
    images: np.ndarray, images_path: Path, labels: np.ndarray, labels_path: Path, valid_labels: range
) -> Split:
    """Images and labels from two files as a split.

    Raises:
        ToolboxError: there are not as many labels as images, or a label is none of the dataset's.
    """
    wrong = labels[(labels < valid_labels[0]) | (labels > valid_labels[-1])]
    if wrong.size:
        raise ToolboxError(
            f"{labels_path}: labels: expected {valid_labels[0]} to {valid_labels[-1]}, received {wrong[0]}"
        )
    if len(images) != len(labels):
        raise ToolboxError(f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels")
    return Split(images, labels)
