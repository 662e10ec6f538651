"""ALAD: its equations, which network each loss trains, and spectral normalisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers
from tests.conftest import copy_weights, enlarge_kernels, float64, sigmoid, spectral_norms, tiny_detector, update_only


def new_detector(weight_averaging=0.0):
    keras.utils.set_random_seed(0)
    settings = {"discriminator_dropout": 0.0, "learning_rate": 1e-2, "weight_averaging": weight_averaging}
    detector = tiny_detector("ALAD", **settings)
    enlarge_kernels(detector.generator)
    return detector


@pytest.fixture
def detector():
    return new_detector()


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def networks_of(detector):
    """By the names in the docstring."""
    names = ("E", "G", "D_xz", "D_xx", "D_zz")
    return dict(zip(names, detector.trained, strict=True))


def logits_of_pairs(detector, x):
    """The logits of the first and the second pair of each discriminator, with the z of the next training step.

    Each call in training normalises kernels, so the calls are as many as in a step, and in the same order.
    """
    e, g, d_xz, d_xx, d_zz = detector.trained
    z = layers.normal((8, 6), detector.noise)
    code = e(x, training=True)
    generated = g(z, training=True)
    x_hat = g(code, training=True)
    z_hat = e(generated, training=True)
    return {
        "xz": (d_xz(x, code, training=True)[1], d_xz(generated, z, training=True)[1]),
        "xx": [d_xx(tf.concat([x, other], axis=-1), training=True)[1] for other in (x, x_hat)],
        "zz": [d_zz(tf.concat([z, other], axis=-1), training=True) for other in (z, z_hat)],
    }


def objectives(logits, log):
    """L_D, L_G and L_E, as they are in the docstring.

    Args:
        logits: of `logits_of_pairs`.
        log: gives the mean of log D and the mean of log (1 − D) of logits.
    """
    log_d = {name: [log(values) for values in pair] for name, pair in logits.items()}
    d_loss = -sum(first[0] + second[1] for first, second in log_d.values())
    cycle = -log_d["xx"][1][0] - log_d["zz"][1][0]
    return {"d": d_loss, "g": -log_d["xz"][1][0] + cycle, "e": -log_d["xz"][0][1] + cycle}


def log_in_numpy(logits):
    return np.log(sigmoid(logits)).mean(), np.log(1 - sigmoid(logits)).mean()


def log_in_tensorflow(logits):
    return tf.reduce_mean(tf.math.log(tf.sigmoid(logits))), tf.reduce_mean(tf.math.log(1 - tf.sigmoid(logits)))


def test_losses_and_their_gradients(detector, x, monkeypatch):
    """Losses are compared with NumPy in float64, and gradients with those of the written-out equations."""
    updates = {}

    def record(name, loss, tape):
        weights = [weight for network in detector.trained_networks[name] for weight in network.trainable_variables]
        updates[name] = float(loss), tape.gradient(loss, weights), weights

    weights_before = detector.get_weights()
    detector.begin_epoch(0)
    monkeypatch.setattr(detector, "update", record)
    reported = {name: float(value) for name, value in detector.train_step(x).items()}

    detector.set_weights(weights_before)
    detector.begin_epoch(0)
    with tf.GradientTape(persistent=True) as tape:
        logits = logits_of_pairs(detector, x)
        losses_with_gradients = objectives(logits, log_in_tensorflow)
    expected = objectives(logits, log_in_numpy)
    for first, second in logits.values():
        assert np.abs(float64(first) - float64(second)).max() > 1e-3  # a wrong pair would be noticed
    assert {name: loss for name, (loss, _, _) in updates.items()} == pytest.approx(expected, rel=1e-4)
    for name, (_, gradients, weights) in updates.items():
        expected_gradients = tape.gradient(losses_with_gradients[name], weights)
        largest = max(np.abs(gradient).max() for gradient in expected_gradients)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-2, atol=1e-4 * largest)
    assert reported == pytest.approx(
        {
            **{f"{name}_loss": loss for name, loss in expected.items()},
            "xx_loss": -log_in_numpy(logits["xx"][0])[0] - log_in_numpy(logits["xx"][1])[1],
            "zz_loss": -log_in_numpy(logits["zz"][0])[0] - log_in_numpy(logits["zz"][1])[1],
            "d_real": sigmoid(logits["xz"][0]).mean(),
            "d_fake": sigmoid(logits["xz"][1]).mean(),
        },
        rel=1e-4,
    )


def directions(network):
    """Each weight divided by its norm, which spectral normalisation does not change."""
    return {path: value / (np.linalg.norm(value) or 1) for path, value in copy_weights(network).items()}


@pytest.mark.parametrize(("optimizer", "own"), [("d", {"D_xz", "D_xx", "D_zz"}), ("g", {"G"}), ("e", {"E"})])
def test_each_optimizer_turns_only_the_weights_of_its_own_networks(detector, x, optimizer, own, monkeypatch):
    networks = networks_of(detector)
    before = {name: directions(network) for name, network in networks.items()}
    update_only(optimizer, detector, monkeypatch)
    detector.train_step(x)
    for name, network in networks.items():
        turns = [np.linalg.norm(value - before[name][path]) for path, value in directions(network).items()]
        assert (min(turns) > 1e-4) == (name in own), name
        assert (max(turns) > 1e-4) == (name in own), name


def test_kernels_of_the_encoder_and_the_discriminators_are_normalised(detector, x):
    """Their largest singular value is 1 after the calls of some training steps; the generator's stay."""
    networks = networks_of(detector)
    of_generator = spectral_norms(networks["G"])
    calls_of_a_step = tf.function(lambda: logits_of_pairs(detector, x))
    for _ in range(30):
        calls_of_a_step()
    assert spectral_norms(networks.pop("G")) == of_generator
    norms = spectral_norms(*networks.values())
    assert len(norms) == 3 + 5 + 3 + 3  # E, D_xz, D_xx and D_zz
    for path, norm in norms.items():
        assert norm == pytest.approx(1, rel=0.03), path


