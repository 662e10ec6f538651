"""The shapes of the shared networks, and dropout."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers


@pytest.mark.parametrize(
    ("image_size", "sizes"),
    [(16, [8, 4]), (32, [16, 8, 4]), (48, [24, 12, 6, 3]), (64, [32, 16, 8, 4]), (80, [40, 20, 10, 5])],
)
def test_pyramid_sizes(image_size, sizes):
    assert layers.pyramid_sizes(image_size) == sizes


def test_down_doubles_channels_at_each_halving():
    assert layers.down(32, 8, 3).output_shape == (None, 4, 4, 32)


def test_down_has_the_weights_of_its_docstring():
    shapes = [tuple(weight.shape) for weight in layers.down(32, 64, 1).weights if weight.name == "kernel"]
    assert shapes == [(4, 4, 1, 64), (4, 4, 64, 128), (4, 4, 128, 256)]


@pytest.mark.parametrize(("image_size", "channels"), [(16, 1), (48, 3)])
def test_up_mirrors_down(image_size, channels):
    images = layers.up(image_size, 4, channels, latent=5)(np.full((2, 5), 30.0, np.float32))
    assert images.shape == (2, image_size, image_size, channels)
    assert np.abs(images).max() <= 1


def test_dropout_drops_its_share_and_keeps_the_mean():
    layer, x = layers.Dropout(0.25), tf.ones((50, 13, 13, 8))
    y = layer(x, training=True).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(4 / 3)}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.01)
    assert np.mean(y == 0, axis=(1, 2, 3)) == pytest.approx(0.25, abs=0.06)
    assert not np.array_equal(y, layer(x, training=True))
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layers.Dropout(0.0)(x, training=True), x)


def test_dropout_is_the_same_with_xla():
    """The number of units, 21, is not a multiple of the four bytes of a random word."""
    x = tf.random.normal((7, 3))
    eager_dropout = layers.Dropout(0.5)
    compiled_dropout = layers.Dropout(0.5)
    compiled_dropout.noise.state.assign(eager_dropout.noise.state)
    compiled = tf.function(lambda x: compiled_dropout(x, training=True), jit_compile=True)
    np.testing.assert_allclose(eager_dropout(x, training=True), compiled(x), rtol=1e-6)
