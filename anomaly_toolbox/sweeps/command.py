"""Runs all trials of a command, one after the other or as a sweep, and prints the tables at the end."""

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from anomaly_toolbox.console import ProgressBar, plain_console
from anomaly_toolbox.datasets import load_dataset, source
from anomaly_toolbox.device import describe_device, prepare_gpus
from anomaly_toolbox.errors import NoClasses, ToolboxError, reason
from anomaly_toolbox.files import short_name
from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters
from anomaly_toolbox.report import tables
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.runs import LABELS
from anomaly_toolbox.sweeps.ensembles import make_ensembles
from anomaly_toolbox.sweeps.plan import Options, Plan
from anomaly_toolbox.sweeps.queue import is_repetition
from anomaly_toolbox.sweeps.search import StudySpec, definition, digest
from anomaly_toolbox.sweeps.storage import open_storage, quiet_optuna
from anomaly_toolbox.sweeps.sweep import Sweep
from anomaly_toolbox.sweeps.workers import run_workers
from anomaly_toolbox.training.steps import CompiledSteps
from anomaly_toolbox.training.trial import Trial, Watch, run_trial

SWEEPS = "sweeps"  # the folder in the log folder that holds a folder for each sweep
LONGEST_PART = 60  # bytes of the dataset's name, and of the hyperparameter file's name, in the name of a sweep
LEFT_OUT_OF_RUN = "left_out"  # marks a trial whose method needs classes that the dataset lacks


@dataclass
class Outcome:
    """What became of the trials of a command.

    Attributes:
        finished: the finished runs.
        failures: the name of each failed trial, and the reason.
    """

    finished: list[ComparedRun] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


