"""Trials that use the compiled steps of the trial before have the same figures as if they compiled their own."""

import functools
import io

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.models import METHODS, detector_class
from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters
from anomaly_toolbox.models.memory import StoredArrays
from anomaly_toolbox.training import steps as steps_module
from anomaly_toolbox.training.steps import NOT_IN_STEPS, CompiledSteps
from anomaly_toolbox.training.trial import run_trial
from tests.conftest import TINY, tiny_detector, training_data
from tests.training.test_trial import columns_of, trial

pytestmark = pytest.mark.slow

FORGETFUL = {"AnoGAN"}  # a fitted encoder changes what its scoring computes
SECOND = {"seed": 1, "anomalous_label": 3}


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


def counted(step, traced):
    """The step, which adds its name to a list when it is traced."""

    @functools.wraps(step)
    def call(self, *arguments):
        traced.append(step.__name__)
        return step(self, *arguments)

    return tf.autograph.experimental.do_not_convert(call)


@pytest.mark.parametrize("method", [method for method in METHODS if "epochs" in TINY[method]])
def test_training_steps_read_no_hyperparameter_that_may_differ(method, read_in_steps):
    detector = tiny_detector(method)
    images = tf.zeros((detector.hyperparameters.batch_size, *detector.image_shape))
    tf.function(detector.train_step).get_concrete_function(training_data(detector, images))
    assert not read_in_steps & NOT_IN_STEPS


@pytest.mark.parametrize("method", ["AnoGAN", "Classifier", "EGBAD", "FAnoGAN", "GANomaly"])
def test_the_second_trial_has_the_figures_of_its_own_steps(method, tmp_path, monkeypatch, read_in_steps):
    cls = detector_class(method)
    traced = []
    for name in ("train_step", "predict_step", "_vectors_and_patches"):
        monkeypatch.setattr(cls, name, counted(getattr(cls, name), traced))
    steps = CompiledSteps()
    run(trial(method), tmp_path, steps)
    traced_by_first = list(traced)
    assert traced_by_first.count("train_step") <= 1
    if method == "GANomaly":
        assert sorted(traced_by_first) == ["_vectors_and_patches", "predict_step", "train_step"]
    shared = run(second(method), tmp_path, steps)
    if method not in FORGETFUL:
        assert traced == traced_by_first
    own = run(second(method), tmp_path / "own")
    for name in ("scores.csv", "validation_scores.csv"):
        found, expected = columns_of(shared, name), columns_of(own, name)
        assert found.keys() == expected.keys()
        for column, values in expected.items():
            assert found[column] == pytest.approx(values, rel=1e-6), column
    assert not read_in_steps & NOT_IN_STEPS
    assert method != "GANomaly" or "contextual_loss_weight" in read_in_steps


def test_other_steps_are_compiled(monkeypatch):
    """For another width, number of channels or number of steps in which the rate falls, and for methods of users."""
    steps = CompiledSteps()

    def is_kept(method="GANomaly", channels=1, decay_steps=0, kept_decay_steps=0, **changes):
        cls = detector_class(method)
        steps.keep(steps.detector(cls, trial(method).hyperparameters, 1, None, kept_decay_steps), None)
        old = steps._kept and steps._kept[1]
        return steps.detector(cls, trial(method, **changes).hyperparameters, channels, None, decay_steps) is old

    assert is_kept()
    assert is_kept(learning_rate=0.01)
    assert not is_kept(width=3)
    assert not is_kept(channels=3)
    assert not is_kept(adversarial_loss_weight=2.0)
    assert is_kept(decay_steps=6, kept_decay_steps=6)
    assert not is_kept(decay_steps=6, kept_decay_steps=9)
    assert not is_kept(decay_steps=6)
    monkeypatch.setattr(steps_module, "METHODS", {})
    assert not is_kept()


def test_trials_whose_rates_fall_share_steps_though_the_rates_differ(tmp_path, monkeypatch):
    traced = []
    cls = detector_class("GANomaly")
    monkeypatch.setattr(cls, "train_step", counted(cls.train_step, traced))
    steps = CompiledSteps()
    falling = {"learning_rate_decay": True, "epochs": 2}
    run(trial(**falling), tmp_path, steps)
    shared = run(trial(**falling, **SECOND, learning_rate=1e-2), tmp_path, steps)
    assert traced == ["train_step"]
    own = run(trial(**falling, **SECOND, learning_rate=1e-2), tmp_path / "own")
    assert columns_of(shared)["score"] == pytest.approx(columns_of(own)["score"], rel=1e-6)


def test_a_failed_trial_keeps_nothing(tmp_path):
    steps = CompiledSteps()

    def stop(epoch, metrics):
        raise KeyboardInterrupt

    run(trial(), tmp_path, steps)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial(seed=1), tmp_path, plain_console(file=io.StringIO()), watch=stop, steps=steps)
    assert steps._kept is None


def test_vectors_are_computed_with_the_arrays_of_now(monkeypatch):
    """A method may compute vectors with arrays whose shape changes; compiled steps must not read the old ones."""
    detector = tiny_detector("GANomaly")
    detector.extra = StoredArrays()
    monkeypatch.setattr(
        detector, "vectors", lambda x: {"latent_neighbours": tf.tile(detector.extra.arrays["a"][tf.newaxis], (8, 1))}
    )
    images = np.zeros((8, 16, 16, 1), np.float32)
    for array in (np.ones(3), np.full(3, 2.0), np.full(5, 3.0)):
        detector.extra.set_arrays(a=array)
        assert np.array_equal(detector.vectors_for_banks(images)["latent_neighbours"], np.tile(array, (8, 1)))
