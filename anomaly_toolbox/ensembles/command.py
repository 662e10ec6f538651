"""`anomaly-box ensemble`: combines finished runs into one run folder, from the scores that they have stored.

No image is scored again. The folder holds the networks of all members, so it can be moved, and the members deleted.
"""

import importlib.metadata
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py

from anomaly_toolbox import false_alarms, pictures
from anomaly_toolbox.ensembles.combination import MEAN, Standardisation, combine, standardisation
from anomaly_toolbox.ensembles.members import Members, open_members
from anomaly_toolbox.errors import DamagedFile, InputError, ToolboxError
from anomaly_toolbox.files import atomic_write, read_json
from anomaly_toolbox.models import hyperparameters_of
from anomaly_toolbox.runs import ENSEMBLE, LABELS, FinishedRun, Run, run_name
from anomaly_toolbox.training.results import measure, write_scores

LEFT_BY_AN_ATTEMPT = re.compile(r"\.lock|\.\d+\.hparams\.json")
#: The files of an ensemble's folder, whole or half written, and exports of it.
FILES_OF_AN_ENSEMBLE = re.compile(
    r"(\.\d+\.)?((hparams|results)\.json|(validation_)?scores\.csv|model\.weights\.h5|(precision_recall|scores)\.png"
    r"|saved_model|model\.onnx|model\.tflite)|\.lock"
)
#: What is recorded of each member in `hparams.json`, to rebuild its detector.
RECORDED = ("experiment", "hyperparameters", "channels", "aspect", "levels", "white_level", "fingerprint_of_images")
#: Entries of `hparams.json` that all members share.
SHARED = (
    *("dataset", "source", "reading", "fingerprint_of_images", "channels", "aspect", "levels", "white_level"),
    "digest_of_images",
)


def make_ensemble(folders: Sequence[Path], output: Path, overwrite: bool) -> tuple[Path, dict[str, Any]]:
    """Combines finished runs, measures the ensemble, and writes its run folder.

    Args:
        folders: the run folders of the members, at least two.
        output: the folder to write.
        overwrite: replace an earlier ensemble of other members in `output`, finished or not.

    Returns:
        The folder and the content of its `results.json`. If the same ensemble is there already, it is left as it is.

    Raises:
        InputError: the runs do not fit together, see `open_members`; or `output` exists and is not to be replaced.
        ToolboxError: a run, or the ensemble in `output`, is damaged; or another process is writing it.
    """
    members = open_members(folders)
    standardisations = _standardise(members)
    run = Run(output, _hparams(members, standardisations))
    _check_output(output, folders)
    with run.locked():
        if run.results_path.exists() or run.hparams_path.exists():
            results = _earlier_results(run, overwrite)
            if results is not None:
                return output, results
        run.clear()
        run.begin()
        results = _write(run, members, standardisations)
        run.finish(results)
    return output, results


def describe_member(run: FinishedRun) -> str:
    """Its method, its seed, and its hyperparameters that are no labels and no defaults: `GANomaly,width=32,seed=0`."""
    defaults = hyperparameters_of(run.method).model_validate({}).model_dump()
    values = {name: value for name, value in run.hparams["hyperparameters"].items() if name not in LABELS}
    return f"{run.method},{run_name(values, defaults, run.results['seed'])}"


def _check_output(output: Path, folders: Sequence[Path]) -> None:
    """Raises InputError if the output could replace anything but an earlier ensemble."""
    if _holds_anything(output) and not _is_ensemble(output):
        raise InputError(f"--output {output}: is not the folder of an ensemble; choose another folder")
    for folder in folders:
        if _is_within(output, folder) or _is_within(folder, output):
            raise InputError(f"--output {output}: shares files with the member {folder}; choose another folder")
    for path in output.rglob("hparams.json"):
        if path.parent != output:
            raise InputError(f"--output {output}: holds another run, {path.parent}; choose another folder")
    for path in sorted(output.glob("*")):
        if not FILES_OF_AN_ENSEMBLE.fullmatch(path.name):
            raise InputError(
                f"--output {output}: holds {path.name}, which no ensemble wrote; move it, or choose another folder"
            )


