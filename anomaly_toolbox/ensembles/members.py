"""The members of an ensemble: finished runs on the same images, checked and with their scores side by side."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.runs import ENSEMBLE, FinishedRun, ValidationScores

#: Entries of `hparams.json` and `results.json` in which all members must agree, and what they are.
SAME_IMAGES = {
    "dataset": "dataset",
    "fingerprint_of_images": "images",
    "channels": "number of channels",
    "aspect": "--aspect",
    "white_level": "--white-level",
    "levels": "levels of its images",
    "reading": "options for reading images",
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
        InputError: there are fewer than two runs; a folder is given twice or is no finished run; a run is itself an
            ensemble, or has other images or another label than the first one.
        ToolboxError: a run is damaged.
    """
    if len(folders) < 2:
        raise InputError(f"an ensemble takes at least two runs, received {len(folders)}")
    runs: list[FinishedRun] = []
    for folder in folders:
        run = FinishedRun.open(folder)
        for other in runs:
            if folder.samefile(other.folder) or _is_copy(run, other):
                raise InputError(f"{folder}: is the same run as {other.folder}; give each run once")
        if run.method == ENSEMBLE:
            raise InputError(f"{folder}: is an ensemble; give its members instead")
        if runs:
            _check_same_images(run, runs[0])
        runs.append(run)
    return _align(runs)


def _is_copy(run: FinishedRun, other: FinishedRun) -> bool:
    names = ("experiment", "hyperparameters", "seed")
    return all(run.hparams[name] == other.hparams[name] for name in names)


def _check_same_images(run: FinishedRun, first: FinishedRun) -> None:
    for name in ("anomalous_label", "class_label"):
        label, expected = run.results[name], first.results[name]
        if label != expected:
            raise InputError(f"{run.folder}: {name} is {label}, expected {expected} as in {first.folder}")
    for name, description in SAME_IMAGES.items():
        value, expected = run.hparams.get(name), first.hparams.get(name)
        if value != expected:
            raise InputError(
                f"{run.folder}: has another {description} than {first.folder} ({value!r} and {expected!r}); the "
                "members of an ensemble score the same images"
            )
    digests = [member.hparams.get("digest_of_images") for member in (run, first)]
    if run.image_size == first.image_size and None not in digests and digests[0] != digests[1]:
        raise InputError(f"{run.folder}: its images are not those of {first.folder}")


def _align(runs: Sequence[FinishedRun]) -> Members:
    """Puts the scores of all members side by side; a member may have scored a sample of the validation images."""
    scored = [_read_validation_scores(run) for run in runs]
    shared_positions = scored[0].positions
    for validation in scored[1:]:
        shared_positions = np.intersect1d(shared_positions, validation.positions)
    if not len(shared_positions):
        raise InputError("the runs have scored no validation image in common; train them with one validation_size")
    validation_labels, validation_scores = [], []
    for run, validation in zip(runs, scored, strict=True):
        rows = np.searchsorted(validation.positions, shared_positions)
        validation_labels.append(validation.labels[rows])
        validation_scores.append(validation.scores[run.results["score"]][rows])
    tables = [_read_test_scores(run) for run in runs]
    for run, labels, (files, test_labels, _) in zip(runs, validation_labels, tables, strict=True):
        is_same = files == tables[0][0] and np.array_equal(test_labels, tables[0][1])
        if not is_same or not np.array_equal(labels, validation_labels[0]):
            raise InputError(f"{run.folder}: its images are not those of {runs[0].folder}")
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
