"""The queue of a study, which Optuna has no public interface for. No TensorFlow here.

Every call here that is not part of Optuna's public interface has a test that names the public call which is missing.
"""

import contextlib

import optuna
from optuna.trial import FrozenTrial, TrialState


class QueueEmpty(Exception):
    """No trial of the study is waiting."""


class QueueStudy(optuna.Study):
    """A study that runs the trials waiting in its queue and never adds a trial of its own."""

    def ask(self, fixed_distributions=None) -> optuna.Trial:
        """The next waiting trial, which is then running; raises QueueEmpty."""
        # Study.ask() creates a trial where none is waiting; there is no public way to take a waiting one only.
        trial_id = self._pop_waiting_trial_id()
        if trial_id is None:
            raise QueueEmpty
        return optuna.Trial(self, trial_id)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts a copy of a trial that failed, or whose worker died, back into the queue."""
    # Study.enqueue_trial() does not record which trial it repeats. The retry callback does, but it also copies the
    # user attributes, among which are the dead worker's name and the failure.
    trial.user_attrs = {}
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def requeue_running(study: optuna.Study, storage: optuna.storages.BaseStorage, trial: FrozenTrial) -> None:
    """Marks a running trial as failed and requeues it, unless another worker did so first."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        # Study.tell() expects the trial number of this process's own trial and logs a warning for others.
        if storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
            requeue(study, trial)


def is_repetition(trial: optuna.Trial) -> bool:
    """Whether an earlier attempt at this trial was started, by this or another worker."""
    return bool(trial.study.trials[trial.number].system_attrs.get("retry_history"))


def repeated_trials(study: optuna.Study) -> set[int]:
    """The numbers of all trials that were requeued; the copies count instead of them."""
    numbers = set()
    for trial in study.get_trials(deepcopy=False):
        numbers.update(trial.system_attrs.get("retry_history", []))
    return numbers
