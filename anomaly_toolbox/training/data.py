"""The images of a trial, checked and ready for training and scoring."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from anomaly_toolbox.console import ProgressBar
from anomaly_toolbox.datasets.batches import (
    ScoringSplit,
    check_batch_size,
    sample_images,
    scoring_split,
    training_batches,
)
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.survey import Survey, count_images, digest_of, notes, survey_classes, surveys
from anomaly_toolbox.errors import InputError, ToolboxError, reraise_in_one_line
from anomaly_toolbox.models.base import AnomalyDetector
from anomaly_toolbox.models.derived_scores import FEWEST_IMAGES, is_derived, n_held_out
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters
from anomaly_toolbox.training.classes import class_names_for, describe_classes
from anomaly_toolbox.training.progress import SurveyProgress

LARGEST_MEMORY_BANK = 2**30  # bytes of the images that memory banks are fitted to
NEED_ANOMALIES = ("auprc", "auroc")  # values of `select_by` that need anomalous validation images


@dataclass(frozen=True)
class PreparedData:
    """The images of a trial; made by `prepare`.

    Attributes:
        dataset: configured for the trial.
        n_train: number of normal training images.
        class_names: the names of the normal classes, in the order of their numbers; None if the method uses none.
        batches: a function from the number of finished epochs to an endless dataset of training batches: of images, or
            of pairs (images, classes) if the method uses normal classes.
        memory_images: a sample of the training images, (n, size, size, channels), for the memory banks.
        validation, test: the images that are scored.
        digest: a checksum of the validation and test images.
    """

    dataset: AnomalyDetectionDataset
    n_train: int
    class_names: list[str] | None
    batches: Callable[[int], tf.data.Dataset]
    memory_images: np.ndarray
    validation: ScoringSplit
    test: ScoringSplit
    digest: str


def prepare(
    dataset: AnomalyDetectionDataset,
    method: type[AnomalyDetector],
    hp: ScoringHyperparameters,
    seed: int,
    console: Console,
) -> PreparedData:
    """Configures a dataset, reads every image once, and prints the numbers of images and notes.

    Args:
        dataset: not configured yet.
        method: the class of the method; it decides whether normal classes are needed.
        hp: the hyperparameters of the trial.
        seed: chooses the sample for the memory banks.
        console: where counts, notes and progress are printed.

    Raises:
        InputError: the hyperparameters do not fit the dataset, or it lacks the normal classes that the method needs.
        ToolboxError: a split has no normal images, wrong shapes, wrong labels or wrong classes.
    """
    normal_label = _normal_label_of(hp, dataset)
    with reraise_in_one_line(f"{type(dataset).__name__}.configure"):
        dataset.configure(
            batch_size=hp.batch_size,
            new_size=(hp.image_size, hp.image_size),
            anomalous_label=hp.anomalous_label,
            class_label=hp.class_label,
            shuffle_buffer_size=hp.shuffle_buffer_size,
            drop_remainder=False,  # `training_batches` drops the incomplete batch; test images are never dropped
            **normal_label,
        )
    for note in dataset.notes:
        console.print(note)
    class_names = class_names_for(method, dataset)
    with ProgressBar(console) as bar:
        surveyed = surveys(dataset, SurveyProgress(bar))
        train, train_survey = dataset.train_normal, surveyed["train_normal"]
        if class_names is not None:
            train = dataset.train_classes
            train_survey = survey_classes(dataset, len(train_survey.labels), SurveyProgress(bar))
    counts = count_images(surveyed)
    for line in _describe(dataset, surveyed, counts, getattr(hp, "select_by", None)):
        console.print(line)
    if class_names is not None:
        console.print(describe_classes(class_names, train_survey))

    n_train, shape = counts["train"]["normal"], (hp.image_size, hp.image_size, dataset.channels)
    is_trained = isinstance(hp, Hyperparameters)
    if is_trained:
        check_batch_size(hp.batch_size, n_train)
    validation = scoring_split(dataset.validation, surveyed["validation"], hp.batch_size, shape, hp.validation_size)
    test = scoring_split(dataset.test, surveyed["test"], hp.batch_size, shape)

    wanted_size = min(hp.memory_size, n_train)
    memory_size = min(wanted_size, LARGEST_MEMORY_BANK // (4 * math.prod(shape)))
    if not n_held_out(memory_size):
        limit = " (memory_size)" if memory_size < n_train else ""
        problem = f"{memory_size} normal training images{limit}; derived scores take {FEWEST_IMAGES}"
        if is_derived(hp.score):
            raise InputError(f"score {hp.score}: there are {problem}; choose another score, such as paper")
        console.print(f"no excess scores and no combined score: there are {problem}")
    if memory_size < wanted_size:
        console.print(
            f"memory banks are fitted to {memory_size:,} normal images, not {hp.memory_size:,}: more do not fit into "
            "1 GiB"
        )
    memory_images, is_shuffled = sample_images(train, train_survey, shape, memory_size, seed)
    if is_trained and not is_shuffled:
        console.print("the training images come in the same order each time; they are shuffled here")

    def batches(epochs_done: int) -> tf.data.Dataset:
        buffer_size = None if is_shuffled else hp.shuffle_buffer_size
        return training_batches(
            train, hp.batch_size, shape, n_train, epochs_done, buffer_size, with_classes=method.uses_classes
        )

    return PreparedData(dataset, n_train, class_names, batches, memory_images, validation, test, digest_of(surveyed))


def _normal_label_of(hp: ScoringHyperparameters, dataset: AnomalyDetectionDataset) -> dict[str, Any]:
    """The argument `normal_label` of `configure`, if it is set; many datasets, such as users' own, do not take it.

    Raises:
        InputError: it is set, and the dataset does not take it.
    """
    if hp.normal_label is None:
        return {}
    if "normal_label" not in inspect.signature(dataset.configure).parameters:
        raise InputError(
            f"normal_label: {hp.normal_label!r} given; {type(dataset).__name__} does not support it; datasets with "
            "class labels do, such as Digits, MNIST and CIFAR10"
        )
    return {"normal_label": hp.normal_label}


def _describe(
    dataset: AnomalyDetectionDataset,
    surveyed: dict[str, Survey],
    counts: dict[str, dict[str, int]],
    select_by: str | None,
) -> Iterator[str]:
    """Lines with the numbers of images and what cannot be measured; ToolboxError if a split has no normal images."""
    for split, kinds in counts.items():
        untouched = " (not trained on)" if split == "train" and kinds["anomalous"] else ""
        yield f"{split}: {kinds['normal']:,} normal, {kinds['anomalous']:,} anomalous images{untouched}"
    for split, consequence in (("train", "learnt"), ("validation", "measured"), ("test", "measured")):
        if not counts[split]["normal"]:
            raise ToolboxError(f"{split}: there are no normal images, so nothing could be {consequence}")
    if select_by in NEED_ANOMALIES and not counts["validation"]["anomalous"]:
        yield f"no anomalous validation images: the epoch with the lowest loss is kept, {select_by} cannot be measured"
    if not counts["test"]["anomalous"]:
        yield "no anomalous test images: the test images are scored, but nothing can be measured"
    n_test = len(surveyed["test"].labels)
    if dataset.test_files is not None and len(dataset.test_files) != n_test:
        raise ToolboxError(
            f"{type(dataset).__name__}.test_files has {len(dataset.test_files)} names, expected one for each of the "
            f"{n_test} test images"
        )
    if dataset.levels is None:  # folders check their files themselves
        yield from notes(surveyed)
