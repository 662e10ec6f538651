"""f-AnoGAN: its equations, the steps of its critic, and the encoder that is fitted after the epochs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.fanogan import FAnoGANHyperparameters
from tests.conftest import (
    copy_weights,
    enlarge_kernels,
    float64,
    has_changed,
    networks_changed_by,
    record_updates,
    tiny_detector,
)


def new_detector(**changes):
    keras.utils.set_random_seed(0)
    detector = tiny_detector("FAnoGAN", **changes)
    enlarge_kernels(detector.generator, detector.critic)
    return detector


@pytest.fixture
def detector():
    return new_detector(kappa=0.5, gradient_penalty_weight=3.0)


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def random_numbers(detector):
    """What the next step draws: z and ε for each of the two critic steps, and z for G's."""
    detector.begin_epoch(0)
    of_critic = []
    for _ in range(2):
        z = layers.normal((4, 6), detector.noise)
        of_critic.append((z, float64(layers.uniform((4, 1, 1, 1), detector.noise))))
    z = layers.normal((4, 6), detector.noise)
    detector.begin_epoch(0)
    return of_critic, z


def critic_in_float64(detector):
    """C as a function of arrays, (n, 16, 16, 1) -> (n,)."""
    try:
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        critic = layers.Discriminator(16, 4, 1, normalised=False)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    critic.set_weights(detector.critic.get_weights())
    return lambda x: critic(tf.constant(x, tf.float64))[1].numpy()[:, 0]


def gradient_norms(critic, points, step=1e-6):
    """The norm of the critic's gradient at each image, by central differences."""
    norms = []
    for point in points:
        shifts = step * np.eye(point.size).reshape(-1, *point.shape)
        slopes = (critic(point + shifts) - critic(point - shifts)) / (2 * step)
        norms.append(np.linalg.norm(slopes))
    return np.array(norms)


def test_losses_of_critic_and_generator(detector, x, monkeypatch):
    """Two critic steps, on the two halves of the batch, and one of G; compared with NumPy in float64."""
    of_critic, z = random_numbers(detector)
    recorded = record_updates(detector, monkeypatch)
    reported = detector.train_step(x)
    assert [name for name, _ in recorded] == ["c", "c", "g", "e"]
    critic = critic_in_float64(detector)
    halves = float64(x[:4]), float64(x[4:])
    for real, (z_of_critic, share), (_, loss) in zip(halves, of_critic, recorded[:2], strict=True):
        generated = float64(detector.generator(z_of_critic, training=True))
        penalty = ((gradient_norms(critic, share * real + (1 - share) * generated) - 1) ** 2).mean()
        distance = critic(generated).mean() - critic(real).mean()
        assert loss == pytest.approx(distance + 3 * penalty, rel=1e-4)
        assert penalty > 0.01  # the terms are no rounding errors
        assert abs(distance) > 0.01
    assert float(reported["penalty"]) == pytest.approx(penalty, rel=1e-3)
    assert float(reported["c_loss"]) == pytest.approx(recorded[1][1])
    generator_loss = -critic(float64(detector.generator(z, training=True))).mean()
    assert recorded[2][1] == pytest.approx(generator_loss, rel=1e-4)
    assert float(reported["g_loss"]) == pytest.approx(recorded[2][1])


def differences(detector, x, code):
    """mean (x − G(E(x)))² + κ mean (f(x) − f(G(E(x))))² of each image, for κ = 0.5."""
    x_hat = detector.generator(code)
    features, features_hat = float64(detector.critic(x)[0]), float64(detector.critic(x_hat)[0])
    assert features.shape[1:] == (4, 4, 8)  # C's last map, not its output
    residual = ((float64(x) - float64(x_hat)) ** 2).mean(axis=(1, 2, 3))
    of_features = ((features - features_hat) ** 2).mean(axis=(1, 2, 3))
    assert of_features.min() > 0.01 * residual.min()
    return residual + 0.5 * of_features


def test_loss_of_the_encoder(detector, x, monkeypatch):
    """E sees the first half of the batch, and G generates as it does when it scores images."""
    recorded = record_updates(detector, monkeypatch)
    reported = detector.train_step(x)
    expected = differences(detector, x[:4], detector.encoder(x[:4], training=True)).mean()
    assert recorded[3] == ("e", pytest.approx(expected, rel=1e-4))
    assert float(reported["e_loss"]) == pytest.approx(recorded[3][1])


def test_the_score_is_the_same_expression(detector, images):
    expected = differences(detector, images, detector.encoder(images))
    np.testing.assert_allclose(detector.anomaly_score(images), expected, rtol=1e-4)
    np.testing.assert_allclose(detector.reconstruct(images), detector.generator(detector.encoder(images)), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["c", "g", "e"])
def test_each_optimizer_changes_only_its_own_network(detector, x, optimizer, monkeypatch):
    networks = {"c": detector.critic, "g": detector.generator, "e": detector.encoder}
    assert networks_changed_by(optimizer, detector, networks, x, monkeypatch) == [optimizer]


