"""All trials of one command, one after the other or shared out by `study.py`, and the tables at the end."""

import itertools
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tensorflow as tf
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel
from rich.console import Console

from anomaly_toolbox import hps, progress, study, tables, workers
from anomaly_toolbox.comparison import Finished
from anomaly_toolbox.datasets import load_dataset, source
from anomaly_toolbox.errors import ToolboxError, reason
from anomaly_toolbox.experiment import Trial, run_trial
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.study import Row, Search, Sweep

SWEEPS = "sweeps"  # the folder in the log folder that holds a folder for each sweep


@dataclass(frozen=True)
class Options:
    """What the command was asked; every field is the option of that name in `anomaly-box --help`."""

    methods: Sequence[str]
    dataset: str
    dataset_name: str
    data_dir: Path | None = None
    aspect: str | None = None
    on_bad_image: str | None = None
    all_test_images: bool = False
    hps_path: Path | None = None
    tuning: bool = False
    overrides: Sequence[str] = ()
    sampler: str = "grid"
    trials: int | None = None
    pruner: str = "none"
    workers: int = 1
    storage: str | None = None
    sweep_name: str | None = None
    log_dir: Path = Path("logs")
    seed: int = 0
    overwrite: bool = False
    require_gpu: bool = False
    debug: bool = False

    @property
    def reading(self) -> dict[str, Any]:
        """What is unusual in how images are read; see `Trial`."""
        unusual = {"aspect": self.aspect not in (None, "stretch"), "all_test_images": self.all_test_images}
        return {name: getattr(self, name) for name, is_given in unusual.items() if is_given}

    @property
    def is_shared(self) -> bool:
        """Whether there may be more trials than one a method, or more workers than one."""
        return self.tuning or self.workers > 1 or self.storage is not None


