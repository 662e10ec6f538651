"""Averaged weights and learning rates that decay, which several methods share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import copy_weights, has_changed, tiny_detector


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def trained_networks(detector):
    if type(detector).__name__ == "AnoGAN":
        return detector.generator, detector.discriminator
    return detector.encoder, detector.decoder, detector.second_encoder, detector.discriminator


def seeded_detector(method, **settings):
    keras.utils.set_random_seed(0)
    return tiny_detector(method, learning_rate=1e-3, **settings)


@pytest.mark.parametrize("method", ["AnoGAN", "GANomaly"])
def test_images_are_scored_by_the_averaged_weights(method, x):
    """The decay in step n is min(0.5, n / (9 + n)): 0.1, 2 / 11, ..., and 0.5 from n = 9 on."""
    detector = seeded_detector(method, weight_averaging=0.5)
    weights = [weight for network in trained_networks(detector) for weight in network.weights]
    averaged_weights = [weight for network in detector.averages for weight in network.weights]
    expected = [weight.numpy().astype(np.float64) for weight in averaged_weights]
    step = tf.function(detector.train_step, jit_compile=True)
    for n in range(1, 12):
        step(x)
        decay = min(0.5, n / (9 + n))
        for i, weight in enumerate(weights):
            expected[i] = decay * expected[i] + (1 - decay) * weight.numpy()
    for value, averaged_weight in zip(expected, averaged_weights, strict=True):
        np.testing.assert_allclose(averaged_weight, value, rtol=1e-4, atol=1e-6)
    scores = detector.anomaly_score(x).numpy()
    for weight in weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(detector.anomaly_score(x), scores)


@pytest.mark.parametrize("method", ["AnoGAN", "GANomaly"])
def test_averages_are_saved_and_do_not_change_the_training(method, x, tmp_path):
    detector, plain = seeded_detector(method, weight_averaging=0.9), seeded_detector(method)
    for network, copy in zip(trained_networks(detector), trained_networks(plain), strict=True):
        copy.set_weights(network.get_weights())
    if method == "AnoGAN":  # the constructor drew another seed for the noise, after other networks
        plain.noise.state.assign(detector.noise.state)
    for _ in range(2):
        for other in (detector, plain):
            other.begin_epoch(0)
            other.train_step(x)
    for a, b in zip(trained_networks(detector), trained_networks(plain), strict=True):
        for first, second in zip(copy_weights(a).values(), copy_weights(b).values(), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
    assert plain.averages == ()
    detector.save_networks(tmp_path / "model.weights.h5")
    loaded = seeded_detector(method, weight_averaging=0.9)
    loaded.load_networks(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(loaded.anomaly_score(x), detector.anomaly_score(x), rtol=1e-5)


@pytest.mark.parametrize("method", ["AnoGAN", "EGBAD", "GANomaly"])
def test_learning_rates_fall_linearly_to_0(method, x):
    """In step n = 0, 1, ... of 4 the rate is 0.001 (1 - n / 4); GANomaly's D, which waits here, has the same rate."""
    floor = {"discriminator_loss_floor": 100.0} if method == "GANomaly" else {}
    detector = seeded_detector(method, learning_rate_decay=True, **floor)
    detector.decay_steps = 4
    first = next(iter(detector.optimizers))
    for n in range(4):
        detector.train_step(x)
        assert float(detector.optimizers[first].learning_rate) == pytest.approx(1e-3 * (1 - n / 4))
    before = copy_weights(*detector.trained_networks[first])
    detector.train_step(x)
    for name, optimizer in detector.optimizers.items():
        assert float(optimizer.learning_rate) == 0 or (name == "d" and floor)
    assert not has_changed(before, *detector.trained_networks[first])


def test_without_decay_the_learning_rate_stays(x):
    detector = seeded_detector("GANomaly")
    for _ in range(3):
        detector.train_step(x)
    assert all(float(optimizer.learning_rate) == pytest.approx(1e-3) for optimizer in detector.optimizers.values())
