"""From a log folder to its runs: the finished ones, and the others with the reason why they do not count."""

import base64
import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import read_json
from anomaly_toolbox.report.comparison import Finished
from anomaly_toolbox.runs import FinishedRun, UnfinishedRun

SIGNS_OF_A_RUN = ("hparams.json", "results.json", "scores.csv", "model.weights.h5", "checkpoint")


@dataclass
class Gathered:
    """Runs of a log folder; `left_out` are pairs of a folder and the reason."""

    finished: list[Finished] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def gather(log_dir: Path) -> Gathered:
    """Every run below `log_dir`, however deep.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    if not log_dir.is_dir():
        there = "is a file" if log_dir.exists() else "there is no such folder"
        raise InputError(f"{log_dir}: {there}; expected the --log-dir of earlier commands")
    folders = sorted({path.parent for sign in SIGNS_OF_A_RUN for path in log_dir.rglob(sign)})
    gathered, known, shown = Gathered(), {}, {}
    for folder in folders:
        try:
            run = _read(folder)
        except (ToolboxError, OSError, KeyError, TypeError, ValueError) as problem:
            reason = str(problem) if isinstance(problem, ToolboxError) else f"damaged: {problem!r}"
            gathered.left_out.append((folder, reason.replace(f"{folder}/", "").partition(";")[0]))
            continue
        dataset, images = run.results["dataset"], read_json(folder / "hparams.json").get("fingerprint_of_images")
        same = known.setdefault((dataset, run.method, repr(run.hyperparameters), run.results["seed"]), folder)
        other = shown.setdefault((dataset, run.label, images is None), (images, folder))
        if images != other[0]:
            reason = f"other images than {other[1].relative_to(log_dir)}, though the name is the same"
            gathered.left_out.append((folder, reason))
        elif same == folder:
            gathered.finished.append(run)
        else:
            gathered.left_out.append((folder, f"the same run as {same.relative_to(log_dir)}"))
    if not folders:
        raise InputError(f"{log_dir}: there are no runs in it; expected the --log-dir of earlier commands")
    return gathered


def _read(folder: Path) -> Finished:
    """A finished run for the comparison; a ToolboxError says why a folder holds none."""
    if not (folder / "hparams.json").exists():
        raise ToolboxError("damaged: hparams.json is missing")
    try:
        run = FinishedRun.read(folder)
    except UnfinishedRun:
        raise ToolboxError(_progress_of(folder)) from None
    hyperparameters = run.hparams["hyperparameters"]
    if run.hparams.get("aspect"):  # the images come from files, and how they are read is a setting too
        reading = run.hparams.get("reading", {})
        hyperparameters |= {
            "aspect": run.hparams["aspect"],
            "all_test_images": reading.get("all_test_images", False),
            "white_level": reading.get("white_level"),
        }
    for split in ("validation", "test"):
        run.results[split]["scores"][run.results["score"]]["auprc"]
    finished = Finished(hyperparameters, run.results, folder)
    if not finished.is_measured:
        raise ToolboxError("finished, but without anomalous test images there is nothing to compare")
    return finished


def _progress_of(folder: Path) -> str:
    state = folder / "checkpoint" / "state.json"
    epochs_done = read_json(state)["epoch"] if state.exists() else 0
    epochs = read_json(folder / "hparams.json")["hyperparameters"].get("epochs", 0)
    return f"unfinished: {epochs_done} of {epochs} epochs done"


def read_scores(run: Finished) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels, (n,), and every score by name, from `scores.csv`."""
    with open(run.folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = run.results["test"]["scores"]
    return np.array([int(row["label"]) for row in rows]), {n: np.array([float(row[n]) for row in rows]) for n in names}


def picture(run: Finished, name: str) -> str | None:
    """A picture of the run as a data URL, None if it is not there."""
    path = run.folder / name
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
