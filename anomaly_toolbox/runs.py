"""Run folders: their names, files and locks, and finished runs opened for reading."""

import contextlib
import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from anomaly_toolbox import false_alarms
from anomaly_toolbox.errors import DamagedFile, InputError, ToolboxError, first_line
from anomaly_toolbox.files import read_json, sha256, short_name, write_json

#: The number of the layout of `hparams.json` and `results.json`. Files without a number are read as format 1. A change
#: that earlier versions could misread takes the next number.
FORMAT = 1
#: The labels among the hyperparameters and results of a run; runs of earlier versions have no `normal_label`.
LABELS = ("anomalous_label", "normal_label", "class_label")
#: Columns of `scores.csv` and `validation_scores.csv` that are no scores; excess scores can be recomputed from them.
COMPLEXITY_COLUMNS = ("log_ink", "log_variation")
#: The name that the run folders of ensembles have instead of a method's.
ENSEMBLE = "Ensemble"


def read_versioned_json(path: Path) -> dict[str, Any]:
    """The content of `hparams.json` or `results.json`.

    Raises:
        DamagedFile: the file is damaged.
        ToolboxError: a newer version of the toolbox wrote it.
    """
    content = read_json(path)
    written_format = content.get("format", FORMAT)
    if not isinstance(written_format, int) or written_format < 1:
        raise DamagedFile(f"{path} is damaged: format is {written_format!r}, expected a whole number from 1")
    if written_format > FORMAT:
        raise ToolboxError(
            f"{path} has format {written_format}, this version of the toolbox reads formats up to {FORMAT}; install a "
            "newer version"
        )
    return content


def run_name(values: Mapping[str, Any], defaults: Mapping[str, Any], seed: int | str) -> str:
    """The name of a run's folder: every value that differs from its default, and the seed, or `0-2` for several.

    >>> run_name({"anomalous_label": 2, "epochs": 3, "width": 64}, {"epochs": 15, "width": 64}, seed=0)
    'anomalous_label=2,epochs=3,seed=0'
    """
    changed_values = {name: value for name, value in values.items() if value != defaults.get(name)}
    changed_values["seed"] = seed
    full_name = ",".join(f"{name}={_format_value(value)}" for name, value in changed_values.items())
    name = re.sub(r"[^\w.,=+-]", "-", full_name)
    if name != full_name:  # two values may differ only in the characters that were replaced
        name += f"-{hashlib.sha256(full_name.encode(errors='backslashreplace')).hexdigest()[:6]}"
    return short_name(name)


def _format_value(value: Any) -> str:
    """The value as text. Strings that look like other values get quotes: the labels "1" and 1 are not the same."""
    if isinstance(value, str):
        if value in ("None", "True", "False"):
            return repr(value)
        with contextlib.suppress(ValueError):
            float(value)
            return repr(value)
    return str(value)


