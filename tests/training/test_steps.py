"""Trials that use the compiled steps of the trial before have the same figures as if they compiled their own."""

import io

import pytest
import tensorflow as tf

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models import METHODS, detector_class
from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters
from anomaly_toolbox.training import steps as steps_module
from anomaly_toolbox.training.steps import NOT_IN_STEPS, CompiledSteps
from anomaly_toolbox.training.trial import run_trial
from tests.conftest import TINY
from tests.training.test_trial import columns_of, trial

pytestmark = pytest.mark.slow

SECOND = {"seed": 1, "anomalous_label": 3, "memory_size": 1000}


def second(method):
    """A trial that differs from `trial(method)` in all that the same steps can do."""
    in_epochs = {"learning_rate": 1e-3, "epochs": 2, "select_by": "auprc"} if "epochs" in TINY[method] else {}
    return trial(method, **SECOND, **in_epochs)


def run(the_trial, folder, steps=None):
    """The run folder."""
    return run_trial(the_trial, folder, plain_console(file=io.StringIO()), steps=steps)[0]


@pytest.fixture
def read_in_steps(monkeypatch):
    """The names of the hyperparameters that steps have read while they were compiled."""
    names = set()

    def read(hyperparameters, name):
        if tf.inside_function() and name in type(hyperparameters).model_fields:
            names.add(name)
        return object.__getattribute__(hyperparameters, name)

    monkeypatch.setattr(ScoringHyperparameters, "__getattribute__", read, raising=False)
    return names


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_second_trial_has_the_figures_of_its_own_steps(method, tmp_path, monkeypatch, read_in_steps):
    n_traces = []
    if "epochs" in TINY[method]:
        cls = detector_class(method)
        train_step = cls.train_step
        monkeypatch.setattr(cls, "train_step", lambda self, x: n_traces.append(1) or train_step(self, x))
    steps = CompiledSteps()
    run(trial(method), tmp_path, steps)
    n_traces_of_first = len(n_traces)
    shared = run(second(method), tmp_path, steps)
    assert len(n_traces) == n_traces_of_first
    own = run(second(method), tmp_path / "own")
    for name in ("scores.csv", "validation_scores.csv"):
        found, expected = columns_of(shared, name), columns_of(own, name)
        assert found.keys() == expected.keys()
        for column, values in expected.items():
            assert found[column] == pytest.approx(values, rel=1e-6), column
    assert not read_in_steps & NOT_IN_STEPS
    assert method != "GANomaly" or "contextual_loss_weight" in read_in_steps


def test_other_steps_are_compiled(monkeypatch):
    """For another width, another number of channels or classes, a falling learning rate, and methods of users."""
    steps = CompiledSteps()

    def is_kept(method="GANomaly", channels=1, n_classes=None, kept=None, **changes):
        first = detector_class(method)
        steps.keep(steps.detector(first, trial(method, **(kept or {})).hyperparameters, 1, n_classes), n_classes)
        old = steps._kept[1]
        return steps.detector(first, trial(method, **changes).hyperparameters, channels, n_classes) is old

    assert is_kept()
    assert is_kept(learning_rate=0.01)
    assert not is_kept(width=3)
    assert not is_kept(channels=3)
    assert not is_kept(adversarial_loss_weight=2.0)
    assert not is_kept(learning_rate_decay=True, kept={"learning_rate_decay": True})
    monkeypatch.setattr(steps_module, "METHODS", {})
    assert not is_kept()


def test_a_failed_trial_keeps_nothing(tmp_path):
    steps = CompiledSteps()

    def stop(epoch, metrics):
        raise KeyboardInterrupt

    run(trial(), tmp_path, steps)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial(seed=1), tmp_path, plain_console(file=io.StringIO()), watch=stop, steps=steps)
    assert steps._kept is None