class Runner:
    """Runs single trials of one command.

    Args:
        options: of the command.
        console: where progress is shown.
    """

    def __init__(self, options: Options, console: Console):
        self.options, self.console = options, console
        of_images = {
            "aspect": options.aspect,
            "on_bad_image": options.on_bad_image,
            "all_test_images": options.all_test_images or None,
        }
        self._dataset = load_dataset(options.dataset, options.data_dir, options.seed, **of_images)
        self._source = source(options.dataset, options.data_dir)

    def run(self, method: str, hyperparameters: BaseModel, overwrite: bool, watch=None) -> tuple[Path, dict[str, Any]]:
        """The run's folder and its results; see `run_trial`."""
        options = self.options
        known = (options.dataset_name, self._source, self._dataset, options.seed, options.reading)
        trial = Trial(method, hyperparameters, *known)
        return run_trial(trial, options.log_dir, self.console, overwrite, watch)

    def run_of_a_sweep(self, row: Row, hyperparameters: BaseModel, trial: optuna.Trial) -> dict[str, Any]:
        """Runs a trial of a study, which may end early; returns its results with the hyperparameters and folder."""
        self.announce(row.method, hyperparameters, "".join(f", {name} {value}" for name, value in trial.params.items()))

        def watch(epoch: int, logs: dict[str, float]) -> None:
            if "val_auprc" in logs:
                trial.report(logs["val_auprc"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        overwrite = self.options.overwrite and not study.is_repetition(trial)
        try:
            folder, results = self.run(row.method, hyperparameters, overwrite, watch)
        except optuna.TrialPruned:
            self.console.print("stopped early: worse than the median of the trials before", soft_wrap=True)
            raise
        except Exception as failure:
            self.tell(failure)
            raise
        return {**results, "hyperparameters": hyperparameters.model_dump(), "folder": str(folder)}

    def announce(self, method: str, hyperparameters: BaseModel, more: str = "") -> None:
        """The line above a trial's own."""
        given = {name: getattr(hyperparameters, name) for name in hps.LABELS}
        labels = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
        title = f"{method} on {self.options.dataset_name}" + (f", {labels}" if labels else "")
        self.console.print(f"\n{title}{more}", style="bold", soft_wrap=True)

    def tell(self, failure: Exception) -> None:
        """A failure that does not end the command."""
        if self.options.debug:
            traceback.print_exception(failure)
        self.console.print(f"failed: {reason(failure)}", style="red", soft_wrap=True)


def run(options: Options) -> None:
    """Runs every trial of every method and prints the tables.

    A trial that fails does not lose the others.

    Raises:
        ToolboxError: the first failure, after everything else was run and shown.
    """
    console = plain_console()
    found = _domains(options, _methods(options, console))
    console.print(f"device: {device(options.require_gpu)}", soft_wrap=True)
    if options.is_shared:
        sweep = open_sweep(options, found)
        finished, failures = _shared(options, console, sweep)
    else:
        finished, failures = _one_by_one(options, console, found)
    tables.show(console, finished, failures)
    if failures:
        n_trials = len(finished) + len(failures)
        raise ToolboxError(f"{len(failures)} of {n_trials} trials failed; the first: {': '.join(failures[0])}")


def plain_console(**options: Any) -> Console:
    """A console that prints what it is given, without markup or colours of its own."""
    return Console(markup=False, highlight=False, emoji=False, **options)


def device(require_gpu: bool) -> str:
    """What TensorFlow computes on, in words; ToolboxError if it has to be a GPU and there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        return f"GPU ({', '.join(names)})"
    if require_gpu:
        raise ToolboxError(
            "--require-gpu: TensorFlow finds no GPU; install with pip install '.[gpu]', in Docker start with "
            "--gpus all, and see --debug for TensorFlow's own messages"
        )
    return f"CPU ({os.cpu_count()} cores), no GPU found"


def open_sweep(options: Options, found: dict[str, dict[str, hps.Domain]] | None = None) -> Sweep:
    """The sweep that the options describe, in its storage."""
    found = found or _domains(options, _methods(options, None))
    rows = []
    for method, domains in found.items():
        settings = {name: domain for name, domain in domains.items() if name not in hps.LABELS}
        listed = {name: domains[name].values for name in hps.LABELS if name in domains}
        place = f"{options.hps_path}: {method.lower()}."
        for values in itertools.product(*listed.values()):
            labels = dict(zip(listed, values, strict=True))
            rows.append(Row(method, detector_class(method).Hyperparameters, labels, settings, place))
    images = ", ".join([options.dataset_name, *(f"{name}={value}" for name, value in options.reading.items())])
    search = Search(options.sampler, options.trials, options.pruner, options.seed)
    name = options.sweep_name
    if name is None:
        purpose = options.hps_path.stem if options.hps_path else "defaults"
        of_this = study.digest(study.definition(rows, search, images))
        name = f"{options.dataset_name}-{purpose}-{of_this}"
    folder = options.log_dir / SWEEPS / name
    storage = study.open_storage(options.storage or str(folder / "journal.log"))
    return Sweep(name, rows, search, images, storage, folder)


def _methods(options: Options, console: Console | None) -> Sequence[str]:
    """A file that says nothing of a method is no reason to run it with other settings than the rest, or not at all."""
    if len(options.methods) == 1 or options.hps_path is None:
        return options.methods
    named = hps.sections(options.hps_path)
    present = [method for method in options.methods if method.lower() in named]
    absent = [method for method in options.methods if method not in present]
    if present and absent and console:
        console.print(f"left out, {options.hps_path} has no section for: {', '.join(absent)}", soft_wrap=True)
    return present or options.methods


def _domains(options: Options, methods: Sequence[str]) -> dict[str, dict[str, hps.Domain]]:
    """Of every method, only the first values without `tuning`.

    An override goes to the methods that know it, and to all if none does.
    """
    schemas = {method: detector_class(method).Hyperparameters for method in methods}
    everything = {name for schema in schemas.values() for name in schema.model_fields}
    found = {}
    for method, schema in schemas.items():
        of_others = everything - set(schema.model_fields)
        own = [override for override in options.overrides if override.partition("=")[0] not in of_others]
        found[method] = hps.domains(schema, method, options.hps_path, own)
        if not options.tuning:
            found[method] = {name: hps.Discrete((domain.first,)) for name, domain in found[method].items()}
    return found


Outcome = tuple[list[Finished], list[tuple[str, str]]]  # what finished, and what failed: the trial and the reason


def _one_by_one(options: Options, console: Console, found: dict[str, dict[str, hps.Domain]]) -> Outcome:
    """The first value of everything, one trial a method."""
    trials = [(name, hps.first_trial(detector_class(name).Hyperparameters, domains)) for name, domains in found.items()]
    runner = Runner(options, console)
    finished, failures = [], []
    for number, (method, hyperparameters) in enumerate(trials, 1):
        runner.announce(method, hyperparameters, f" (trial {number} of {len(trials)})" if len(trials) > 1 else "")
        try:
            folder, results = runner.run(method, hyperparameters, options.overwrite)
        except Exception as failure:
            if len(trials) == 1:
                raise
            runner.tell(failure)
            failures.append((method, reason(failure)))
        else:
            finished.append(Finished(hyperparameters.model_dump(), results, folder))
    return finished, failures


def _shared(options: Options, console: Console, sweep: Sweep) -> Outcome:
    """All trials of a sweep, by this process, its workers, and others that were given the same command."""
    runner = Runner(options, console)
    sweep.prepare(options.overwrite)
    console.print(f"sweep: {sweep.name}, {sum(1 for _ in sweep.trials())} trials", soft_wrap=True)
    if options.workers > 1:
        _start_workers(options, console, sweep)
    else:
        sweep.work(runner.run_of_a_sweep)

    finished, failures = [], []
    for row, trial in sweep.trials():
        name = _trial_name(row, trial)
        if trial.state == TrialState.COMPLETE:
            results = dict(trial.user_attrs["results"])
            hyperparameters, folder = results.pop("hyperparameters"), Path(results.pop("folder"))
            finished.append(Finished(hyperparameters, results, folder if folder.exists() else None))
        elif trial.state == TrialState.PRUNED:
            console.print(f"stopped early: {name}, after epoch {trial.last_step}", soft_wrap=True)
        else:
            failures.append((name, trial.user_attrs.get("failure", "its worker died")))
    return finished, failures


def _start_workers(options: Options, console: Console, sweep: Sweep) -> None:
    """Runs the workers of this machine and shows what they finish."""
    folder = sweep.folder
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{number}.log" for number in range(1, options.workers + 1)]
    console.print(f"{len(logs)} workers; what they say is in {folder}/worker-*.log", soft_wrap=True)
    told = {_trial_name(row, trial) for row, trial in sweep.trials() if trial.state.is_finished()}
    with progress.Bar(console) as bar:
        task = bar.add_task("trials", total=sum(1 for _ in sweep.trials()), completed=len(told))

        def look() -> None:
            for row, trial in sweep.trials():
                name = _trial_name(row, trial)
                if trial.state.is_finished() and name not in told:
                    told.add(name)
                    bar.advance(task)
                    console.print(f"{name}: {_ending(trial)}", soft_wrap=True)

        def ended(log: Path, code: int) -> None:
            if code:
                text = f"a worker ended with exit code {code}, see {log}; its trial goes to the others"
                console.print(text, style="red", soft_wrap=True)

        workers.run(_work, options, logs, look, ended)
    if not all(trial.state.is_finished() for _, trial in sweep.trials()):
        raise ToolboxError("all workers ended before all trials had; the same command goes on")


def _work(options: Options) -> None:
    """A worker process of `_start_workers`."""
    device(options.require_gpu)
    open_sweep(options).work(Runner(options, plain_console()).run_of_a_sweep)


def _trial_name(row: Row, trial: FrozenTrial) -> str:
    return ", ".join([row.name, *(f"{name}={value}" for name, value in trial.params.items())])


def _ending(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        auprc = trial.user_attrs["results"]["test"]["auprc"]
        return "finished" if auprc is None else f"AUPRC {auprc:.3f}"
    return "stopped early" if trial.state == TrialState.PRUNED else f"failed: {trial.user_attrs.get('failure')}"
