"""Averaged weights and decaying learning rates, which all GANs share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.training.callbacks import Checkpoint, KeepBest, Timing
from tests.conftest import tiny_detector

GANS = ["AnoGAN", "EGBAD", "GANomaly"]
STEPS = 30
RATES = {"AnoGAN": ["d", "g"], "EGBAD": ["d", "e", "g"], "GANomaly": ["d", "g"]}  # the names of the optimizers


def new_detector(method, **changes):
    """A tiny detector with the same initial weights each time, whatever the hyperparameters."""
    keras.utils.set_random_seed(0)
    changes = {"warm_start": False, **changes} if method == "AnoGAN" else changes
    return tiny_detector(method, learning_rate=1e-2, **changes)


def trained_networks(detector):
    method = type(detector).__name__
    if method == "GANomaly":
        return detector.encoder, detector.decoder, detector.second_encoder, detector.discriminator
    if method == "AnoGAN":
        return detector.generator, detector.discriminator
    return detector.encoder, detector.generator, detector.discriminator


def values_of(networks):
    return [weight.numpy().astype(np.float64) for network in networks for weight in network.weights]


def rates_of(detector):
    return {name: float(optimizer.learning_rate) for name, optimizer in detector.optimizers.items()}


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


@pytest.mark.parametrize("method", GANS)
def test_averages_follow_their_recursion(method, x):
    """The decay in step n is min(0.5, n / (9 + n)), which is 0.5 from step 9 on."""
    detector = new_detector(method, weight_averaging=0.5)
    networks = trained_networks(detector)
    expected = values_of(detector.averages)
    names = [weight.path.split("/")[-1] for network in networks for weight in network.weights]
    assert {"moving_mean", "moving_variance", "kernel"} <= set(names)
    for n in range(1, 12):
        detector.train_step(x)
        decay = min(0.5, n / (9 + n))
        for i, value in enumerate(values_of(networks)):
            expected[i] = decay * expected[i] + (1 - decay) * value
    for name, value, averaged, latest in zip(
        names, expected, values_of(detector.averages), values_of(networks), strict=True
    ):
        np.testing.assert_allclose(averaged, value, rtol=1e-4, atol=1e-6)
        assert not np.allclose(averaged, latest, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("method", ["AnoGAN", "GANomaly"])
def test_averages_score_and_do_not_train(method, x):
    """The trained weights are the same as without averages; scores and maps come from the averages alone."""
    with_averages, without = new_detector(method, weight_averaging=0.9), new_detector(method)
    assert without.averages == ()
    for network, other in zip(trained_networks(with_averages), trained_networks(without), strict=True):
        network.set_weights(other.get_weights())
    if method == "AnoGAN":
        with_averages.noise.state.assign(without.noise.state)
    for _ in range(3):
        for detector in (with_averages, without):
            detector.begin_epoch(0)
            detector.train_step(x)
    for value, other in zip(
        values_of(trained_networks(with_averages)), values_of(trained_networks(without)), strict=True
    ):
        np.testing.assert_array_equal(value, other)
    assert not np.allclose(with_averages.anomaly_score(x), without.anomaly_score(x), rtol=1e-4)

    for network, average in zip(trained_networks(without), with_averages.averages, strict=True):
        network.set_weights(average.get_weights())
    for network in trained_networks(with_averages):
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    for detector in (with_averages, without):
        detector.fit_memory_banks(np.asarray(x))
    expected, expected_map = without.score_and_map(x)
    scores, anomaly_map = with_averages.score_and_map(x)
    assert set(scores) == set(expected)
    for name, values in scores.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(anomaly_map, expected_map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(with_averages.reconstruct(x), without.reconstruct(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(with_averages.anomaly_score(x), without.anomaly_score(x), rtol=1e-5)


def test_the_encoder_of_the_warm_start_is_fitted_to_the_averages(x):
    """Its loss is that of the averaged generator: a trained generator of zeros changes nothing."""
    encoders = []
    for is_changed in (False, True):
        keras.utils.set_random_seed(0)
        detector = tiny_detector("AnoGAN", weight_averaging=0.9)
        detector.train_step(x)
        if is_changed:
            for network in trained_networks(detector):
                network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
        detector.after_fit(np.asarray(x))
        encoders.append(values_of([detector.encoder]))
    for value, other in zip(*encoders, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", GANS)
def test_averages_are_saved_with_the_networks_and_in_checkpoints(method, x, tmp_path):
    """A detector that continues from a checkpoint has the same averages and rates as one that was not interrupted."""
    detector = new_detector(method, weight_averaging=0.9)
    detector.decay_steps = STEPS
    for _ in range(2):
        detector.train_step(x)
    checkpoint = Checkpoint(tmp_path, KeepBest(tmp_path, "last", None), Timing(8))
    for callback in (checkpoint._keep_best, checkpoint):
        callback.set_model(detector)
        callback.on_epoch_end(0, {})

    loaded = new_detector(method, weight_averaging=0.9)
    loaded.load_networks(tmp_path / "best-1.weights.h5")
    np.testing.assert_allclose(loaded.anomaly_score(x), detector.anomaly_score(x), rtol=1e-5)

    restored = new_detector(method, weight_averaging=0.9)
    restored.decay_steps = STEPS
    Checkpoint(tmp_path, KeepBest(tmp_path, "last", None), Timing(8)).restore(restored)
    assert rates_of(restored) == rates_of(detector)
    for continued in (detector, restored):
        continued.begin_epoch(1)
        continued.train_step(x)
    assert rates_of(restored) == rates_of(detector)
    assert len(restored.weights) == len(detector.weights)
    for value, other in zip(restored.weights, detector.weights, strict=True):
        np.testing.assert_array_equal(value, other, err_msg=value.path)


@pytest.mark.parametrize("method", GANS)
def test_the_learning_rates_of_all_optimizers_fall_linearly_to_0(method, x, monkeypatch):
    """In step n = 0, 1, 2, ... they are 0.01 (1 - n / N)."""
    detector = new_detector(method)
    detector.decay_steps = 4
    used_rates = {name: [] for name in RATES[method]}
    assert sorted(detector.optimizers) == RATES[method]
    for name, optimizer in detector.optimizers.items():
        apply = optimizer.apply

        def apply_and_record(gradients, weights, name=name, optimizer=optimizer, apply=apply):
            used_rates[name].append(float(optimizer.learning_rate))
            apply(gradients, weights)

        monkeypatch.setattr(optimizer, "apply", apply_and_record)
    for _ in range(5):
        detector.train_step(x)
    for rates in used_rates.values():
        np.testing.assert_allclose(rates, [0.01, 0.0075, 0.005, 0.0025, 0], rtol=1e-6, atol=1e-9)


def test_the_learning_rate_falls_while_the_discriminator_waits(x):
    """D is never updated here. Its weights and its number of steps stay, and its learning rate still falls."""
    detector = new_detector("GANomaly", discriminator_loss_floor=100.0)
    detector.decay_steps = 4
    before = [weight.numpy() for weight in detector.discriminator.trainable_variables]
    for n in range(1, 4):
        detector.train_step(x)
        rates = rates_of(detector)
        assert rates["g"] == rates["d"] == pytest.approx(0.01 * (1 - n / 4))
    assert int(detector.optimizers["d"].iterations) == 0
    for value, weight in zip(before, detector.discriminator.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, weight)


def test_a_lower_rate_makes_smaller_steps(x):
    """The first step of Adam changes each weight by the learning rate, whatever the gradient."""
    detector = new_detector("GANomaly")
    detector.decay_steps = 10
    detector.train_step(x)
    before = detector.decoder.trainable_variables[0].numpy()
    detector.optimizers["g"].learning_rate.assign(0.0)
    detector.train_step(x)
    np.testing.assert_array_equal(detector.decoder.trainable_variables[0], before)
    assert rates_of(detector)["g"] == pytest.approx(0.008)


@pytest.mark.parametrize("method", GANS)
def test_without_decay_the_rates_stay(method, x):
    detector = new_detector(method)
    for _ in range(3):
        detector.train_step(x)
    assert rates_of(detector) == {name: pytest.approx(0.01) for name in RATES[method]}


@pytest.mark.slow
def test_compiled_training_decays_too(images):
    """Keras runs the steps, in which the rates and the averages are variables and not constants."""
    detector = new_detector("GANomaly", weight_averaging=0.9)
    detector.decay_steps = STEPS
    averaged_before = values_of(detector.averages)
    batches = tf.data.Dataset.from_tensor_slices(images[:8]).batch(8, drop_remainder=True).repeat()
    detector.fit(batches, steps_per_epoch=6, verbose=0, shuffle=False)
    assert rates_of(detector) == {name: pytest.approx(0.01 * (1 - 6 / STEPS)) for name in ("g", "d")}
    detector.fit(batches, steps_per_epoch=3, verbose=0, shuffle=False)
    assert rates_of(detector) == {name: pytest.approx(0.01 * (1 - 9 / STEPS)) for name in ("g", "d")}
    assert not np.allclose(averaged_before[0], values_of(detector.averages)[0])