def _holds_anything(output: Path) -> bool:
    """Whether the output holds any file other than the lock and the temporary files of an interrupted attempt."""
    if output.is_dir():
        return any(not LEFT_BY_AN_ATTEMPT.fullmatch(path.name) for path in output.iterdir())
    return os.path.lexists(output)


def _is_ensemble(folder: Path) -> bool:
    """Whether `hparams.json` or `results.json` says so; the other may be damaged or missing."""
    for name in ("hparams.json", "results.json"):
        try:
            if read_json(folder / name).get("experiment") == ENSEMBLE:
                return True
        except (OSError, DamagedFile):
            continue
    return False


def _is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies inside it; links are followed too, as they can lead into a member's folder."""
    if not folder.exists():
        return False
    paths = {Path(os.path.abspath(path)), path.resolve()}
    ancestors = {ancestor for each in paths for ancestor in (each, *each.parents)}
    return any(ancestor.exists() and ancestor.samefile(folder) for ancestor in ancestors)


def _earlier_results(run: Run, overwrite: bool) -> dict[str, Any] | None:
    """The results of the same ensemble, which was made before; None if the folder is to be written anew.

    Raises:
        InputError: it is another ensemble, finished or not, and is not to be replaced.
        ToolboxError: it is damaged and is not to be replaced.
    """
    try:
        recorded = read_json(run.hparams_path)
        names = run.hparams.keys() - {"versions"}
        if any(recorded.get(name) != run.hparams[name] for name in names):
            if not overwrite:
                raise InputError(f"--output {run.folder}: holds another ensemble; --overwrite replaces it")
            return None
        return run.finished_results() if run.results_path.exists() else None
    except FileNotFoundError:
        if not overwrite:
            raise ToolboxError(f"{run.hparams_path} is missing; --overwrite makes the ensemble again") from None
    except DamagedFile as damage:
        if not overwrite:
            raise ToolboxError(f"{damage}; --overwrite makes the ensemble again") from None
    return None


def _standardise(members: Members) -> list[Standardisation]:
    standardisations = []
    for run, scores in zip(members.runs, members.validation_scores, strict=True):
        normal_scores = false_alarms.of_normal_images(members.validation_labels, scores)
        try:
            standardisations.append(standardisation(normal_scores))
        except ValueError as problem:
            raise InputError(f"{run.folder}: {problem}, so it cannot be a member") from None
    return standardisations


def _hparams(members: Members, standardisations: Sequence[Standardisation]) -> dict[str, Any]:
    """The content of `hparams.json`: as for other runs, and all that is needed to rebuild the members."""
    first = members.runs[0]
    recorded_members = []
    for run, standardised in zip(members.runs, standardisations, strict=True):
        recorded = {name: run.hparams.get(name) for name in RECORDED}
        if "class_names" in run.hparams:  # not None for the others: it would change the ensembles of earlier versions
            recorded["class_names"] = run.hparams["class_names"]
        score = run.results["score"]
        recorded_members.append(recorded | {"score": score, "standardisation": standardised._asdict()})
    shared = {name: first.hparams.get(name) for name in SHARED}
    return {
        "experiment": ENSEMBLE,
        **shared,
        "hyperparameters": {
            **_labels(first),
            "image_size": max(run.image_size for run in members.runs),
            "members": [describe_member(run) for run in members.runs],
        },
        "seed": first.results["seed"],
        "members": recorded_members,
        "versions": {"anomaly-toolbox": importlib.metadata.version("anomaly-toolbox")},
    }


