"""A run's folder: what is in it, whose it is, and whether it is finished."""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from anomaly_toolbox.errors import DamagedFile, InputError, ToolboxError, first_line
from anomaly_toolbox.files import read_json, sha256, short_name, write_json

#: The layout of `hparams.json` and `results.json`. Files without a number are from versions before it was introduced;
#: they are read as format 1. A change that earlier versions could misread takes the next number.
FORMAT = 1


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


def run_name(values: Mapping[str, Any], defaults: Mapping[str, Any], seed: int) -> str:
    """A name that reads well in TensorBoard: the anomaly, then whatever differs from the defaults, then the seed.

    >>> run_name({"anomalous_label": 2, "epochs": 3, "width": 64}, {"epochs": 15, "width": 64}, seed=0)
    'anomalous_label=2,epochs=3,seed=0'
    """
    told = {name: value for name, value in values.items() if value != defaults.get(name)}
    full = ",".join(f"{name}={_shown(value)}" for name, value in {**told, "seed": seed}.items())
    name = re.sub(r"[^\w.,=+-]", "-", full)
    if name != full:  # another name may differ in the characters that were replaced alone
        name += f"-{hashlib.sha256(full.encode(errors='backslashreplace')).hexdigest()[:6]}"
    return short_name(name)


def _shown(value: Any) -> str:
    """A text that reads like a number or another value, such as the label "1", is told from that by its quotes."""
    if isinstance(value, str):
        if value in ("None", "True", "False"):
            return repr(value)
        with contextlib.suppress(ValueError):
            float(value)
            return repr(value)
    return str(value)


class Run:
    """One folder, one trial.

    Args:
        folder: `logs/<Experiment>/<Dataset>/<run_name>`; made when the run is locked.
        hparams: what the run is to be: experiment, dataset, hyperparameters, seed, versions, and so on.
    """

    def __init__(self, folder: Path, hparams: dict[str, Any]):
        self.folder = folder
        self.hparams = {"format": FORMAT, **hparams}
        self.hparams_path = folder / "hparams.json"
        self.weights_path = folder / "model.weights.h5"
        self.results_path = folder / "results.json"
        self.scores_path = folder / "scores.csv"
        self.checkpoint = folder / "checkpoint"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process out of the folder; the lock goes with the process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ToolboxError(f"{self.folder}: another process is working on this run") from None
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Removes everything but the lock."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()

    def discard_unbegun(self) -> None:
        """Removes the folder if no epoch was finished in it: what was asked for could not be."""
        if not self.checkpoint.exists() and not self.results_path.exists():
            shutil.rmtree(self.folder)

    def begin(self) -> None:
        """Claims the folder for these hyperparameters; ToolboxError if it holds another run or is damaged."""
        if not self.hparams_path.exists():
            if self.results_path.exists() or self.checkpoint.exists():
                raise DamagedFile(f"{self.hparams_path} is missing")
            write_json(self.hparams_path, self.hparams)
            return
        recorded = read_versioned_json(self.hparams_path)
        for name, wanted in self.hparams.items():
            if name == "fingerprint_of_images" and recorded.get(name) is None:
                continue  # an earlier run of a user's Python file, whose fingerprint was not kept
            if name == "fingerprint_of_images" and recorded[name] != wanted:
                raise self.images_have_changed()
            if name not in ("format", "versions") and recorded.get(name) != wanted:
                raise ToolboxError(
                    f"{self.hparams_path} is damaged or another run's: {name} is {recorded.get(name)!r}, this run has "
                    f"{wanted!r}; choose another --log-dir, or start anew with --overwrite"
                )

    def images_have_changed(self) -> ToolboxError:
        """An error that says so, and what can be done."""
        return ToolboxError(
            f"{self.folder}: the images have changed since this run was made; choose another --log-dir, or start anew "
            "with --overwrite"
        )

    def record(self, **known: Any) -> None:
        """Adds to `hparams.json` what rebuilding the detector needs and `begin` could not know."""
        write_json(self.hparams_path, {**self.hparams, **known})

    def finished_results(self) -> dict[str, Any] | None:
        """What `finish` was given if the run is finished, else None; DamagedFile if what it left is damaged."""
        if not self.results_path.exists():
            return None
        results = read_versioned_json(self.results_path)
        checksums = results.pop("sha256", None)
        if not isinstance(checksums, dict) or checksums.get(self.results_path.name) != _digest(results):
            raise DamagedFile(f"{self.results_path} is damaged")
        for path in self._guarded:
            if not path.exists() or sha256(path) != checksums.get(path.name):
                raise DamagedFile(f"{path} is damaged or missing")
        results.pop("format", None)
        return results

    @property
    def _guarded(self) -> tuple[Path, ...]:
        return self.weights_path, self.scores_path, self.hparams_path

    def finish(self, results: dict[str, Any]) -> None:
        """Writes `results.json`, the sign of a finished run, and lets the checkpoint go."""
        checksums = {path.name: sha256(path) for path in self._guarded}
        results = {"format": FORMAT, **results}
        checksums[self.results_path.name] = _digest(results)
        write_json(self.results_path, {**results, "sha256": checksums})
        shutil.rmtree(self.checkpoint, ignore_errors=True)


class UnfinishedRun(InputError):
    """A run's folder without `results.json`."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose files match their checksums; made by `FinishedRun.read` or `FinishedRun.open`.

    Attributes:
        folder: of the run.
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
            for part in ("method", "image_size", "score_range", "threshold", "heatmap_range"):
                getattr(run, part)  # a missing value is reported here and not later
            return run

    @property
    def method(self) -> str:
        """The registered name of the method."""
        return self.hparams["experiment"]

    @property
    def image_size(self) -> int:
        """Height and width of the images that the networks take, in pixels."""
        return self.hparams["hyperparameters"]["image_size"]

    @property
    def score_range(self) -> tuple[float, float]:
        """Minimum and maximum of the selected score on the validation images."""
        validation = self.results["validation"]
        return validation["score_min"], validation["score_max"]

    @property
    def threshold(self) -> float:
        """Images whose selected score is at or above it are called anomalous."""
        return self.results["test"]["threshold"]

    @property
    def heatmap_range(self) -> tuple[float, float]:
        """The values of anomaly maps at which a heatmap starts and at which it is full; see `pictures`."""
        low, high = self.results["heat_range"]
        return low, high


@contextlib.contextmanager
def advice_on_damage(folder: Path) -> Iterator[None]:
    """Adds what the user can do to the error of a damaged run, in one line."""
    advice = "restore the folder from a copy, or run the command again that made it"
    try:
        yield
    except DamagedFile as problem:
        raise ToolboxError(f"{problem}; {advice}") from problem
    except (KeyError, TypeError, ValueError, OSError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # such as a missing permission
            raise
        reason = f"its files are damaged, or of another version ({type(problem).__name__}: {first_line(problem)})"
        raise ToolboxError(f"{folder}: {reason}; {advice}") from problem


def _digest(results: dict[str, Any]) -> str:
    """Checksum of the figures themselves, however they are laid out in the file."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
