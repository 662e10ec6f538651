"""The queue of a study. Optuna has no public interface for some of it, and each test names the missing call.

When a test fails with a new version of Optuna, either a private call has gone, or a public call can replace it.
"""

import inspect
import subprocess
import sys
import warnings

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from anomaly_toolbox.sweeps.queue import (
    QueueEmpty,
    QueueStudy,
    is_repetition,
    repeated_trials,
    requeue,
    requeue_running,
)
from anomaly_toolbox.sweeps.storage import quiet_optuna


@pytest.fixture
def study():
    """A study with an empty queue, in memory."""
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="demo", direction="maximize")
    return QueueStudy("demo", storage)


def public_names(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def parameters(function):
    return set(inspect.signature(function).parameters) - {"self"}


def test_ask_takes_waiting_trials_only(study):
    """The missing public call takes a waiting trial out of the queue and does not create one if the queue is empty."""
    assert hasattr(optuna.Study, "_pop_waiting_trial_id"), "Optuna removed it; QueueStudy.ask needs another way"
    assert parameters(optuna.Study.ask) == {"fixed_distributions"}, "can Study.ask take waiting trials only now?"
    assert not {name for name in public_names(optuna.Study) if "waiting" in name or "pop" in name}, "use the new call"
    for width in (1, 2):
        study.enqueue_trial({"width": width})
    assert [study.ask().suggest_int("width", 1, 9) for _ in range(2)] == [1, 2]
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2
    with pytest.raises(QueueEmpty):
        study.ask()
    assert len(study.trials) == 2


def test_requeue_copies_a_trial_without_its_user_attributes(study):
    """The missing public call enqueues a trial as a repetition of another one, without its user attributes.

    `Study.enqueue_trial` does not record which trial it repeats, and the retry callback copies the user attributes.
    """
    message = "is there a public way now to requeue a trial without its user attributes?"
    options_of_callback = parameters(RetryHeartbeatStaleTrialCallback.__init__)
    assert options_of_callback == {"max_retry", "inherit_intermediate_values"}, message
    assert parameters(optuna.Study.enqueue_trial) == {"params", "user_attrs", "skip_if_exists"}, message
    study.enqueue_trial({"width": 3})
    trial = study.ask()
    trial.suggest_int("width", 1, 9)
    trial.set_user_attr("failure", "the disk is full")
    study.tell(trial, state=TrialState.FAIL)
    RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
    assert study.trials[1].user_attrs, "the retry callback omits user attributes now; `requeue` need not remove them"
    requeue(study, study.trials[0])
    copy = study.trials[2]
    assert (copy.state, copy.user_attrs, copy.params) == (TrialState.WAITING, {}, {"width": 3})
    assert study.trials[0].user_attrs == {"failure": "the disk is full"}


def test_user_attributes_of_a_frozen_trial_can_be_replaced():
    """`requeue` needs the setter of `FrozenTrial.user_attrs`, which Optuna does not document."""
    assert FrozenTrial.user_attrs.fset is not None, "Optuna removed the setter; `requeue` needs another way"


def test_a_trial_is_started_by_its_id():
    """The missing public call makes a running Trial from a trial of the queue; Optuna advises against Trial(...)."""
    assert {"study", "trial_id"} <= parameters(optuna.Trial.__init__), "Optuna changed it; QueueStudy.ask calls it"
    assert "trial_id" not in public_names(FrozenTrial), "the identifier of a trial is public now"


def test_a_running_trial_is_requeued_once(study):
    """Two workers find the same stale trial; the second one changes nothing."""
    study.enqueue_trial({"width": 3})
    study.ask()
    stale = study.trials[0]
    for _ in range(2):
        requeue_running(study, stale)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_that_finished_in_the_meantime_is_not_requeued(study):
    study.enqueue_trial({"width": 3})
    trial = study.ask()
    stale = study.trials[0]
    study.tell(trial, 0.5)
    requeue_running(study, stale)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_repetitions_are_recorded(study):
    study.enqueue_trial({"width": 3})
    first = study.ask()
    requeue_running(study, study.trials[0])
    second = study.ask()
    requeue_running(study, study.trials[1])
    third = study.ask()
    assert [is_repetition(trial) for trial in (first, second, third)] == [False, True, True]
    assert repeated_trials(study) == {0, 1}


def test_quiet_optuna_restores_verbosity_and_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        before = optuna.logging.get_verbosity(), list(warnings.filters)
        with quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
            assert warnings.filters[0][2] is optuna.exceptions.ExperimentalWarning
        assert (optuna.logging.get_verbosity(), warnings.filters) == before


@pytest.mark.slow
def test_imports_change_neither_verbosity_nor_warnings():
    """The program imports other libraries first, because some of them add warning filters.

    TensorBoard does so where boto3 is installed, which it then imports.
    """
    program = """
import importlib, pkgutil, warnings
import filelock, matplotlib, optuna, optuna.storages.journal, rich, sklearn, sqlalchemy, tensorflow
import tensorboard.plugins.hparams.api
import anomaly_toolbox.sweeps as package

before = optuna.logging.get_verbosity(), list(warnings.filters)
modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
assert {"command", "queue", "storage", "sweep"} <= set(modules)
for module in modules:
    importlib.import_module(f"anomaly_toolbox.sweeps.{module}")
    assert (optuna.logging.get_verbosity(), list(warnings.filters)) == before, module
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