class Run:
    """The folder of one trial, while it is filled.

    Args:
        folder: `<log_dir>/<Experiment>/<Dataset>/<run name>`; `locked` makes it.
        hparams: the content of `hparams.json`: experiment, dataset, hyperparameters, seed, versions of packages, and so
            on.
        defaults: the values of hyperparameters that a run of an earlier version may lack.
    """

    def __init__(self, folder: Path, hparams: dict[str, Any], defaults: Mapping[str, Any] | None = None):
        self.folder = folder
        self._defaults = defaults or {}
        self.hparams = {"format": FORMAT, **hparams}
        self.hparams_path = folder / "hparams.json"
        self.weights_path = folder / "model.weights.h5"
        self.results_path = folder / "results.json"
        self.scores_path = folder / "scores.csv"
        self.validation_scores_path = folder / "validation_scores.csv"
        self.checkpoint = folder / "checkpoint"
        self._holds_only_new_files = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other processes; the lock ends with the process, even if it is killed.

        Raises:
            ToolboxError: another process holds the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ToolboxError(f"{self.folder}: another process is working on this run") from None
        self._holds_only_new_files = all(path.name == ".lock" for path in self.folder.iterdir())
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Removes everything in the folder but the lock; `hparams.json`, which says what the folder is, comes last."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path == self.hparams_path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
        self._holds_only_new_files = True

    def remove_unless_trained(self) -> None:
        """Removes the folder, unless it holds a checkpoint, results, or anything from before it was locked."""
        if self._holds_only_new_files and not self.checkpoint.exists() and not self.results_path.exists():
            shutil.rmtree(self.folder)

    def begin(self) -> None:
        """Writes `hparams.json`, or checks the one that an earlier attempt at the same run wrote.

        Raises:
            DamagedFile: a file is damaged or missing.
            ToolboxError: the folder belongs to another run, or the images have changed.
        """
        if not self.hparams_path.exists():
            if self.results_path.exists() or self.checkpoint.exists():
                raise DamagedFile(f"{self.hparams_path} is missing")
            write_json(self.hparams_path, self.hparams)
            return
        recorded = read_versioned_json(self.hparams_path)
        for name, value in self.hparams.items():
            recorded_value = recorded.get(name)
            if name == "hyperparameters" and isinstance(recorded_value, dict):
                recorded_value = {**self._defaults, **recorded_value}
            if name in ("format", "versions") or recorded_value == value:
                continue
            if name == "fingerprint_of_images":
                if recorded_value is None:  # earlier versions recorded none for a user's Python file
                    continue
                raise self.images_have_changed()
            if name == "hyperparameters" and isinstance(recorded_value, dict):
                name, recorded_value, value = _first_difference(recorded_value, value)
            kind = "belongs to a run of another source" if name == "source" else "belongs to another run or is damaged"
            raise ToolboxError(
                f"{self.hparams_path} {kind}: {name} is {recorded_value!r}, this run has "
                f"{value!r}; choose another --log-dir, or start anew with --overwrite"
            )

    def images_have_changed(self) -> ToolboxError:
        """The error to raise if a run was begun with other images."""
        return ToolboxError(
            f"{self.folder}: the images have changed since this run was made; choose another --log-dir, or start anew "
            "with --overwrite"
        )

    def record(self, **values: Any) -> None:
        """Adds values to `hparams.json` that are available only after `begin`."""
        write_json(self.hparams_path, {**self.hparams, **values})

    def finished_results(self) -> dict[str, Any] | None:
        """The results that were given to `finish`, or None if the run is not finished.

        Raises:
            DamagedFile: a file of the finished run is missing or does not match its checksum.
        """
        if not self.results_path.exists():
            return None
        results = read_versioned_json(self.results_path)
        checksums = results.pop("sha256", None)
        if not isinstance(checksums, dict) or checksums.get(self.results_path.name) != _digest(results):
            raise DamagedFile(f"{self.results_path} is damaged")
        for path in self._checked_files:
            if not path.exists() or sha256(path) != checksums.get(path.name):
                raise DamagedFile(f"{path} is damaged or missing")
        path = self.validation_scores_path  # earlier versions wrote neither this file nor its checksum
        if (sha256(path) if path.exists() else None) != checksums.get(path.name):
            raise DamagedFile(f"{path} is damaged or missing")
        results.pop("format", None)
        return results

    def finish(self, results: dict[str, Any]) -> None:
        """Writes `results.json` with checksums, which marks the run as finished, and removes the checkpoint."""
        checksums = {path.name: sha256(path) for path in self._checked_files}
        if self.validation_scores_path.exists():
            checksums[self.validation_scores_path.name] = sha256(self.validation_scores_path)
        results = {"format": FORMAT, **results}
        checksums[self.results_path.name] = _digest(results)
        write_json(self.results_path, {**results, "sha256": checksums})
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    @property
    def _checked_files(self) -> tuple[Path, ...]:
        return self.weights_path, self.scores_path, self.hparams_path


class ValidationScores(NamedTuple):
    """The scores of the validation images of a run.

    Attributes:
        positions: (n,), of the images in the validation split, from 0, in rising order.
        labels: (n,), 0 or 1.
        scores: every score by its name, (n,), float32.
    """

    positions: np.ndarray
    labels: np.ndarray
    scores: dict[str, np.ndarray]


