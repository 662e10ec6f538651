"""The shapes of the shared networks, and dropout."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import layers
from tests.conftest import enlarge_kernels, float64, spectral_norms


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


def test_uniform_draws_from_0_to_1_and_goes_on():
    noise = keras.random.SeedGenerator(3)
    first, second = (layers.uniform((4000, 2), noise).numpy() for _ in range(2))
    assert first.dtype == np.float32
    assert 0 <= first.min() < 0.01 < 0.99 < first.max() < 1
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    assert first.std() == pytest.approx(np.sqrt(1 / 12), abs=0.02)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layers.uniform((4000, 2), keras.random.SeedGenerator(3)), first)


NETWORKS = {
    "down": lambda spectral: layers.down(16, 4, 1, spectral=spectral),
    "Encoder": lambda spectral: layers.Encoder(16, 4, 1, 6, spectral=spectral),
    "Discriminator": lambda spectral: layers.Discriminator(16, 4, 1, spectral=spectral),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_spectral_normalisation_reaches_every_kernel(name, images):
    """Kernels have a largest singular value of 1 after many calls in training; other calls leave them as they are."""
    keras.utils.set_random_seed(0)  # singular values that are close to each other would take more calls
    network = NETWORKS[name](True)
    initial = spectral_norms(network)
    network(images)
    assert spectral_norms(network) == initial
    for _ in range(40):
        network(images, training=True)
    norms = spectral_norms(network)
    assert len(norms) == len(spectral_norms(NETWORKS[name](False))) >= 2
    assert list(norms.values()) == pytest.approx([1] * len(norms), rel=0.02)
    assert not any(norm == pytest.approx(1, rel=0.1) for norm in initial.values())


def test_without_spectral_normalisation_kernels_stay(images):
    network = layers.Encoder(16, 4, 1, 6)
    initial = spectral_norms(network)
    network(images, training=True)
    assert spectral_norms(network) == initial


def test_a_pyramid_without_batch_normalisation_keeps_images_apart(images):
    """In training too, the features of an image do not depend on the other images."""
    plain, normalised = (layers.down(16, 4, 1, normalised=choice) for choice in (False, True))
    for network, is_apart in ((plain, True), (normalised, False)):
        together = network(images, training=True)[:3].numpy()
        alone = network(images[:3], training=True).numpy()
        assert np.allclose(together, alone, rtol=1e-4, atol=1e-6) == is_apart
    assert [weight.name for weight in plain.weights] == ["kernel", "kernel"]


def test_the_activation_of_an_encoder_is_that_of_its_code(images):
    plain, bounded = layers.Encoder(16, 4, 1, 6), layers.Encoder(16, 4, 1, 6, activation="tanh")
    enlarge_kernels(plain, factor=30)
    bounded.set_weights(plain.get_weights())
    code = float64(plain(images))
    assert np.abs(code).max() > 2
    np.testing.assert_allclose(bounded(images), np.tanh(code), rtol=1e-4, atol=1e-6)
    *maps, last = bounded.activations(images)
    *plain_maps, plain_last = plain.activations(images)
    np.testing.assert_allclose(last, np.tanh(float64(plain_last)), rtol=1e-4, atol=1e-6)
    for feature_map, plain_map in zip(maps, plain_maps, strict=True):
        np.testing.assert_array_equal(feature_map, plain_map)
