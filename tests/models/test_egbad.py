"""EGBAD: its equations, its three optimizers, and its averaged weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.egbad import EGBAD, EGBADHyperparameters
from tests.conftest import copy_weights, networks_changed_by, record_updates, sigmoid, tiny_detector, update_only


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    return tiny_detector("EGBAD", discriminator_dropout=0.0, learning_rate=1e-3)


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def logits_of_pairs(detector, x):
    """The logits of (x, E(x)) and of (G(z), z), with the z of the next training step."""
    detector.begin_epoch(0)
    z = layers.normal((8, 6), detector.noise)
    detector.begin_epoch(0)
    real = detector.discriminator(x, detector.encoder(x, training=True), training=True)[1]
    fake = detector.discriminator(detector.generator(z, training=True), z, training=True)[1]
    return np.asarray(real, np.float64), np.asarray(fake, np.float64)


def test_losses_are_equation_3(detector, x):
    real, fake = logits_of_pairs(detector, x)
    reported = {name: float(value) for name, value in detector.train_step(x).items()}
    expected = {
        "d_loss": -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
        "g_loss": -np.log(sigmoid(fake)).mean(),
        "e_loss": -np.log(1 - sigmoid(real)).mean(),
        "d_real": sigmoid(real).mean(),
        "d_fake": sigmoid(fake).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["d", "g", "e"])
def test_each_optimizer_changes_only_its_own_network(detector, x, optimizer, monkeypatch):
    networks = {"d": detector.discriminator, "g": detector.generator, "e": detector.encoder}
    assert networks_changed_by(optimizer, detector, networks, x, monkeypatch) == [optimizer]


@pytest.mark.parametrize(("optimizer", "real_direction", "fake_direction"), [("d", 1, -1), ("g", 0, 1), ("e", -1, 0)])
def test_generator_and_encoder_change_the_logits_against_the_discriminator(
    detector, x, optimizer, real_direction, fake_direction, monkeypatch
):
    update_only(optimizer, detector, monkeypatch)
    real, fake = logits_of_pairs(detector, x)
    for _ in range(5):
        detector.begin_epoch(0)
        detector.train_step(x)
    real_after, fake_after = logits_of_pairs(detector, x)
    direction = lambda before, after: np.sign(np.round(after.mean() - before.mean(), 6))  # noqa: E731
    assert (direction(real, real_after), direction(fake, fake_after)) == (real_direction, fake_direction)


@pytest.mark.parametrize("scoring", ["feature_matching", "cross_entropy"])
def test_the_score_is_the_papers(x, scoring):
    """Compares α ‖x − G(E(x))‖₁ + (1 − α) L_D with NumPy in float64; norms are sums."""
    keras.utils.set_random_seed(0)
    detector = tiny_detector("EGBAD", scoring=scoring, alpha=0.75)
    encoder, generator, discriminator = detector.averages
    code = encoder(x)
    x_hat = generator(code)
    features, logits = (np.asarray(value, np.float64) for value in discriminator(x, code))
    features_hat = np.asarray(discriminator(x_hat, code)[0], np.float64)
    d_part = {
        "feature_matching": np.abs(features - features_hat).sum(axis=1),
        "cross_entropy": -np.log(sigmoid(logits[:, 0])),
    }[scoring]
    residual = np.abs(np.asarray(x, np.float64) - np.asarray(x_hat, np.float64)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(detector.anomaly_score(x), 0.75 * residual + 0.25 * d_part, rtol=1e-4)


def test_images_are_scored_by_the_averaged_weights(detector, x):
    """The decay in step n is min(0.999, n / (9 + n))."""
    trained_networks = (detector.encoder, detector.generator, detector.discriminator)
    trained_weights = [weight for network in trained_networks for weight in network.weights]
    averaged_weights = [weight for network in detector.averages for weight in network.weights]
    expected = [weight.numpy() for weight in averaged_weights]
    for n in (1, 2, 3):
        detector.train_step(x)
        decay = n / (9 + n)
        for i, weight in enumerate(trained_weights):
            expected[i] = decay * expected[i] + (1 - decay) * weight.numpy()
    for value, averaged_weight in zip(expected, averaged_weights, strict=True):
        np.testing.assert_allclose(averaged_weight, value, rtol=1e-5, atol=1e-7)
    scores = detector.anomaly_score(x).numpy()
    for weight in trained_weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(detector.anomaly_score(x), scores)


def test_without_averaging_the_trained_networks_score(x):
    detector = tiny_detector("EGBAD", weight_averaging=0.0)
    detector.train_step(x)
    np.testing.assert_allclose(detector.reconstruct(x), detector.generator(detector.encoder(x)), rtol=1e-5, atol=1e-6)


def test_the_reconstruction_loss_changes_only_the_encoder(x):
    weights = []
    for weight in (0.0, 100.0):
        keras.utils.set_random_seed(0)
        detector = tiny_detector("EGBAD", reconstruction_loss_weight=weight, discriminator_dropout=0.0)
        detector.train_step(x)
        encoder_weights = list(copy_weights(detector.encoder).values())
        generator_weights = list(copy_weights(detector.generator).values())
        weights.append((encoder_weights, generator_weights))
    (encoder, generator), (encoder_with_loss, generator_with_loss) = weights
    assert not all(np.array_equal(a, b) for a, b in zip(encoder, encoder_with_loss, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(generator, generator_with_loss, strict=True))


def test_dropout_acts_only_in_training(x):
    detector = tiny_detector("EGBAD", discriminator_dropout=0.9)
    code = detector.encoder(x)
    logits = lambda training: np.array(detector.discriminator(x, code, training=training)[1])  # noqa: E731
    assert not np.array_equal(logits(training=True), logits(training=True))
    np.testing.assert_array_equal(logits(training=False), logits(training=False))


def test_the_papers_networks_at_size_28():
    detector = EGBAD(EGBADHyperparameters(), channels=1)
    kernels = lambda network: [tuple(w.shape) for w in network.trainable_variables if w.name == "kernel"]  # noqa: E731
    assert kernels(detector.encoder) == [(3, 3, 1, 32), (3, 3, 32, 64), (3, 3, 64, 128), (6272, 200)]
    assert kernels(detector.generator) == [(200, 1024), (1024, 6272), (4, 4, 64, 128), (4, 4, 1, 64)]
    assert kernels(detector.discriminator) == [(4, 4, 1, 64), (4, 4, 64, 64), (200, 512), (3648, 1024), (1024, 1)]


def test_larger_images_in_colour():
    hp = EGBADHyperparameters(image_size=48, width=2, latent_vector_size=5)
    x = tf.random.uniform((2, 48, 48, 3), -1, 1)
    detector = EGBAD(hp, channels=3)
    assert detector.reconstruct(x).shape == x.shape
    assert detector.anomaly_score(x).shape == (2,)


def objectives(detector, x, monkeypatch):
    """The loss of each optimizer in the next step, and the values of its terms, computed by NumPy in float64."""
    detector.begin_epoch(0)
    z = layers.normal((8, 6), detector.noise)
    real, fake = logits_of_pairs(detector, x)
    code, generated = detector.encoder(x, training=True), detector.generator(z, training=True)
    pairs = {
        "residual": (x, detector.generator(code, training=True)),
        "code": (z, detector.encoder(generated, training=True)),
    }
    terms = {}
    for name, (a, b) in pairs.items():
        terms[name] = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()
    terms |= {"g": np.log1p(np.exp(-fake)).mean(), "e": np.log1p(np.exp(real)).mean()}
    recorded = record_updates(detector, monkeypatch)
    detector.begin_epoch(0)
    detector.train_step(x)
    return dict(recorded), terms


@pytest.mark.parametrize(("consistency", "code_consistency"), [(0.0, 0.0), (3.0, 0.0), (0.0, 5.0), (3.0, 5.0)])
def test_the_consistency_losses_are_in_the_objectives_of_encoder_and_generator(
    x, consistency, code_consistency, monkeypatch
):
    keras.utils.set_random_seed(0)
    detector = tiny_detector(
        "EGBAD",
        consistency_weight=consistency,
        code_consistency_weight=code_consistency,
        reconstruction_loss_weight=0.5,
        discriminator_dropout=0.0,
    )
    given, terms = objectives(detector, x, monkeypatch)
    both = consistency * terms["residual"] + code_consistency * terms["code"]
    assert given["g"] == pytest.approx(terms["g"] + both, rel=1e-4)
    assert given["e"] == pytest.approx(terms["e"] + both + 0.5 * terms["residual"], rel=1e-4)
    assert terms["residual"] > 0.1  # the terms are no rounding errors
    assert terms["code"] > 0.1


def test_the_encoder_has_an_activation_after_its_first_convolution_if_it_should(x):
    plain, activated = (tiny_detector("EGBAD", encoder_activation=value).encoder for value in (False, True))
    activated.set_weights(plain.get_weights())
    convolved = plain.network.layers[0](x).numpy()
    assert (convolved < 0).any()
    expected = np.where(convolved < 0, 0.1 * convolved, convolved)
    np.testing.assert_allclose(activated.activations(x)[0], expected, rtol=1e-6)
    assert plain.activations(x)[0].shape == (8, 8, 8, 4)  # the first convolution alone is no layer with an activation
    assert not np.allclose(activated(x), plain(x), rtol=1e-3)
    assert EGBADHyperparameters().encoder_activation is False


@pytest.mark.parametrize("term", ["consistency_weight", "code_consistency_weight"])
def test_consistency_changes_the_encoder_and_the_generator_but_not_the_discriminator(x, term):
    weights = []
    for weight in (0.0, 100.0):
        keras.utils.set_random_seed(0)
        detector = tiny_detector("EGBAD", discriminator_dropout=0.0, **{term: weight})
        detector.begin_epoch(0)
        detector.train_step(x)
        networks = (detector.encoder, detector.generator, detector.discriminator)
        weights.append([list(copy_weights(network).values()) for network in networks])
    changed = []
    for without, with_term in zip(*weights, strict=True):
        changed.append(not all(np.array_equal(a, b) for a, b in zip(without, with_term, strict=True)))
    assert changed == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"consistency_weight": 50.0}, {"code_consistency_weight": 50.0}])
def test_consistency_lowers_what_it_measures(x, settings):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("EGBAD", discriminator_dropout=0.0, learning_rate=3e-3, **settings)

    def inconsistency():
        if "consistency_weight" in settings:
            return float(
                tf.reduce_mean(tf.abs(x - detector.generator(detector.encoder(x, training=True), training=True)))
            )
        z = tf.random.stateless_normal((8, 6), seed=(1, 2))
        z_hat = detector.encoder(detector.generator(z, training=True), training=True)
        return float(tf.reduce_mean(tf.abs(z - z_hat)))

    step, before = tf.function(detector.train_step, jit_compile=True), inconsistency()
    for _ in range(60):
        step(x)
    assert inconsistency() < 0.9 * before


def test_the_generators_batch_statistics_include_reconstructions(x, monkeypatch):
    """After a step, its running means are those after one pass of G(z) and one of G(E(x))."""
    keras.utils.set_random_seed(0)
    detector = tiny_detector("EGBAD", discriminator_dropout=0.0)
    keras.utils.set_random_seed(0)
    other = tiny_detector("EGBAD", discriminator_dropout=0.0)
    for network, copy in ((detector.encoder, other.encoder), (detector.generator, other.generator)):
        copy.set_weights(network.get_weights())
    update_only("none", detector, monkeypatch)
    for one in (detector, other):
        one.begin_epoch(0)
    detector.train_step(x)
    z = layers.normal((8, 6), other.noise)
    code = other.encoder(x, training=True)
    other.generator(z, training=True)
    statistics = [weight for weight in other.generator.weights if "moving" in weight.path]
    after_one_pass = [weight.numpy() for weight in statistics]
    other.generator(code, training=True)
    actual = [weight for weight in detector.generator.weights if "moving" in weight.path]
    for weight, expected in zip(actual, statistics, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(actual, after_one_pass, strict=True))