class UnfinishedRun(InputError):
    """A run folder without `results.json`."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose files match their checksums; made by `FinishedRun.read` or `FinishedRun.open`.

    Attributes:
        folder: the run folder.
        hparams: the content of `hparams.json`.
        results: the content of `results.json`.
    """

    folder: Path
    hparams: dict[str, Any]
    results: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Reads the finished run in a folder.

        Raises:
            InputError: the folder is not the folder of a run.
            UnfinishedRun: the run is not finished.
            DamagedFile: a file does not match its checksum.
        """
        run = Run(folder, {})
        if not run.hparams_path.exists():
            raise InputError(f"{folder}: is not the folder of a run: there is no {run.hparams_path.name} in it")
        hparams, results = read_versioned_json(run.hparams_path), run.finished_results()
        if results is None:
            raise UnfinishedRun(f"{folder}: the run is not finished; run the same command again to continue it")
        return cls(folder, hparams, results)

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """Reads a finished run to score with it or to export it.

        Raises:
            InputError: the folder is not the folder of a run, or the run is not finished.
            ToolboxError: the run is damaged; the message says what the user can do.
        """
        with advice_on_damage(folder):
            run = cls.read(Path(folder))
            for name in ("method", "image_size", "score_range", "threshold", "heatmap_range"):
                getattr(run, name)  # a missing value is reported here and not later
            return run

    @property
    def method(self) -> str:
        """The registered name of the method."""
        method: str = self.hparams["experiment"]
        return method

    @property
    def methods(self) -> list[str]:
        """The registered names of all methods in the run: one, or for an ensemble those of its members."""
        members = self.hparams.get("members")
        return [self.method] if members is None else [member["experiment"] for member in members]

    @property
    def image_size(self) -> int:
        """Height and width of the images that the networks take, in pixels."""
        image_size: int = self.hparams["hyperparameters"]["image_size"]
        return image_size

    @property
    def score_range(self) -> tuple[float, float]:
        """Minimum and maximum of the selected score on the validation images."""
        validation = self.results["validation"]
        return validation["score_min"], validation["score_max"]

    @property
    def threshold(self) -> float:
        """The threshold: images with a selected score at or above it are called anomalous."""
        threshold: float = self.results["test"]["threshold"]
        return threshold

    def validation_scores(self) -> ValidationScores | None:
        """The content of `validation_scores.csv`; None for a run of an earlier version, which wrote no such file."""
        path = Run(self.folder, {}).validation_scores_path
        if not path.exists():
            return None
        with open(path, newline="", encoding="utf-8") as file:
            _, _, *names = next(csv.reader(file))
            positions, labels, *columns = np.array(list(csv.reader(file))).T
        scores = {name: column.astype(np.float32) for name, column in zip(names, columns, strict=True)}
        for name in COMPLEXITY_COLUMNS:
            scores.pop(name, None)
        return ValidationScores(positions.astype(int), labels.astype(int), scores)

    def normal_scores(self) -> np.ndarray | None:
        """The finite selected scores of the normal validation images, (n,), float32; None as `validation_scores`."""
        validation = self.validation_scores()
        if validation is None:
            return None
        return false_alarms.of_normal_images(validation.labels, validation.scores[self.results["score"]])

    def lacks_validation_scores(self) -> InputError:
        """The error to raise if a promise about false alarms is wanted of a run that has no validation scores."""
        return InputError(
            f"{self.folder}: the run was made by an earlier version and has no validation_scores.csv; train again"
        )

    @property
    def heatmap_range(self) -> tuple[float, float]:
        """The values of anomaly maps at which a heatmap begins and at which it is yellow; see `pictures`."""
        low, high = self.results["heat_range"]
        return low, high


@contextlib.contextmanager
def advice_on_damage(folder: Path) -> Iterator[None]:
    """Adds what the user can do to the error of a damaged run, in one line."""
    advice = "restore the folder from a copy, or train again: run the command that made it, with --overwrite"
    try:
        yield
    except DamagedFile as problem:
        raise ToolboxError(f"{problem}; {advice}") from problem
    except (KeyError, TypeError, ValueError, OSError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # such as a missing permission
            raise
        cause = f"{type(problem).__name__}: {first_line(problem)}"
        raise ToolboxError(f"{folder}: its files are damaged or of another version ({cause}); {advice}") from problem


def _first_difference(recorded: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first name with two different values, and both values; None stands for a missing one."""
    for name in {**values, **recorded}:
        if recorded.get(name) != values.get(name):
            return name, recorded.get(name), values.get(name)
    raise ValueError("the values do not differ")


def _digest(results: dict[str, Any]) -> str:
    """A checksum of the values, which does not depend on the layout of the file."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
