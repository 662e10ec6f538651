"""AAE: its equations, and which network each loss trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers
from tests.conftest import copy_weights, has_changed, sigmoid, tiny_detector, update_only


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    return tiny_detector("AAE")


@pytest.fixture
def batch(images):
    return tf.constant(images[:8])


def test_losses_are_those_of_numpy(detector, batch, monkeypatch):
    """Compares them with NumPy in float64, from the outputs of the networks before the step."""
    drawn = tf.constant(np.random.default_rng(0).normal(size=(8, 6)), tf.float32)
    monkeypatch.setattr(layers, "normal", lambda shape, noise: drawn)
    z = detector.encoder(batch, training=True)
    numbers = {
        "x": batch,
        "x_hat": detector.decoder(z, training=True),
        "drawn": detector.discriminator(drawn),
        "code": detector.discriminator(z),
    }
    n = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
    reported = {name: float(value) for name, value in detector.train_step(batch).items()}

    reconstruction = np.mean((n["x"] - n["x_hat"]) ** 2)
    adversarial = -np.log(sigmoid(n["code"])).mean()
    expected = {
        "reconstruction": reconstruction,
        "adversarial": adversarial,
        "g_loss": reconstruction + 0.1 * adversarial,
        "d_loss": -np.log(sigmoid(n["drawn"])).mean() - np.log(1 - sigmoid(n["code"])).mean(),
        "d_real": sigmoid(n["drawn"]).mean(),
        "d_fake": sigmoid(n["code"]).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)


def test_the_score_is_the_distance_from_the_reconstruction(detector, images):
    x_hat = np.asarray(detector.decoder(detector.encoder(images)), np.float64)
    expected = np.sqrt(((images - x_hat) ** 2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(detector.anomaly_score(images), expected, rtol=1e-5)


def test_the_discriminator_judges_the_code(detector, images):
    logits = np.asarray(detector.discriminator(detector.encoder(images)), np.float64)[:, 0]
    expected = -np.log(sigmoid(logits))
    np.testing.assert_allclose(detector.scores(tf.constant(images))["discriminator"], expected, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["g", "d"])
def test_each_optimizer_changes_only_its_own_networks(detector, batch, optimizer, monkeypatch):
    autoencoder = (detector.encoder, detector.decoder)
    before_g, before_d = copy_weights(*autoencoder), copy_weights(detector.discriminator)
    update_only(optimizer, detector, monkeypatch)
    detector.train_step(batch)
    assert has_changed(before_g, *autoencoder) == (optimizer == "g")
    assert has_changed(before_d, detector.discriminator) == (optimizer == "d")


def test_the_encoder_learns_codes_that_the_discriminator_takes_for_drawn_ones(batch, monkeypatch):
    """With a discriminator that does not change, and hardly any weight of the residual, L_adv falls."""
    keras.utils.set_random_seed(0)
    detector = tiny_detector("AAE", adversarial_loss_weight=1e4, learning_rate=1e-3)
    update_only("g", detector, monkeypatch)
    step = tf.function(detector.train_step)
    first = float(step(batch)["adversarial"])
    for _ in range(20):
        detector.means["adversarial"].reset_state()
        last = float(step(batch)["adversarial"])
    assert last < first - 0.01


def test_averaged_weights_score_images(batch):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("AAE", weight_averaging=0.9)
    detector.train_step(batch)
    averaged_encoder, averaged_decoder, _ = detector.averages
    expected = averaged_decoder(averaged_encoder(batch))
    np.testing.assert_allclose(detector.reconstruct(batch), expected, rtol=1e-6)
    assert not np.array_equal(detector.decoder(detector.encoder(batch)), expected)
