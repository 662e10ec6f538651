"""A sweep: all trials of one command, shared by the processes and machines that run it. No TensorFlow here.

All trials of a study wait in its queue before the first one runs. A worker takes a trial in a single step of the
storage, so no trial runs twice. When a worker dies, its trial returns to the queue:

* in a database, Optuna's heartbeats show which workers died,
* with a journal file, each worker holds a lock, which the system releases when the process ends.
"""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from anomaly_toolbox.errors import InputError, ToolboxError, reason
from anomaly_toolbox.files import short_name
from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters
from anomaly_toolbox.sweeps.liveness import WorkerLiveness
from anomaly_toolbox.sweeps.queue import QueueEmpty, QueueStudy, repeated_trials, requeue, requeue_running
from anomaly_toolbox.sweeps.search import Search, StudySpec, definition, plan_all, suggest_values

SECONDS_BETWEEN_CHECKS = 1.0
SECONDS_TO_PLAN = 30.0  # after this long without progress, another process completes the planning
SECONDS_TO_REGISTER = 60.0  # a worker that has not registered by then died before it could
LONGEST_STUDY_NAME = 300  # bytes of a study's name in the storage; databases take 512


class Sweep:
    """All studies of one command, in a storage.

    Args:
        name: the name of the sweep in the storage.
        studies: one for each method and label.
        search: how the trials of each study are chosen.
        dataset: the name of the dataset and how its images are read; part of the sweep's definition.
        storage: the storage that `open_storage` returns.
        folder: the folder of this sweep; workers that share a journal file keep their locks there.
    """

    def __init__(
        self,
        name: str,
        studies: Sequence[StudySpec],
        search: Search,
        dataset: str,
        storage: optuna.storages.BaseStorage,
        folder: Path,
    ):
        self.name, self.studies, self.search = name, studies, search
        self.definition = definition(studies, search, dataset)
        self.folder = folder
        self._storage = storage
        self.liveness = WorkerLiveness(folder / "workers")

    def prepare(self, overwrite: bool = False) -> None:
        """Fills the queues, unless another process did, and requeues trials that failed or were interrupted.

        Args:
            overwrite: whether to delete an earlier sweep of this name first.

        Raises:
            InputError: the storage has another sweep of that name, or the sampler cannot search a study's settings.
            ToolboxError: `overwrite` is true and a worker of the sweep is alive.
        """
        plans = plan_all(self.studies, self.search)
        summaries = optuna.get_all_study_summaries(self._storage, include_best_trial=False)
        stored = [summary for summary in summaries if summary.study_name.startswith(f"{self.name}/")]
        if overwrite:
            if self.liveness.is_any_alive():
                raise ToolboxError(f"--overwrite: a worker of the sweep {self.name} is alive; stop it first")
            for summary in stored:
                optuna.delete_study(study_name=summary.study_name, storage=self._storage)
        elif any(summary.user_attrs.get("definition", self.definition) != self.definition for summary in stored):
            raise InputError(
                f"--sweep-name {self.name}: the storage has another sweep of that name, with other methods, labels, "
                "hyperparameters, data, seed, sampler or number of trials; choose another name, or replace it with "
                "--overwrite"
            )
        for study, plan in zip(self.studies, plans, strict=True):
            self._prepare_study(study, plan)

    def _prepare_study(self, spec: StudySpec, plan: list[dict[str, Any]]) -> None:
        name = self._study_name(spec)
        try:
            study = optuna.create_study(
                storage=self._storage, study_name=name, direction="maximize", load_if_exists=False
            )
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=self._storage)
            self._await_planning(study, plan)
            for trial in study.get_trials(states=(TrialState.FAIL,)):
                if trial.number not in repeated_trials(study):
                    requeue(study, trial)
            return
        study.set_user_attr("definition", self.definition)
        self._enqueue(study, plan)

    def _enqueue(self, study: optuna.Study, plan: list[dict[str, Any]]) -> None:
        n_enqueued = len(study.get_trials(deepcopy=False))
        for chosen in plan[n_enqueued:]:
            study.enqueue_trial(chosen)
        study.set_user_attr("planned", True)

    def _await_planning(self, study: optuna.Study, plan: list[dict[str, Any]]) -> None:
        """Waits while the process that created the study fills its queue; completes the queue if that process died."""
        n_enqueued = -1
        last_progress = time.monotonic()
        while "planned" not in study.user_attrs:
            n_trials = len(study.get_trials(deepcopy=False))
            if n_trials > n_enqueued:
                n_enqueued = n_trials
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > SECONDS_TO_PLAN:
                study.set_user_attr("definition", self.definition)
                self._enqueue(study, plan)
            else:
                time.sleep(SECONDS_BETWEEN_CHECKS / 4)

    def work(self, run: Callable[[StudySpec, ScoringHyperparameters, optuna.Trial], dict[str, Any]]) -> None:
        """Runs one waiting trial after another, until all trials of all workers have ended.

        Args:
            run: runs one trial and returns its results. An exception is recorded as the trial's failure, and the next
                trial follows.
        """
        with self.liveness.shown():
            studies = [(spec, self._study(spec)) for spec in self.studies]
            while True:
                is_idle, is_over = True, True
                for spec, study in studies:
                    self._requeue_stale_trials(study)
                    with contextlib.suppress(QueueEmpty):
                        self._run_one(spec, study, run)
                        is_idle = False
                        break  # start with the first study again: a dead worker's trial may wait there
                    is_over &= not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
                if is_idle and is_over:
                    return
                if is_idle:
                    time.sleep(SECONDS_BETWEEN_CHECKS)

    def _run_one(self, spec: StudySpec, study: QueueStudy, run: Callable[..., dict[str, Any]]) -> None:
        running: list[optuna.Trial] = []

        def objective(trial: optuna.Trial) -> float:
            running.append(trial)
            trial.set_user_attr("worker", self.liveness.worker)
            try:
                results = run(spec, spec.hyperparameters(suggest_values(trial, spec.settings)), trial)
            except optuna.TrialPruned:
                raise
            except Exception as problem:
                trial.set_user_attr("failure", reason(problem))
                raise
            trial.set_user_attr("results", results)
            auprc: float | None = results["validation"]["auprc"]
            if auprc is None:
                if self.search.sampler == "tpe":
                    raise InputError("--sampler tpe needs a validation AUPRC; there are no anomalous validation images")
                return 0.0
            return auprc

        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            if running:
                requeue(study, study.trials[running[0].number])
            raise
        except ValueError:
            # This worker was suspended for longer than the grace period, and its trial was requeued.
            if not running or study.trials[running[0].number].state != TrialState.FAIL:
                raise

    def _requeue_stale_trials(self, study: optuna.Study) -> None:
        """Returns the trials of dead workers to the queue."""
        optuna.storages.fail_stale_trials(study)
        has_heartbeat = isinstance(self._storage, optuna.storages.RDBStorage)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is None:
                is_stale = _age_in_seconds(trial) > SECONDS_TO_REGISTER
            else:
                is_stale = not has_heartbeat and not self.liveness.is_alive(worker)
            if is_stale:
                requeue_running(study, trial)

    def trials(self) -> Iterator[tuple[StudySpec, FrozenTrial]]:
        """Every trial with its study, without those that were requeued."""
        for spec in self.studies:
            study = self._study(spec)
            repeated = repeated_trials(study)
            for trial in study.get_trials():
                if trial.number not in repeated:
                    yield spec, trial

    def _study(self, spec: StudySpec) -> QueueStudy:
        sampler, pruner = self.search.samplers()
        return QueueStudy(self._study_name(spec), self._storage, sampler, pruner)

    def _study_name(self, spec: StudySpec) -> str:
        return f"{self.name}/{short_name(spec.name, LONGEST_STUDY_NAME)}"


def _age_in_seconds(trial: FrozenTrial) -> float:
    """The time since a running trial started."""
    assert trial.datetime_start is not None  # the storage sets it when the trial leaves the queue
    return (datetime.datetime.now() - trial.datetime_start).total_seconds()
