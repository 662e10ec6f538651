"""All trials of one command, one after the other or shared out by `study.py`, and the tables at the end."""

import os
import traceback
from pathlib import Path
from typing import Any

import optuna
import tensorflow as tf
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel
from rich.console import Console

from anomaly_toolbox import hps, progress, study, tables, workers
from anomaly_toolbox import plan as planning
from anomaly_toolbox.comparison import Finished
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets import load_dataset, source
from anomaly_toolbox.errors import ToolboxError, reason
from anomaly_toolbox.experiment import Trial, run_trial
from anomaly_toolbox.files import short_name
from anomaly_toolbox.plan import Options, Plan
from anomaly_toolbox.study import Row, Sweep

SWEEPS = "sweeps"  # the folder in the log folder that holds a folder for each sweep
LONGEST_PURPOSE = 60  # bytes of the name of the dataset, and of the hyperparameter file, in the name of a sweep


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
            "white_level": options.white_level,
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


def run(plan: Plan) -> None:
    """Runs every trial of every method and prints the tables.

    A trial that fails does not lose the others.

    Args:
        plan: from `plan.make`.

    Raises:
        ToolboxError: the first failure, after everything else was run and shown.
    """
    options, console = plan.options, plain_console()
    if plan.left_out:
        names = ", ".join(plan.left_out)
        console.print(f"left out, because {options.hps_path} has no section for them: {names}", soft_wrap=True)
    console.print(f"device: {device(options.require_gpu)}", soft_wrap=True)
    if options.is_shared:
        finished, failures = _shared(plan, console, open_sweep(plan))
    else:
        finished, failures = _one_by_one(plan, console)
    tables.show(console, finished, failures)
    if failures:
        n_trials = len(finished) + len(failures)
        raise ToolboxError(f"{len(failures)} of {n_trials} trials failed; the first: {': '.join(failures[0])}")


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


def open_sweep(plan: Plan) -> Sweep:
    """The sweep that a command asks for, in its storage."""
    options, search = plan.options, plan.search
    images = ", ".join([options.dataset_name, *(f"{name}={value}" for name, value in options.reading.items())])
    rows = plan.rows
    name = options.sweep_name
    if name is None:
        purpose = short_name(options.hps_path.stem, LONGEST_PURPOSE) if options.hps_path else "defaults"
        of_this = study.digest(study.definition(rows, search, images))
        name = f"{short_name(options.dataset_name, LONGEST_PURPOSE)}-{purpose}-{of_this}"
    folder = options.log_dir / SWEEPS / name
    storage = study.open_storage(options.storage or str(folder / "journal.log"))
    return Sweep(name, rows, search, images, storage, folder)


Outcome = tuple[list[Finished], list[tuple[str, str]]]  # what finished, and what failed: the trial and the reason


def _one_by_one(plan: Plan, console: Console) -> Outcome:
    """The first value of everything, one trial a method."""
    options, trials = plan.options, plan.first_trials
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


def _shared(plan: Plan, console: Console, sweep: Sweep) -> Outcome:
    """All trials of a sweep, by this process, its workers, and others that were given the same command."""
    options = plan.options
    runner = Runner(options, console)
    sweep.prepare(options.overwrite)
    console.print(f"sweep: {sweep.name}, {sum(1 for _ in sweep.trials())} trials", soft_wrap=True)
    if options.workers > 1:
        _start_workers(plan, console, sweep)
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


def _start_workers(plan: Plan, console: Console, sweep: Sweep) -> None:
    """Runs the workers of this machine and shows what they finish."""
    options = plan.options
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
    open_sweep(planning.make(options)).work(Runner(options, plain_console()).run_of_a_sweep)


def _trial_name(row: Row, trial: FrozenTrial) -> str:
    return ", ".join([row.name, *(f"{name}={value}" for name, value in trial.params.items())])


def _ending(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        auprc = trial.user_attrs["results"]["test"]["auprc"]
        return "finished" if auprc is None else f"AUPRC {auprc:.3f}"
    return "stopped early" if trial.state == TrialState.PRUNED else f"failed: {trial.user_attrs.get('failure')}"