def _write(run: Run, members: Members, standardisations: Sequence[Standardisation]) -> dict[str, Any]:
    """Writes all files of the run folder but `results.json`, whose content it returns."""
    labels = members.validation_labels
    normal_scores = [false_alarms.of_normal_images(labels, scores) for scores in members.validation_scores]
    validation_scores = combine(standardisations, normal_scores, members.validation_scores, labels == 0)
    test_scores = combine(standardisations, normal_scores, members.test_scores)
    measured = measure(MEAN, labels, validation_scores, members.test_labels, test_scores)
    metrics = measured.test[MEAN]
    columns = {"score": test_scores[MEAN], "calibrated": measured.calibrated, "p_value": measured.p_values}
    write_scores(run.scores_path, members.test_files, members.test_labels, columns | test_scores)
    write_scores(run.validation_scores_path, None, labels, validation_scores, positions=members.validation_positions)
    _copy_weights(members.runs, run.weights_path)
    if metrics["auprc"] is not None:
        path = run.folder / "precision_recall.png"
        pictures.save_precision_recall(path, members.test_labels, test_scores[MEAN], metrics["auprc"])
    pictures.save_histogram(run.folder / "scores.png", members.test_labels, test_scores[MEAN], metrics["threshold"])
    first = members.runs[0]
    low, high = measured.score_range
    return {
        "experiment": ENSEMBLE,
        "dataset": first.results["dataset"],
        **_labels(first),
        "seed": first.results["seed"],
        "score": MEAN,
        "validation": {
            **measured.validation[MEAN],
            "score_min": low,
            "score_max": high,
            "scores": measured.validation,
        },
        "test": {**metrics, "scores": measured.test},
        "members": [_member_results(member) for member in members.runs],
        "heat_range": _mean_heatmap_range(members.runs),
        "epochs": 0,
        "steps": 0,
        "selected_epoch": None,
        "train_images_per_second": None,
        "train_seconds": _sum_of(members.runs, "train_seconds"),
        "score_images_per_second": _speed_one_after_the_other(members.runs),
        "score_seconds": _sum_of(members.runs, "score_seconds"),
    }


def _labels(run: FinishedRun) -> dict[str, Any]:
    """The labels of a run; without `normal_label` if it has none, as earlier versions wrote it."""
    labels = {name: run.results.get(name) for name in LABELS}
    if labels["normal_label"] is None:
        del labels["normal_label"]
    return labels


def _member_results(run: FinishedRun) -> dict[str, Any]:
    """What tables and reports compare the ensemble with: the member's test metrics by its selected score."""
    return {
        "experiment": run.method,
        "score": run.results["score"],
        "seed": run.results["seed"],
        "image_size": run.image_size,
        "auprc": run.results["test"]["auprc"],
        "auroc": run.results["test"]["auroc"],
    }


def _copy_weights(runs: Sequence[FinishedRun], path: Path) -> None:
    """Writes the weights files of all members into one, each in a group that is named after its position."""
    sources = [run.folder / "model.weights.h5" for run in runs]
    size = sum(source.stat().st_size for source in sources)
    with atomic_write(path, size) as temporary, h5py.File(temporary, "w") as target:
        for number, source in enumerate(sources):
            with h5py.File(source, "r") as file:
                file.copy(file, target, str(number))


def _mean_heatmap_range(runs: Sequence[FinishedRun]) -> list[float]:
    lows, highs = zip(*(run.heatmap_range for run in runs), strict=True)
    return [statistics.fmean(lows), statistics.fmean(highs)]


def _sum_of(runs: Sequence[FinishedRun], key: str) -> float | None:
    values = [run.results.get(key) for run in runs]
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None


def _speed_one_after_the_other(runs: Sequence[FinishedRun]) -> float | None:
    """The images per second of all members together, each of which scores every image."""
    speeds = [run.results.get("score_images_per_second") for run in runs]
    present = [speed for speed in speeds if speed]
    return 1 / sum(1 / speed for speed in present) if len(present) == len(speeds) else None
