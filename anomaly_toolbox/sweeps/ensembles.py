"""The ensembles of a command: the seeds of each method with `--seeds`, and all runs on a label with `--ensemble`."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from anomaly_toolbox.ensembles.command import make_ensemble
from anomaly_toolbox.files import read_json, short_name
from anomaly_toolbox.models import hyperparameters_of
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.runs import ENSEMBLE, run_name
from anomaly_toolbox.sweeps.hps import LABELS
from anomaly_toolbox.sweeps.plan import Options


def make_ensembles(options: Options, runs: Sequence[ComparedRun], console: Console) -> list[ComparedRun]:
    """Combines the finished runs of a command as its options ask for; ensembles that exist already are kept.

    Args:
        options: the options of the command.
        runs: its finished runs; those whose folder is on another machine are left out.
        console: where the name of each ensemble is printed.

    Raises:
        ToolboxError: a run is damaged.
    """
    ensembles = []
    for name, members in _groups(options, [run for run in runs if run.folder is not None]):
        if len(members) < 2:
            continue
        folder = options.log_dir / ENSEMBLE / options.dataset_name / short_name(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder, results = make_ensemble([run.file("") for run in members], folder, overwrite=True)
        console.print(f"ensemble of {len(members)} runs: {folder}")
        hyperparameters = read_json(folder / "hparams.json")["hyperparameters"]
        ensembles.append(ComparedRun(hyperparameters, results, folder))
    return ensembles


def _groups(options: Options, runs: Sequence[ComparedRun]) -> Iterator[tuple[str, list[ComparedRun]]]:
    """The members of each ensemble, and the name of its folder."""
    seeds = f"{options.seed}-{options.seed + options.seeds - 1}" if options.seeds > 1 else str(options.seed)
    if options.seeds > 1:
        runs_by_name: dict[str, list[ComparedRun]] = {}
        for run in runs:
            defaults = hyperparameters_of(run.method).model_validate({}).model_dump()
            values = {**run.hyperparameters, **_labels(run), **options.reading_options}
            name = f"{run.method},{run_name(values, defaults, seeds)}"
            runs_by_name.setdefault(name, []).append(run)
        yield from runs_by_name.items()
    if options.ensemble:
        for label in dict.fromkeys(run.label for run in runs):
            members = [run for run in runs if run.label == label]
            methods = "+".join(dict.fromkeys(run.method for run in members))
            yield f"{methods},{run_name({**_labels(members[0]), **options.reading_options}, {}, seeds)}", members


def _labels(run: ComparedRun) -> dict[str, Any]:
    return {name: run.results[name] for name in LABELS if run.results[name] is not None}
