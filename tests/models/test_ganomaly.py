"""GANomaly: its equations, and the floor of its discriminator's loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.ganomaly import GANomaly, GANomalyHyperparameters
from tests.conftest import copy_weights, has_changed, sigmoid, tiny_detector, update_only


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    return tiny_detector("GANomaly", discriminator_loss_floor=0.0)


@pytest.fixture
def batch(images):
    return tf.constant(images[:8])


def test_losses_are_equations_1_and_8_to_11(detector, batch):
    """Compares them with NumPy in float64, from the outputs of the networks before the step."""
    x_hat = detector.decoder(detector.encoder(batch, training=True), training=True)
    numbers = {
        "x": batch,
        "x_hat": x_hat,
        "z": detector.encoder(batch, training=True),
        "z_hat": detector.second_encoder(x_hat, training=True),
    }
    real, fake = detector.discriminator(batch, training=True), detector.discriminator(x_hat, training=True)
    numbers |= {"f_x": real[0], "f_x_hat": fake[0], "real": real[1], "fake": fake[1]}
    n = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
    reported = {name: float(value) for name, value in detector.train_step(batch).items()}

    adversarial = np.mean((n["f_x"] - n["f_x_hat"]) ** 2)
    contextual = np.mean(np.abs(n["x"] - n["x_hat"]))
    encoder = np.mean((n["z"] - n["z_hat"]) ** 2)
    expected = {
        "adversarial": adversarial,
        "contextual": contextual,
        "encoder": encoder,
        "g_loss": 1 * adversarial + 50 * contextual + 1 * encoder,
        "d_loss": -np.log(sigmoid(n["real"])).mean() - np.log(1 - sigmoid(n["fake"])).mean(),
        "d_real": sigmoid(n["real"]).mean(),
        "d_fake": sigmoid(n["fake"]).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)


def test_score_is_equation_12(detector, images):
    z = np.asarray(detector.encoder(images), np.float64)
    z_hat = np.asarray(detector.second_encoder(detector.decoder(detector.encoder(images))), np.float64)
    np.testing.assert_allclose(detector.anomaly_score(images), np.sqrt(((z - z_hat) ** 2).sum(axis=1)), rtol=1e-4)


def test_the_two_encoders_have_different_weights(detector):
    first, second = copy_weights(detector.encoder), copy_weights(detector.second_encoder)
    assert not any(np.array_equal(a, b) for a, b in zip(first.values(), second.values(), strict=True) if a.ndim > 1)


@pytest.mark.parametrize("optimizer", ["g", "d"])
def test_each_optimizer_changes_only_its_own_networks(detector, batch, optimizer, monkeypatch):
    generator = (detector.encoder, detector.decoder, detector.second_encoder)
    before_g, before_d = copy_weights(*generator), copy_weights(detector.discriminator)
    update_only(optimizer, detector, monkeypatch)
    detector.train_step(batch)
    assert has_changed(before_g, *generator) == (optimizer == "g")
    assert has_changed(before_d, detector.discriminator) == (optimizer == "d")


def test_feature_matching_reaches_encoder_and_decoder(batch):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("GANomaly", contextual_loss_weight=0.0, enc_loss_weight=0.0)
    networks = (detector.encoder, detector.decoder, detector.second_encoder)
    before = [copy_weights(network) for network in networks]
    detector.train_step(batch)
    changes = [has_changed(weights, network) for weights, network in zip(before, networks, strict=True)]
    assert changes == [True, True, False]  # (8) does not depend on the second encoder


def test_the_discriminator_is_not_updated_below_its_floor(batch):
    detector = tiny_detector("GANomaly", discriminator_loss_floor=100.0)
    state = [*detector.discriminator.trainable_variables, *detector.optimizers["d"].variables]
    before = [variable.numpy() for variable in state]
    detector.train_step(batch)
    assert all(np.array_equal(old, new) for old, new in zip(before, state, strict=True))


def train_discriminator_against_a_blurred_copy(floor):
    """The losses of D in 300 steps with a fixed generator, which is the worst case for D."""
    keras.utils.set_random_seed(0)
    detector = tiny_detector("GANomaly", discriminator_loss_floor=floor, learning_rate=2e-3)
    x = tf.constant(np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 1)), tf.float32)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            _, real = detector.discriminator(x, training=True)
            _, fake = detector.discriminator(x / 4, training=True)
            loss = tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))
        detector.update("d", loss, tape, only_if=loss > floor)
        return loss

    return [float(step()) for _ in range(300)]


@pytest.mark.slow
def test_the_floor_keeps_the_loss_of_the_discriminator_from_vanishing():
    """Without the floor, the loss vanishes, and the gradient with it."""
    floor = GANomalyHyperparameters().discriminator_loss_floor
    assert train_discriminator_against_a_blurred_copy(0.0)[-1] < floor / 5
    assert min(train_discriminator_against_a_blurred_copy(floor)[-50:]) > floor / 2


@pytest.mark.parametrize(("image_size", "channels", "width"), [(48, 3, 2), (16, 4, 3), (80, 1, 1)])
def test_any_size_that_is_a_multiple_of_16(image_size, channels, width):
    hp = GANomalyHyperparameters(image_size=image_size, width=width, latent_vector_size=5)
    x = tf.random.uniform((2, image_size, image_size, channels), -1, 1)
    detector = GANomaly(hp, channels)
    assert detector.reconstruct(x).shape == x.shape
    assert detector.anomaly_score(x).shape == (2,)


def test_the_papers_networks_at_size_32():
    detector = GANomaly(GANomalyHyperparameters(), channels=1)
    kernels = lambda network: [tuple(w.shape) for w in network.trainable_variables if w.name == "kernel"]  # noqa: E731
    assert kernels(detector.encoder) == [(4, 4, 1, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4096, 100)]
    assert kernels(detector.decoder) == [(100, 4096), (4, 4, 128, 256), (4, 4, 64, 128), (4, 4, 1, 64)]
    assert kernels(detector.discriminator) == [(4, 4, 1, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4096, 1)]