def test_the_critic_takes_several_steps_for_each_of_the_generator(detector, x):
    detector.train_step(x)
    assert {name: int(optimizer.iterations) for name, optimizer in detector.optimizers.items()} == {
        "c": 2,
        "g": 1,
        "e": 1,
    }


def test_betas_are_those_of_the_paper(detector):
    betas = {name: (optimizer.beta_1, optimizer.beta_2) for name, optimizer in detector.optimizers.items()}
    assert betas == {"c": (0.0, 0.9), "g": (0.0, 0.9), "e": (0.5, 0.999)}


def test_the_critic_has_no_batch_normalisation(detector):
    """The penalty refers to the gradient of each image by itself."""
    assert {weight.name for weight in detector.critic.weights} == {"kernel"}


def test_only_the_encoder_is_fitted_after_the_epochs(detector, images, monkeypatch, eager):
    """G and C stay, with the running averages of batch normalisation; a batch has as many images as a critic step."""
    batch_sizes = []
    encoder_loss = detector.encoder_loss

    def record_batch_size(x):
        batch_sizes.append(len(x))
        return encoder_loss(x)

    monkeypatch.setattr(detector, "encoder_loss", record_batch_size)
    before = copy_weights(detector.encoder)
    still = [*detector.generator.weights, *detector.critic.weights]
    values_before = [weight.numpy() for weight in still]
    detector.after_fit(images)
    assert batch_sizes == [4, 4, 4]
    assert has_changed(before, detector.encoder)
    for value, weight in zip(values_before, still, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_the_encoder_need_not_be_fitted_after_the_epochs(images, monkeypatch):
    detector = new_detector(encoder_steps=0)
    monkeypatch.setattr(detector, "encoder_loss", None)  # a call would be an error
    detector.after_fit(images)


def test_averages_score_images_and_teach_the_encoder(x):
    """They count training steps, not those of C: the decay in the first step is 1 / 10."""
    detector = new_detector(weight_averaging=0.5)
    before = [float64(weight) for average in detector.averages for weight in average.weights]
    detector.train_step(x)
    networks = detector.trained
    latest = [float64(weight) for network in networks for weight in network.weights]
    averaged = [weight for average in detector.averages for weight in average.weights]
    for old, new, weight in zip(before, latest, averaged, strict=True):
        np.testing.assert_allclose(weight, 0.1 * old + 0.9 * new, rtol=1e-4, atol=1e-6)
    loss, scores = float(detector.encoder_loss(x)), detector.anomaly_score(x).numpy()
    for network in networks:
        network.set_weights([np.zeros_like(weight) for weight in network.get_weights()])
    np.testing.assert_allclose(detector.anomaly_score(x), scores, rtol=1e-5)
    assert float(detector.encoder_loss(x)) == pytest.approx(loss)


def test_tanh_bounds_codes(images):
    linear, bounded = new_detector(), new_detector(code_activation="tanh")
    enlarge_kernels(linear.encoder, factor=30)
    bounded.encoder.set_weights(linear.encoder.get_weights())
    codes = {name: detector.vectors(images)["latent_neighbours"].numpy() for name, detector in
             (("linear", linear), ("tanh", bounded))}  # fmt: skip
    assert np.abs(codes["linear"]).max() > 2
    assert np.abs(codes["tanh"]).max() <= 1
    np.testing.assert_allclose(codes["tanh"], np.tanh(float64(codes["linear"])), rtol=1e-4, atol=1e-6)


def test_each_critic_step_takes_a_part_of_the_batch(x, monkeypatch):
    detector = new_detector(critic_steps=3)
    parts = []
    critic_step = detector.critic_step
    monkeypatch.setattr(detector, "critic_step", lambda part: parts.append(part) or critic_step(part))
    detector.train_step(x)
    assert [len(part) for part in parts] == [3, 3, 2]
    np.testing.assert_array_equal(tf.concat(parts, axis=0), x)
    with pytest.raises(ValidationError, match="batch_size: expected at least critic_steps, 5, received 4"):
        FAnoGANHyperparameters(batch_size=4)


def test_learning_rates_reach_0_after_the_steps_of_the_training(detector, x, monkeypatch):
    """In 4 training steps; the rate of C also falls between its own two steps."""
    detector.decay_steps = 4
    used_rates = {name: [] for name in detector.optimizers}

    def record_rate(name, loss, tape, update=detector.update):
        used_rates[name].append(float(detector.optimizers[name].learning_rate))
        update(name, loss, tape)

    monkeypatch.setattr(detector, "update", record_rate)
    for _ in range(5):
        detector.train_step(x)
    shares = np.array([1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(used_rates["g"], 1e-4 * shares, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(used_rates["e"], 1e-3 * shares, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(used_rates["c"][::2], 1e-4 * shares, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(used_rates["c"][1::2], 1e-4 * np.array([0.875, 0.625, 0.375, 0.125, 0]), rtol=1e-5,
                               atol=1e-10)  # fmt: skip
