"""The losses, compared with values computed by hand and with NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import losses
from tests.conftest import sigmoid


def test_discriminator_loss_is_two_log_two_at_logits_0():
    zeros = tf.zeros((3, 1))
    assert losses.discriminator_loss(zeros, zeros).numpy() == pytest.approx(2 * np.log(2), rel=1e-6)


def test_discriminator_loss_is_equation_1():
    real, fake = np.array([[2.0], [-1.0]]), np.array([[0.5], [-3.0]])
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    assert losses.discriminator_loss(tf.constant(real), tf.constant(fake)).numpy() == pytest.approx(expected)


def test_discriminator_loss_falls_when_the_discriminator_is_right():
    large, small = tf.constant([[5.0]]), tf.constant([[0.1]])
    assert losses.discriminator_loss(large, -large) < losses.discriminator_loss(small, -small)


def test_discriminator_loss_is_finite_for_extreme_logits():
    assert np.isfinite(losses.discriminator_loss(tf.constant([[-200.0]]), tf.constant([[200.0]])))


def test_generator_loss_is_the_non_saturating_form_of_equation_1():
    fake = np.array([[0.5], [-3.0]])
    expected = -np.log(sigmoid(fake)).mean()
    assert losses.generator_loss(tf.constant(fake)).numpy() == pytest.approx(expected)
    assert losses.generator_loss(tf.zeros((2, 1))).numpy() == pytest.approx(np.log(2), rel=1e-6)


def test_generator_loss_has_a_gradient_for_a_confident_discriminator():
    logit = tf.Variable([[-20.0]])
    with tf.GradientTape() as tape:
        loss = losses.generator_loss(logit)
    assert tape.gradient(loss, logit).numpy() == pytest.approx(-1, rel=1e-4)


def test_l1_and_l2_are_means_over_elements():
    a, b = tf.constant([[0.0, 2.0], [1.0, -1.0]]), tf.constant([[1.0, 2.0], [-2.0, -1.0]])
    assert losses.l1(a, b).numpy() == pytest.approx((1 + 0 + 3 + 0) / 4)
    assert losses.l2(a, b).numpy() == pytest.approx((1 + 0 + 9 + 0) / 4)


def test_l1_per_image_keeps_images_apart():
    a = tf.constant([[[1.0], [3.0]], [[0.0], [0.0]]])
    np.testing.assert_allclose(losses.l1_per_image(a, tf.zeros_like(a)), [2.0, 0.0])


def test_l1_per_pixel_is_a_mean_over_channels():
    a = tf.constant([[[[1.0, -3.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(losses.l1_per_pixel(a, tf.zeros_like(a)), [[[2.0, 0.0]]])


def test_l1_norm_is_a_sum_over_each_image():
    a = tf.constant([[[1.0], [3.0]], [[0.0], [-0.5]]])
    np.testing.assert_allclose(losses.l1_norm(a, tf.zeros_like(a)), [4.0, 0.5])


def test_distance_is_the_euclidean_one_of_equation_12():
    np.testing.assert_allclose(
        losses.distance(tf.constant([[3.0, 0.0], [1.0, 1.0]]), tf.constant([[0.0, 4.0], [1.0, 1.0]])), [5, 0]
    )


def test_critic_loss_is_the_difference_of_the_means():
    real, fake = tf.constant([[3.0], [1.0]]), tf.constant([[0.5], [-0.5], [3.0]])
    assert losses.critic_loss(real, fake).numpy() == pytest.approx(1 - 2)
    assert losses.critic_loss(fake, real).numpy() == pytest.approx(2 - 1)


def linear_critic(coefficients):
    """C(x) = a·x, whose gradient is a everywhere."""
    return lambda x: tf.reduce_sum(coefficients * x, axis=(1, 2, 3))[:, tf.newaxis]


@pytest.mark.parametrize(("coefficients", "penalty"), [((3, 4), 16), ((0.6, 0.8), 0), ((0.3, 0.4), 0.25), ((0, 0), 1)])
def test_gradient_penalty_of_a_linear_critic(coefficients, penalty):
    """It is (‖a‖ − 1)² for any images, however many there are."""
    a = tf.reshape(tf.constant(coefficients, tf.float32), (1, 2, 1))
    points = tf.random.stateless_normal((5, 1, 2, 1), (1, 2))
    assert losses.gradient_penalty(linear_critic(a), points).numpy() == pytest.approx(penalty, abs=1e-5)


def test_gradient_penalty_is_a_mean_over_images():
    """C(x) = ‖x‖² / 2 has the gradient x: the norms are 5 and 2."""
    points = tf.reshape(tf.constant([[3.0, 4.0], [0.0, -2.0]]), (2, 1, 2, 1))
    half_square = lambda x: tf.reduce_sum(x**2, axis=(1, 2, 3))[:, tf.newaxis] / 2  # noqa: E731
    assert losses.gradient_penalty(half_square, points).numpy() == pytest.approx((4**2 + 1**2) / 2)


@pytest.mark.parametrize(("coefficients", "slopes"), [((3, 4), (4.8, 6.4)), ((0, 0), (0, 0))])
def test_gradient_penalty_trains_the_critic(coefficients, slopes):
    """The gradient of (‖a‖ − 1)² is 2 (‖a‖ − 1) a / ‖a‖; where a = 0, it is finite."""
    a = tf.Variable(tf.reshape(tf.constant(coefficients, tf.float32), (1, 2, 1)))
    with tf.GradientTape() as tape:
        loss = losses.gradient_penalty(linear_critic(a), tf.ones((3, 1, 2, 1)))
    np.testing.assert_allclose(np.ravel(tape.gradient(loss, a)), slopes, atol=1e-5)


def test_l2_per_image_is_a_mean_of_each_image():
    a = tf.constant([[[1.0], [-3.0]], [[0.0], [0.5]]])
    np.testing.assert_allclose(losses.l2_per_image(a, tf.zeros_like(a)), [5.0, 0.125])