class TrialRunner:
    """Runs single trials of one command.

    Args:
        options: the options of the command.
        console: the console that progress is printed to.
    """

    def __init__(self, options: Options, console: Console):
        self.options, self.console = options, console
        self._dataset = load_dataset(
            options.dataset,
            options.data_dir,
            options.seed,
            aspect=options.aspect,
            on_bad_image=options.on_bad_image,
            all_test_images=options.all_test_images or None,
            split=options.split,
            white_level=options.white_level,
        )
        self._source = source(options.dataset, options.data_dir)
        self._steps = CompiledSteps()

    def run(
        self, method: str, hyperparameters: ScoringHyperparameters, overwrite: bool, watch: Watch | None = None
    ) -> tuple[Path, dict[str, Any]]:
        """Runs one trial and returns its folder and its results; see `run_trial`."""
        options = self.options
        trial = Trial(
            experiment=method,
            hyperparameters=hyperparameters,
            dataset_name=options.dataset_name,
            source=self._source,
            dataset=self._dataset,
            seed=options.seed,
            reading_options=options.reading_options,
        )
        return run_trial(trial, options.log_dir, self.console, overwrite, watch, self._steps)

    def run_in_sweep(
        self, study: StudySpec, hyperparameters: ScoringHyperparameters, trial: optuna.Trial
    ) -> dict[str, Any]:
        """Runs a trial of a study, which may be stopped early; returns its results, hyperparameters and folder."""
        chosen = "".join(f", {name} {value}" for name, value in trial.params.items())
        self.announce(study.method, hyperparameters, chosen)

        def watch(epoch: int, metrics: dict[str, float]) -> None:
            if "val_auprc" in metrics:
                trial.report(metrics["val_auprc"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        overwrite = self.options.overwrite and not is_repetition(trial)
        try:
            folder, results = self.run(study.method, hyperparameters, overwrite, watch)
        except optuna.TrialPruned:
            self.console.print("stopped early: worse than the median of the earlier trials")
            raise
        except Exception as failure:
            if isinstance(failure, NoClasses) and self.options.has_several_methods:
                trial.set_user_attr(LEFT_OUT_OF_RUN, True)
            self.print_failure(failure)
            raise
        return {**results, "hyperparameters": hyperparameters.model_dump(), "folder": str(folder)}

    def announce(self, method: str, hyperparameters: ScoringHyperparameters, suffix: str = "") -> None:
        """Prints the title of a trial, such as `GANomaly on Digits, anomalous_label 2`."""
        title = f"{method} on {self.options.dataset_name}"
        for name in LABELS:
            label = getattr(hyperparameters, name)
            if label is not None:
                title += f", {name} {label}"
        self.console.print(f"\n{title}{suffix}", style="bold")

    def print_failure(self, failure: Exception) -> None:
        """Prints a failure that does not end the command."""
        if self.options.debug:
            traceback.print_exception(failure)
        self.console.print(f"failed: {reason(failure)}", style="red")


def run(plan: Plan) -> None:
    """Runs every trial of every method and prints the tables. When a trial fails, the others still run.

    Args:
        plan: the plan that `make_plan` returns.

    Raises:
        ToolboxError: the first failure, after all other trials were run and their tables printed.
    """
    options, console = plan.options, plain_console()
    if plan.left_out:
        names = ", ".join(plan.left_out)
        console.print(f"left out, because {options.hps_path} has no section for them: {names}")
    for note in plan.notes:
        console.print(note)
    n_workers = _count_workers(options)
    console.print(f"device: {describe_device(options.require_gpu, n_workers)}")
    outcome = Outcome()
    for seed_plan in plan.with_each_seed():
        if options.seeds > 1:
            console.print(f"\nseed {seed_plan.options.seed}", style="bold")
        with quiet_optuna():
            of_seed = (_run_sweep if options.is_sweep else _run_in_turn)(seed_plan, console)
        outcome.finished += of_seed.finished
        outcome.failures += of_seed.failures
    ensembles, failed_ensembles = make_ensembles(options, outcome.finished, console)
    tables.show(console, outcome.finished + ensembles, outcome.failures + failed_ensembles)
    failures = outcome.failures
    if failures:
        n_trials = len(outcome.finished) + len(failures)
        raise ToolboxError(f"{len(failures)} of {n_trials} trials failed; the first: {': '.join(failures[0])}")
    if failed_ensembles:
        n_ensembles = len(ensembles) + len(failed_ensembles)
        first = ": ".join(failed_ensembles[0])
        raise ToolboxError(f"{len(failed_ensembles)} of {n_ensembles} ensembles could not be made; the first: {first}")


def open_sweep(plan: Plan) -> Sweep:
    """The sweep that a command asks for, in its storage."""
    options, search, studies = plan.options, plan.search, plan.studies
    reading_options = [f"{name}={value}" for name, value in options.reading_options.items()]
    images = ", ".join([options.dataset_name, *reading_options])
    name = options.sweep_name
    if plan.number:  # each further seed of `--seeds` has a sweep of its own
        images += f", seed={options.seed}"
        name = None if name is None else f"{name}-seed={options.seed}"
    if name is None:
        file_name = short_name(options.hps_path.stem, LONGEST_PART) if options.hps_path else "defaults"
        checksum = digest(definition(studies, search, images))
        name = f"{short_name(options.dataset_name, LONGEST_PART)}-{file_name}-{checksum}"
    folder = options.log_dir / SWEEPS / name
    storage = open_storage(options.storage or str(folder / "journal.log"))
    return Sweep(name, studies, search, images, storage, folder)


def _run_in_turn(plan: Plan, console: Console) -> Outcome:
    """Runs one trial for each method: the first value of each hyperparameter."""
    options, trials = plan.options, plan.first_trials
    outcome = Outcome()
    runner = TrialRunner(options, console)
    for number, (method, hyperparameters) in enumerate(trials, 1):
        counter = f" (trial {number} of {len(trials)})" if len(trials) > 1 else ""
        runner.announce(method, hyperparameters, counter)
        try:
            folder, results = runner.run(method, hyperparameters, options.overwrite)
        except NoClasses as missing:
            if not options.has_several_methods:
                raise
            console.print(f"left out: {missing}")
        except Exception as failure:
            if len(trials) == 1 and options.seeds == 1:
                raise
            runner.print_failure(failure)
            outcome.failures.append((method, reason(failure)))
        else:
            outcome.finished.append(ComparedRun(hyperparameters.model_dump(), results, folder))
    return outcome


def _run_sweep(plan: Plan, console: Console) -> Outcome:
    """Runs all trials of a sweep, together with other processes that run the same command."""
    options = plan.options
    sweep = open_sweep(plan)
    runner = TrialRunner(options, console)
    sweep.prepare(options.overwrite)
    console.print(f"sweep: {sweep.name}, {_count_trials(sweep)} trials")
    n_workers = _count_workers(options)
    if n_workers > 1:
        _start_workers(plan, console, sweep, n_workers)
    else:
        sweep.work(runner.run_in_sweep)

    outcome = Outcome()
    for study, trial in sweep.trials():
        name = _trial_name(study, trial)
        if trial.state == TrialState.COMPLETE:
            results = dict(trial.user_attrs["results"])
            hyperparameters, folder = results.pop("hyperparameters"), Path(results.pop("folder"))
            outcome.finished.append(ComparedRun(hyperparameters, results, folder if folder.exists() else None))
        elif trial.state == TrialState.PRUNED:
            console.print(f"stopped early: {name}, after epoch {trial.last_step}")
        elif trial.user_attrs.get(LEFT_OUT_OF_RUN):
            console.print(f"left out: {name}: {trial.user_attrs['failure']}")
        else:
            outcome.failures.append((name, trial.user_attrs.get("failure", "its worker died")))
    return outcome


def _count_workers(options: Options) -> int:
    """The number of processes that run trials: as many as asked for, or in a sweep one for each GPU."""
    if options.workers is not None:
        return options.workers
    return max(1, len(prepare_gpus())) if options.is_sweep else 1


def _start_workers(plan: Plan, console: Console, sweep: Sweep, n_workers: int) -> None:
    """Runs the worker processes of this machine and prints each trial that any worker of the sweep finishes."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    logs = [sweep.folder / f"worker-{number}.log" for number in range(1, n_workers + 1)]
    console.print(f"{len(logs)} workers; their output is in {sweep.folder}/worker-*.log")
    printed = {_trial_name(study, trial) for study, trial in sweep.trials() if trial.state.is_finished()}
    with ProgressBar(console) as bar:
        task = bar.add_task("trials", total=_count_trials(sweep), completed=len(printed))

        def print_new_results() -> None:
            for study, trial in sweep.trials():
                name = _trial_name(study, trial)
                if trial.state.is_finished() and name not in printed:
                    printed.add(name)
                    bar.advance(task)
                    console.print(f"{name}: {_ending(trial)}")

        def print_exit(log: Path, code: int | None) -> None:
            if code:
                text = f"a worker ended with exit code {code}, see {log}; the other workers continue its trial"
                console.print(text, style="red")

        run_workers(_work, plan, logs, print_new_results, print_exit, len(prepare_gpus()))
    if not all(trial.state.is_finished() for _, trial in sweep.trials()):
        raise ToolboxError("all workers ended before all trials had; run the same command again to continue")


def _work(plan: Plan) -> None:
    """What each worker process runs."""
    describe_device(plan.options.require_gpu)
    with quiet_optuna():
        open_sweep(plan).work(TrialRunner(plan.options, plain_console()).run_in_sweep)


def _count_trials(sweep: Sweep) -> int:
    return sum(1 for _ in sweep.trials())


def _trial_name(study: StudySpec, trial: FrozenTrial) -> str:
    return ", ".join([study.name, *(f"{name}={value}" for name, value in trial.params.items())])


def _ending(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        auprc = trial.user_attrs["results"]["test"]["auprc"]
        return "finished" if auprc is None else f"AUPRC {auprc:.3f}"
    return "stopped early" if trial.state == TrialState.PRUNED else f"failed: {trial.user_attrs.get('failure')}"
