"""The ensembles of a command: the seeds of each method with `--seeds`, and all runs on a label with `--ensemble`."""

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from anomaly_toolbox.ensembles.command import make_ensemble
from anomaly_toolbox.errors import reason
from anomaly_toolbox.files import read_json, short_name
from anomaly_toolbox.models import hyperparameters_of
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.runs import ENSEMBLE, LABELS, run_name
from anomaly_toolbox.sweeps.plan import Options
from anomaly_toolbox.sweeps.search import digest


def make_ensembles(
    options: Options, runs: Sequence[ComparedRun], console: Console
) -> tuple[list[ComparedRun], list[tuple[str, str]]]:
    """Combines the finished runs of a command as its options ask for.

    An ensemble of the same members is kept; one whose members have changed is replaced.

    Args:
        options: the options of the command.
        runs: its finished runs; those whose folder is on another machine are left out.
        console: where the folder of each ensemble is printed.

    Returns:
        The ensembles, and pairs of the name of an ensemble that could not be made and the reason.
    """
    ensembles: dict[frozenset[Path], ComparedRun] = {}  # by the folders of their members
    failures = []
    for name, members in _groups(options, [run for run in runs if run.folder is not None]):
        member_folders = [run.file("") for run in members]
        if len(members) < 2 or frozenset(member_folders) in ensembles:
            continue
        folder = options.log_dir / ENSEMBLE / options.dataset_name / short_name(name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder, results = make_ensemble(member_folders, folder, overwrite=True)
        except Exception as failure:
            if options.debug:
                traceback.print_exception(failure)
            failures.append((f"{ENSEMBLE}/{name}", reason(failure)))
            continue
        console.print(f"ensemble of {len(members)} runs: {folder}")
        hyperparameters = read_json(folder / "hparams.json")["hyperparameters"]
        ensembles[frozenset(member_folders)] = ComparedRun(hyperparameters, results, folder)
    if (options.ensemble or options.seeds > 1) and not ensembles and not failures:
        console.print("no ensemble was made: there are no two finished runs to combine")
    return list(ensembles.values()), failures


def _groups(options: Options, runs: Sequence[ComparedRun]) -> Iterator[tuple[str, list[ComparedRun]]]:
    """The members of each ensemble, and the name of its folder."""
    seeds: int | str = options.seed
    if options.seeds > 1:
        seeds = f"{options.seed}-{options.seed + options.seeds - 1}"
        runs_by_name: dict[str, list[ComparedRun]] = {}
        for run in runs:
            runs_by_name.setdefault(_name(run, {**_labels(run), **options.reading_options}, seeds), []).append(run)
        yield from runs_by_name.items()
    if options.ensemble:
        for label in dict.fromkeys(run.label for run in runs):
            members = [run for run in runs if run.label == label]
            methods = "+".join(dict.fromkeys(run.method for run in members))
            shared = run_name({**_labels(members[0]), **options.reading_options}, {}, seeds)
            settings = sorted({_name(run, dict.fromkeys(LABELS), seeds) for run in members})
            yield f"{methods},{shared}-{digest(' '.join(settings))}", members


def _name(run: ComparedRun, values: dict[str, Any], seeds: int | str) -> str:
    """The method of a run with its hyperparameters; `values` are added or replace some of them."""
    defaults = hyperparameters_of(run.method).model_validate({}).model_dump()
    return f"{run.method},{run_name({**run.hyperparameters, **values}, defaults, seeds)}"


def _labels(run: ComparedRun) -> dict[str, Any]:
    return {name: run.results[name] for name in LABELS if run.results.get(name) is not None}
