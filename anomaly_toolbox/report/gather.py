"""Reads the finished runs of a log folder and finds out why other folders cannot be compared."""

import base64
import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import read_json
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.runs import FinishedRun, UnfinishedRun

#: A folder that has one of these is a run folder, though it may be damaged or unfinished.
RUN_FILES = ("hparams.json", "results.json", "scores.csv", "model.weights.h5", "checkpoint")


@dataclass
class Gathered:
    """The runs of a log folder.

    Attributes:
        finished: the runs to compare.
        left_out: pairs of a run folder that is left out of the comparison, and the reason.
    """

    finished: list[ComparedRun] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def gather(log_dir: Path) -> Gathered:
    """Reads every run below `log_dir`, at any depth.

    Raises:
        InputError: the folder does not exist or contains no run.
    """
    if not log_dir.is_dir():
        problem = "is a file" if log_dir.exists() else "there is no such folder"
        raise InputError(f"{log_dir}: {problem}; expected the --log-dir of earlier commands")
    folders = sorted({path.parent for name in RUN_FILES for path in log_dir.rglob(name)})
    if not folders:
        raise InputError(f"{log_dir}: there are no runs in it; expected the --log-dir of earlier commands")

    gathered = Gathered()
    first_images: dict[tuple[str, str, bool], tuple[str | None, Path]] = {}
    compared_folders: dict[tuple[str, str, str, int], Path] = {}
    for folder in folders:
        try:
            run, fingerprint = _read(folder)
        except (ToolboxError, OSError, KeyError, TypeError, ValueError) as problem:
            reason = str(problem) if isinstance(problem, ToolboxError) else f"damaged: {problem!r}"
            gathered.left_out.append((folder, reason.replace(f"{folder}/", "").partition(";")[0]))
            continue

        # Only datasets of image files have a fingerprint. Runs of datasets with the same name are comparable only if
        # their images are the same; those with other images than the first run of a label are left out.
        dataset = run.dataset
        group = (dataset, run.label, fingerprint is None)
        if group not in first_images:
            first_images[group] = (fingerprint, folder)
        first_fingerprint, first_folder = first_images[group]
        trial = (dataset, run.method, repr(run.hyperparameters), run.results["seed"])
        if fingerprint != first_fingerprint:
            other = first_folder.relative_to(log_dir)
            gathered.left_out.append((folder, f"its images are not those of {other}, which has the same dataset name"))
        elif trial in compared_folders:
            same = compared_folders[trial].relative_to(log_dir)
            gathered.left_out.append((folder, f"the same run as {same}"))
        else:
            compared_folders[trial] = folder
            gathered.finished.append(run)
    return gathered


def read_scores(run: ComparedRun, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads `scores.csv`.

    Returns:
        The labels and the values of a score, (n,) each, for the test images.
    """
    with open(run.file("scores.csv"), newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        names = next(reader)
        label_column, score_column = names.index("label"), names.index(score)
        records = list(reader)
    labels = np.array([int(record[label_column]) for record in records])
    return labels, np.array([float(record[score_column]) for record in records])


def read_picture(run: ComparedRun, name: str) -> str | None:
    """A PNG file of the run folder as a data URL, or None if it does not exist."""
    path = run.file(name)
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _read(folder: Path) -> tuple[ComparedRun, str | None]:
    """Reads a finished run, and the fingerprint of its images if they come from files.

    Raises:
        ToolboxError: the folder has no run that can be compared; the message is the reason.
    """
    if not (folder / "hparams.json").exists():
        raise ToolboxError("damaged: hparams.json is missing")
    try:
        run = FinishedRun.read(folder)
    except UnfinishedRun:
        raise ToolboxError(_progress_of(folder)) from None
    hyperparameters = dict(run.hparams["hyperparameters"])
    reading = run.hparams.get("reading") or {}
    if "split" in reading:  # these runs have other test images, of another prevalence, so they have tables of their own
        run.results["dataset"] += f", split={reading['split']}"
    if run.hparams.get("aspect"):  # the options with which image files are read count as part of the setting
        hyperparameters["aspect"] = run.hparams["aspect"]
        hyperparameters["all_test_images"] = reading.get("all_test_images", False)
        hyperparameters["white_level"] = reading.get("white_level")
    for split in ("validation", "test"):
        run.results[split]["scores"][run.results["score"]]["auprc"]  # a KeyError here is reported as damage
    compared_run = ComparedRun(hyperparameters, run.results, folder)
    if not compared_run.is_measured:
        raise ToolboxError("finished, but without anomalous test images there is nothing to compare")
    return compared_run, run.hparams.get("fingerprint_of_images")


def _progress_of(folder: Path) -> str:
    state = folder / "checkpoint" / "state.json"
    epochs_done = read_json(state)["epoch"] if state.exists() else 0
    epochs = read_json(folder / "hparams.json")["hyperparameters"].get("epochs", 0)
    return f"unfinished: {epochs_done} of {epochs} epochs done" if epochs else "unfinished"
