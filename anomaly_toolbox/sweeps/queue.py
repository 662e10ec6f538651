"""The queue of a study, for which Optuna has no complete public interface. No TensorFlow here.

Every call here that is not part of Optuna's public interface has a test that names the public call which is missing.
"""

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState


class QueueEmpty(Exception):
    """No trial of the study is waiting."""


class QueueStudy(optuna.Study):
    """A study that runs the trials waiting in its queue and never adds a trial of its own."""

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> optuna.Trial:
        """Takes the next waiting trial out of the queue and marks it as running.

        Args:
            fixed_distributions: not used; part of the interface of `optuna.Study.ask`.

        Raises:
            QueueEmpty: no trial is waiting.
        """
        # Study.ask() creates a trial if none is waiting; there is no public way to take a waiting trial only.
        trial_id = self._pop_waiting_trial_id()
        if trial_id is None:
            raise QueueEmpty
        return optuna.Trial(self, trial_id)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts a copy of a trial that failed, or whose worker died, back into the queue."""
    # Study.enqueue_trial() does not record which trial it repeats. The retry callback does, but it also copies the
    # user attributes, among which are the dead worker's name and the failure.
    trial.user_attrs = {}
    RetryHeartbeatStaleTrialCallback()(study, trial)


def requeue_running(study: optuna.Study, trial: FrozenTrial) -> None:
    """Marks a running trial as failed and requeues it, unless the trial ended in the meantime."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # its worker is alive after all and finished it, or another worker requeued it
    requeue(study, trial)


def is_repetition(trial: optuna.Trial) -> bool:
    """Whether an earlier attempt at this trial was started, by this or another worker."""
    return bool(RetryHeartbeatStaleTrialCallback.retry_history(trial.study.trials[trial.number]))


def repeated_trials(study: optuna.Study) -> set[int]:
    """The numbers of all trials that were requeued; the copies count instead of them."""
    numbers: set[int] = set()
    for trial in study.get_trials(deepcopy=False):
        numbers.update(RetryHeartbeatStaleTrialCallback.retry_history(trial))
    return numbers
