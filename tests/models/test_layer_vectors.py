"""The vectors of all layers, compared with NumPy in float64, and the scores that need the layers of a GAN."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.layer_vectors import layer_vectors, pathway, pooled
from tests.conftest import tiny_detector

GENERATOR = np.random.default_rng(3)
MAPS = GENERATOR.normal(size=(2, 3, 3, 4)).astype(np.float32)
OTHER_MAPS = GENERATOR.normal(size=(2, 3, 3, 4)).astype(np.float32)
CODES = GENERATOR.normal(size=(2, 5)).astype(np.float32)
OTHER_CODES = GENERATOR.normal(size=(2, 5)).astype(np.float32)
GANS = ("AnoGAN", "EGBAD", "GANomaly")


def test_pooled_layers_by_hand():
    """A channel with the values 1, -1, 1, -1 has the mean 0 and the root mean square 1."""
    channel = np.array([1, -1, 1, -1], np.float32).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(pooled([channel, np.array([[7.0]], np.float32)]), [[0, 1, 7]], atol=1e-6)


def test_pooled_layers_equal_numpy():
    maps = MAPS.astype(np.float64)
    expected = [maps.mean(axis=(1, 2)), np.sqrt((maps**2).mean(axis=(1, 2))), CODES]
    np.testing.assert_allclose(pooled([MAPS, CODES]), np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_the_pathway_equals_numpy():
    differences = MAPS.astype(np.float64) - OTHER_MAPS
    expected = [np.sqrt((differences**2).mean(axis=(1, 2))), CODES - OTHER_CODES]
    actual = pathway([MAPS, CODES], [OTHER_MAPS, OTHER_CODES])
    np.testing.assert_allclose(actual, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_the_pathway_of_a_perfect_reconstruction_is_0():
    vectors = layer_vectors([MAPS, CODES], [MAPS, CODES], [OTHER_MAPS], [OTHER_MAPS])
    np.testing.assert_allclose(vectors["pathway"], 0, atol=2e-6)
    assert vectors["pathway"].shape == (2, 4 + 5 + 4)
    assert vectors["encoder_neighbours"].shape == (2, 4 + 4 + 5)
    assert vectors["discriminator_neighbours"].shape == (2, 4 + 4)


def test_activations_end_with_what_the_networks_return(images):
    x = tf.constant(images)
    ganomaly = tiny_detector("GANomaly")
    np.testing.assert_allclose(ganomaly.encoder.activations(x)[-1], ganomaly.encoder(x), atol=1e-6)
    features, _ = ganomaly.discriminator(x)
    np.testing.assert_allclose(ganomaly.discriminator.activations(x)[-1], features, atol=1e-6)
    assert [a.shape[1:] for a in ganomaly.encoder.activations(x)] == [(8, 8, 4), (4, 4, 8), (6,)]

    encoder, _, discriminator = tiny_detector("EGBAD").averages
    code = encoder(x)
    np.testing.assert_allclose(encoder.activations(x)[-1], code, atol=1e-6)
    features, _ = discriminator(x, code)
    np.testing.assert_allclose(discriminator.activations(x, code)[-1], features, atol=1e-6)


@pytest.mark.parametrize("method", GANS)
def test_the_discriminators_score_is_softplus_of_its_negative_logit(method, images):
    detector = tiny_detector(method)
    output = detector.score_and_reconstruct(tf.constant(images))
    logits = output.logit.numpy()[:, 0].astype(np.float64)
    scores = detector.scores(tf.constant(images))["discriminator"]
    np.testing.assert_allclose(scores, np.log1p(np.exp(-logits)), rtol=1e-5)
    assert len(np.unique(scores)) == len(images)


def test_without_a_warm_start_anogans_pathway_follows_the_search(images):
    detector = tiny_detector("AnoGAN", warm_start=False)
    detector.fit_scores(np.concatenate([images, -images]))
    scores = detector.scores(tf.constant(images))
    assert {"pathway", "discriminator_neighbours"} <= set(scores)
    assert not {"encoder_neighbours", "latent_neighbours", "mahalanobis"} & set(scores)
    reconstructions = detector.reconstruct(tf.constant(images))
    _, discriminator = detector.scoring
    vectors = pathway(discriminator.activations(images), discriminator.activations(reconstructions))
    np.testing.assert_allclose(scores["pathway"], detector.memory_banks["pathway"](vectors), rtol=1e-4)