def test_scoring_leaves_all_weights_as_they_are(detector, x):
    before = [weight.numpy() for weight in detector.weights]
    detector.scores(x)
    for value, weight in zip(before, detector.weights, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_the_score_compares_features_of_pairs_of_images(x):
    """A(x) of NumPy in float64, with the averaged weights, whatever the latest weights are."""
    detector = new_detector(weight_averaging=0.5)
    for _ in range(2):
        detector.train_step(x)
    for network in detector.trained:
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    encoder, generator, _, d_xx, _ = detector.averages
    x_hat = generator(encoder(x))
    features, features_hat = (float64(d_xx(tf.concat([x, other], axis=-1))[0]) for other in (x, x_hat))
    expected = np.abs(features - features_hat).sum(axis=(1, 2, 3))
    assert features.shape == (8, 4, 4, 8)  # the last map, not the logit
    assert expected.min() > 0.01
    np.testing.assert_allclose(detector.anomaly_score(x), expected, rtol=1e-4)
    np.testing.assert_allclose(detector.reconstruct(x), x_hat, rtol=1e-5)


def test_without_averaging_the_latest_weights_score(detector, x):
    detector.train_step(x)
    assert detector.averages == ()
    np.testing.assert_allclose(detector.reconstruct(x), detector.generator(detector.encoder(x)), rtol=1e-5)


def test_a_pair_of_images_has_twice_the_channels():
    detector = tiny_detector("ALAD", channels=3)
    assert tuple(detector.of_images.trainable_variables[0].shape) == (4, 4, 6, 4)
    assert tuple(detector.of_codes.trainable_variables[0].shape) == (12, 64)


def test_dropout_acts_only_in_training(x):
    """In all three discriminators; the kernels, which training normalises anew, are the same in both calls."""
    detector = tiny_detector("ALAD", discriminator_dropout=0.9)
    z = tf.random.stateless_normal((8, 6), (1, 2))
    pairs = (
        (detector.discriminator, (x, z)),
        (detector.of_images, (tf.concat([x, x], axis=-1),)),
        (detector.of_codes, (tf.concat([z, z], axis=-1),)),
    )
    for network, pair in pairs:
        weights = network.get_weights()
        for training in (False, True):
            logits = []
            for _ in range(2):
                network.set_weights(weights)
                logits.append(tf.nest.flatten(network(*pair, training=training))[-1].numpy())
            assert np.array_equal(*logits) != training
