"""The search of latent vectors, for losses and generators that can be computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.hyperparameters import SearchHyperparameters
from anomaly_toolbox.models.latent_search import SearchingGAN, adam_step, minimise
from tests.conftest import TINY_IMAGES

TARGETS = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 0.0]])
CURVATURES = np.array([[1.0, 10.0], [0.1, 2.0], [5.0, 0.5]])
Z_0 = np.array([[0.0, 0.0], [2.0, -1.0], [0.3, -0.2]])


def loss(z):
    """A parabola for each vector."""
    return tf.reduce_sum(tf.constant(CURVATURES, tf.float32) * (z - tf.constant(TARGETS, tf.float32)) ** 2, axis=1)


def adam_in_numpy(steps, learning_rate):
    """z_Γ by the equations of Kingma and Ba."""
    z, m, v = Z_0.copy(), np.zeros_like(Z_0), np.zeros_like(Z_0)
    for t in range(1, steps + 1):
        gradient = 2 * CURVATURES * (z - TARGETS)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        z = z - learning_rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-12)
    return z


@pytest.mark.parametrize("steps", [0, 1, 2, 30])
def test_minimise_is_adam_of_numpy(steps):
    z = minimise(loss, tf.constant(Z_0, tf.float32), tf.constant(steps), 0.1)
    np.testing.assert_allclose(z, adam_in_numpy(steps, 0.1), rtol=1e-4, atol=1e-5)


def test_the_first_step_is_as_long_as_the_learning_rate_in_each_coordinate():
    zeros = tf.zeros((3, 2))
    z_0 = tf.constant(Z_0, tf.float32)
    step, z, first_moment, second_moment = adam_step(loss, 0.25, tf.constant(0), z_0, zeros, zeros)
    gradient = 2 * CURVATURES * (Z_0 - TARGETS)
    np.testing.assert_allclose(z, Z_0 - 0.25 * np.sign(gradient), atol=1e-4)
    assert int(step) == 1
    np.testing.assert_allclose(first_moment, 0.1 * gradient, rtol=1e-4)
    np.testing.assert_allclose(second_moment, 0.001 * gradient**2, rtol=1e-4)


class PlainImages(SearchingGAN):
    """G(z, c) is an image of the grey level z + c, and f(x) = 3x."""

    def generate(self, z, *conditions):
        level = sum(conditions, z)
        return tf.tile(level[:, :, tf.newaxis, tf.newaxis], (1, 16, 16, 1))

    def features(self, x):
        return 3 * x


def detector_with(**settings):
    return PlainImages(
        SearchHyperparameters(**{**TINY_IMAGES, "latent_vector_size": 1, "lambda_": 0.25, **settings}), 1
    )


def images_of(levels):
    return tf.tile(tf.reshape(tf.constant(levels, tf.float32), (-1, 1, 1, 1)), (1, 16, 16, 1))


def loss_of(differences):
    """0.75 ‖x − x̂‖₁ + 0.25 ‖3x − 3x̂‖₁, for 256 pixels."""
    return (0.75 + 0.25 * 3) * 256 * np.abs(differences)


def test_search_loss_with_a_condition():
    detector, x = detector_with(), images_of([0.5, -0.25])
    z, condition = tf.constant([[0.25], [0.5]]), tf.constant([[0.125], [-1.0]])
    losses = detector.search_loss(x, detector.features(x), z, condition)
    np.testing.assert_allclose(losses, loss_of([0.125, 0.25]), rtol=1e-6)
    np.testing.assert_allclose(detector.search_loss(x, 3 * x, z), loss_of([0.25, 0.75]), rtol=1e-6)


STARTS = np.array([0.0, 0.0, 1.0])
CONDITIONS = np.array([[0.5, -8.0], [-0.25, 4.0], [-0.25, 2.0]])  # their sums are the levels 0.5, -0.25 and 0.75
LEVELS = np.array([0.75, 0.4, -0.25, 0.5])


def best_of_searches(detector):
    """Of three starts for four images; the condition has two parts, of which the first is added to z."""
    starts = tf.constant(np.tile(STARTS[:, np.newaxis, np.newaxis], (1, 4, 1)), tf.float32)
    conditions = [np.tile(CONDITIONS[:, np.newaxis, i : i + 1], (1, 4, 1)) for i in range(2)]
    shifts, names = (tf.constant(values, tf.float32) for values in conditions)
    return detector.best_of_searches(images_of(LEVELS), starts, shifts, 0 * names), (shifts, names)


def test_each_image_keeps_its_best_search_and_the_conditions_of_it():
    """Without steps, the best start is known."""
    (lowest, z, shift, _), _ = best_of_searches(detector_with(gamma=0))
    np.testing.assert_allclose(lowest, loss_of([0, 0.1, 0, 0]), atol=1e-4)
    np.testing.assert_array_equal(z, [[1], [0], [0], [0]])
    np.testing.assert_array_equal(shift, [[-0.25], [0.5], [-0.25], [0.5]])


def test_the_best_search_is_known_after_the_steps_only():
    """One step of 0.1 takes z + c from 0.5 to 0.4, the level of the second image."""
    (lowest, z, shift, _), _ = best_of_searches(detector_with(gamma=1, search_learning_rate=0.1))
    assert lowest.numpy()[1] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose([z[1, 0], shift[1, 0]], [-0.1, 0.5], atol=1e-5)


def test_restarts_begin_at_the_same_vectors_in_every_detector():
    first, second = (detector_with(restarts=4, latent_vector_size=6).starting_points for _ in range(2))
    assert first.shape == (4, 6)
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 24


@pytest.mark.parametrize("fails", [False, True])
def test_fast_validation_has_its_own_number_of_steps(fails):
    """The number is as before afterwards, even if the validation fails."""
    detector = detector_with(gamma=7, validation_gamma=2)

    def validate():
        with detector.fast_validation():
            assert int(detector.steps) == 2
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            validate()
    else:
        validate()
    assert int(detector.steps) == 7
