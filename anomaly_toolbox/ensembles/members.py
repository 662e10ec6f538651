"""The members of an ensemble: finished runs on the same images, checked and with their scores side by side."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.runs import ENSEMBLE, LABELS, FinishedRun, ValidationScores

#: Entries of `hparams.json` in which all members must agree, and what they are.
SAME_IMAGES = {
    "dataset": "its dataset",
    "channels": "the channels of its images",
    "aspect": "--aspect",
    "white_level": "--white-level",
    "levels": "the levels of its images",
    "reading": "the options for its images",
}


@dataclass(frozen=True)
class Members:
    """The selected scores of all members, for the images that every member has scored.

    Attributes:
        runs: the members.
        validation_labels: (n,), of the validation images that all members have scored.
        validation_positions: (n,), of these images in the validation split.
        validation_scores: (n,) for each member.
        test_files: the names of the test images, None if they have none.
        test_labels: (m,).
        test_scores: (m,) for each member.
    """

    runs: Sequence[FinishedRun]
    validation_labels: np.ndarray
    validation_positions: np.ndarray
    validation_scores: Sequence[np.ndarray]
    test_files: Sequence[str] | None
    test_labels: np.ndarray
    test_scores: Sequence[np.ndarray]


def open_members(folders: Sequence[Path]) -> Members:
    """Opens finished runs as the members of one ensemble.

    Raises:
        InputError: there are fewer than two runs; a run is given twice, is not finished, is itself an ensemble, has no
            validation scores, has other images or another label than an earlier one, or has scored none of the
            validation images that the runs before it have scored.
        ToolboxError: a run is damaged.
    """
    if len(folders) < 2:
        raise InputError(f"an ensemble takes at least two runs, received {len(folders)}")
    runs: list[FinishedRun] = []
    validation: list[ValidationScores] = []
    for folder in folders:
        run = FinishedRun.open(folder)
        if run.method == ENSEMBLE:
            raise InputError(f"{folder}: is an ensemble; give its members instead")
        validation.append(_read_validation_scores(run))
        for other in runs:
            _check_same_images(run, other)
            if _is_copy(run, other):
                raise InputError(f"{folder}: is the same run as {other.folder}; give each run once")
        runs.append(run)
    return _align(runs, validation)


def _is_copy(run: FinishedRun, other: FinishedRun) -> bool:
    """Whether two folders have the same run; one of them may be a link, a copy, or a repetition elsewhere."""
    names = ("experiment", "hyperparameters", "seed")
    return all(run.hparams[name] == other.hparams[name] for name in names)


def _check_same_images(run: FinishedRun, other: FinishedRun) -> None:
    for name in LABELS:
        label, expected = run.results.get(name), other.results.get(name)
        if label != expected:
            raise InputError(f"{run.folder}: {name} is {label}, expected {expected} as in {other.folder}")
    for name, description in SAME_IMAGES.items():
        value, expected = run.hparams.get(name), other.hparams.get(name)
        if value != expected:
            raise InputError(
                f"{run.folder}: {description}: {value}, expected {expected} as in {other.folder}; all members of an "
                "ensemble score the same images"
            )
    checksums = ["fingerprint_of_images"]
    if run.image_size == other.image_size:
        checksums.append("digest_of_images")  # of the resized images
    for name in checksums:
        if run.hparams.get(name) != other.hparams.get(name):
            raise _has_other_images(run, other)


def _has_other_images(run: FinishedRun, other: FinishedRun) -> InputError:
    return InputError(
        f"{run.folder}: its images are not those of {other.folder}; all members of an ensemble score the same images"
    )


def _align(runs: Sequence[FinishedRun], validation: Sequence[ValidationScores]) -> Members:
    """Puts the scores of all members side by side; a member may have scored a sample of the validation images."""
    shared_positions = validation[0].positions
    for run, scored in zip(runs[1:], validation[1:], strict=True):
        shared_positions = np.intersect1d(shared_positions, scored.positions)
        if not len(shared_positions):
            raise InputError(
                f"{run.folder}: has scored no validation image that the runs before it have scored; train again with "
                "a larger validation_size"
            )
    validation_labels, validation_scores = [], []
    for run, scored in zip(runs, validation, strict=True):
        rows = np.searchsorted(scored.positions, shared_positions)
        validation_labels.append(scored.labels[rows])
        validation_scores.append(scored.scores[run.results["score"]][rows])
    tables = [_read_test_scores(run) for run in runs]
    for run, labels, (files, test_labels, _) in zip(runs, validation_labels, tables, strict=True):
        is_same = files == tables[0][0] and np.array_equal(test_labels, tables[0][1])
        if not is_same or not np.array_equal(labels, validation_labels[0]):
            raise _has_other_images(run, runs[0])
    files, test_labels, _ = tables[0]
    return Members(
        runs,
        validation_labels[0],
        shared_positions,
        validation_scores,
        files,
        test_labels,
        [scores for _, _, scores in tables],
    )


def _read_validation_scores(run: FinishedRun) -> ValidationScores:
    validation = run.validation_scores()
    if validation is None:
        raise run.lacks_validation_scores()
    return validation


def _read_test_scores(run: FinishedRun) -> tuple[list[str] | None, np.ndarray, np.ndarray]:
    """The names, labels and selected scores of the test images, from `scores.csv`."""
    with open(run.folder / "scores.csv", newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = next(reader)
        records = list(reader)
    names = [record[0] for record in records] if columns[0] == "file" else None
    labels = np.array([int(record[columns.index("label")]) for record in records])
    scores = np.array([record[columns.index("score")] for record in records]).astype(np.float32)
    return names, labels, scores
