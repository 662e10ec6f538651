"""AnoGAN: its equations, its search, and the encoder of its warm start."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.anogan import AnoGANHyperparameters
from tests.conftest import enlarge_kernels, float64, networks_changed_by, sigmoid, tiny_detector, update_only


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    detector = tiny_detector("AnoGAN", warm_start=False, gamma=20, search_learning_rate=0.05)
    enlarge_kernels(detector.generator)
    return detector


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def test_losses_are_equation_1(detector, x):
    """Compares them with NumPy in float64, from the outputs of the networks before the step."""
    detector.begin_epoch(0)
    z = layers.normal((8, 6), detector.noise)
    real = detector.discriminator(x, training=True)[1]
    fake = detector.discriminator(detector.generator(z, training=True), training=True)[1]
    detector.begin_epoch(0)
    reported = {name: float(value) for name, value in detector.train_step(x).items()}
    expected = {
        "d_loss": -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
        "g_loss": -np.log(sigmoid(fake)).mean(),  # not + log(1 - D): non-saturating
        "d_real": sigmoid(real).mean(),
        "d_fake": sigmoid(fake).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["g", "d"])
def test_each_optimizer_changes_only_its_own_network(detector, x, optimizer, monkeypatch):
    networks = {"g": detector.generator, "d": detector.discriminator}
    assert networks_changed_by(optimizer, detector, networks, x, monkeypatch) == [optimizer]


def test_the_generator_raises_the_logits_of_the_discriminator(detector, x, monkeypatch):
    def mean_logit():
        detector.begin_epoch(0)
        z = layers.normal((8, 6), detector.noise)
        logits = detector.discriminator(detector.generator(z, training=True), training=True)[1]
        detector.begin_epoch(0)
        return float(tf.reduce_mean(logits))

    update_only("g", detector, monkeypatch)
    before = mean_logit()
    for _ in range(5):
        detector.begin_epoch(0)
        detector.train_step(x)
    assert mean_logit() > before


def test_search_loss_is_equations_4_to_6(detector, x):
    z = tf.random.stateless_normal((8, 6), (1, 2))
    x_hat, features = detector.generator(z), detector.discriminator(x)[0]
    features_hat = detector.discriminator(x_hat)[0]
    residual = np.abs(float64(x) - float64(x_hat)).sum(axis=(1, 2, 3))
    discrimination = np.abs(float64(features) - float64(features_hat)).sum(axis=(1, 2, 3))
    assert features.shape == (8, 4, 4, 8)  # an intermediate layer, not the logit
    np.testing.assert_allclose(detector.search_loss(x, features, z), 0.9 * residual + 0.1 * discrimination, rtol=1e-4)


def test_search_loss_by_hand(monkeypatch):
    """With G(z) = z as a 16x16 image and f(x) = 3x, each pixel adds 0.75 |x - z| + 0.25 * 3 |x - z|."""
    detector = tiny_detector("AnoGAN", warm_start=False, lambda_=0.25, latent_vector_size=256)
    monkeypatch.setattr(detector, "generator", lambda z: tf.reshape(z, (-1, 16, 16, 1)))
    monkeypatch.setattr(detector, "discriminator", lambda x: (3 * x, x[:, 0, 0]))
    x = tf.fill((2, 16, 16, 1), 0.5)
    z = tf.stack([tf.fill((256,), 0.25), tf.fill((256,), -0.5)])
    np.testing.assert_allclose(detector.search_loss(x, 3 * x, z), [256 * 0.25 * 1.5, 256 * 1.0 * 1.5], rtol=1e-6)


def test_the_search_is_adam_with_a_state_for_each_image(detector, x):
    """Compares the loop with Keras's Adam, which has an optimizer for each image here."""
    z_0 = tf.random.stateless_normal((3, 6), (3, 4))
    searched_z, loss = detector.search(x[:3], z_0)
    for i in range(3):
        features, _ = detector.discriminator(x[i : i + 1])
        z = tf.Variable(z_0[i : i + 1])
        adam = keras.optimizers.Adam(0.05)
        for _ in range(20):
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(detector.search_loss(x[i : i + 1], features, z))
            adam.apply([tape.gradient(value, z)], [z])
        np.testing.assert_allclose(searched_z[i], z[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(loss[i], detector.search_loss(x[i : i + 1], features, z)[0], rtol=1e-3)


def test_the_score_is_the_loss_at_the_end_of_the_search(detector, x):
    z, loss = detector.search(x, tf.repeat(detector.starting_points, 8, axis=0))
    np.testing.assert_allclose(detector.anomaly_score(x), loss, rtol=1e-4)
    np.testing.assert_allclose(loss, detector.search_loss(x, detector.discriminator(x)[0], z), rtol=1e-6)
    detector.steps.assign(0)
    z_0 = tf.repeat(detector.starting_points, 8, axis=0)
    loss_at_start = detector.search_loss(x, detector.discriminator(x)[0], z_0)
    np.testing.assert_allclose(detector.anomaly_score(x), loss_at_start, rtol=1e-5)
    assert (loss < loss_at_start).numpy().all()


def test_scores_do_not_depend_on_earlier_images(detector, x):
    first = detector.anomaly_score(x).numpy()
    weights = [weight.numpy() for weight in detector.weights]
    detector.anomaly_score(-x)
    np.testing.assert_array_equal(detector.anomaly_score(x), first)
    for before, after in zip(weights, detector.weights, strict=True):
        np.testing.assert_array_equal(before, after)  # these include the running averages


def test_the_best_restart_counts(x):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("AnoGAN", warm_start=False, restarts=3)
    enlarge_kernels(detector.generator)
    losses = [detector.search(x, tf.repeat(z_0[None], 8, axis=0))[1] for z_0 in detector.starting_points]
    z, loss = detector.best_search(x)
    np.testing.assert_allclose(loss, np.min(losses, axis=0), rtol=1e-3)
    assert len(set(np.argmin(losses, axis=0))) > 1
    np.testing.assert_allclose(detector.search_loss(x, detector.discriminator(x)[0], z), loss, rtol=1e-4)


def test_fast_validation_is_short_and_needs_no_compilation(detector, images):
    traces = []
    score_and_reconstruct = detector.score_and_reconstruct
    detector.score_and_reconstruct = lambda x: traces.append(1) or score_and_reconstruct(x)
    batches = tf.data.Dataset.from_tensor_slices(images[:8]).batch(8, drop_remainder=True)
    scores = detector.score_batches(batches, 8)["paper"]
    with detector.fast_validation():
        assert int(detector.steps) == 2
        scores_in_validation = detector.score_batches(batches, 8)["paper"]
    assert int(detector.steps) == 20
    assert (scores < scores_in_validation).all()
    assert len(traces) == 1


@pytest.mark.slow
def test_the_warm_start_fits_only_the_encoder_and_lowers_the_loss(images):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("AnoGAN", gamma=0, encoder_steps=60)
    enlarge_kernels(detector.generator)
    x = tf.constant(images)
    cold, cold_reconstructions = detector.anomaly_score(x).numpy(), detector.reconstruct(x)
    assert not detector.has_fitted_encoder
    assert set(detector.scores(x)) == {"paper", "residual", "discriminator"}
    fixed_weights = [*detector.generator.weights, *detector.discriminator.weights]
    before = [weight.numpy() for weight in fixed_weights]
    detector.after_fit(images)
    assert detector.has_fitted_encoder
    for value, weight in zip(before, fixed_weights, strict=True):
        np.testing.assert_array_equal(value, weight)
    warm = detector.anomaly_score(x).numpy()
    expected = detector.search_loss(x, detector.discriminator(x)[0], detector.encoder(x))
    np.testing.assert_allclose(warm, expected, rtol=1e-5)
    assert warm.mean() < cold.mean()
    reconstructions = detector.generator(detector.encoder(x))
    np.testing.assert_allclose(detector.reconstruct(x), reconstructions, rtol=1e-4, atol=1e-5)
    assert not np.allclose(reconstructions, cold_reconstructions, atol=1e-2)
    detector.fit_memory_banks(images)
    assert {"latent_neighbours", "mahalanobis"} <= set(detector.scores(x))


@pytest.mark.slow
def test_the_fitted_encoder_is_stored(images, tmp_path):
    detector = tiny_detector("AnoGAN")
    detector.after_fit(images)
    detector.save_networks(tmp_path / "model.weights.h5")
    other = tiny_detector("AnoGAN")
    other.load_networks(tmp_path / "model.weights.h5")
    assert other.has_fitted_encoder


@pytest.mark.parametrize("score", ["latent_neighbours", "mahalanobis_excess"])
def test_scores_of_codes_need_a_warm_start(score):
    with pytest.raises(ValidationError, match="needs an encoder: set warm_start to true"):
        AnoGANHyperparameters(score=score)
    assert AnoGANHyperparameters(score=score, warm_start=True).score == score
