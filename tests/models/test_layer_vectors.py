"""The vectors that summarise the layers of networks, compared with NumPy, and the activations that each GAN gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.layer_vectors import layer_vectors, pathway, pooled
from tests.conftest import tiny_detector

GENERATOR = np.random.default_rng(0)
MAPS = GENERATOR.normal(size=(4, 5, 6, 3))  # (batch, height, width, channels)
OTHER_MAPS = GENERATOR.normal(size=(4, 2, 2, 7))
CODES = GENERATOR.normal(size=(4, 6))


def float32(*arrays):
    return [tf.constant(array, tf.float32) for array in arrays]


def test_pooling_by_hand():
    """Two places with the values 3 and 4: their mean is 3.5, their root mean square the root of 25/2."""
    maps = tf.constant([[[[3.0]], [[4.0]]]])
    np.testing.assert_allclose(pooled([maps, tf.constant([[-2.0]])]), [[3.5, np.sqrt(12.5), -2]], rtol=1e-6)


def test_pooled_vectors_are_means_and_root_mean_squares():
    means = [maps.mean(axis=(1, 2)) for maps in (MAPS, OTHER_MAPS)]
    root_mean_squares = [np.sqrt((maps**2).mean(axis=(1, 2))) for maps in (MAPS, OTHER_MAPS)]
    expected = np.concatenate([means[0], root_mean_squares[0], means[1], root_mean_squares[1], CODES], axis=1)
    np.testing.assert_allclose(pooled(float32(MAPS, OTHER_MAPS, CODES)), expected, rtol=1e-5, atol=1e-6)


def test_the_pathway_is_the_root_mean_square_of_the_differences():
    others = [GENERATOR.normal(size=array.shape) for array in (MAPS, OTHER_MAPS, CODES)]
    expected = [
        np.sqrt(((MAPS - others[0]) ** 2).mean(axis=(1, 2))),
        np.sqrt(((OTHER_MAPS - others[1]) ** 2).mean(axis=(1, 2))),
        CODES - others[2],
    ]
    vectors = pathway(float32(MAPS, OTHER_MAPS, CODES), float32(*others))
    np.testing.assert_allclose(vectors, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_a_perfect_reconstruction_has_no_pathway():
    layers = float32(MAPS, CODES)
    np.testing.assert_allclose(pathway(layers, layers), np.zeros((4, 9)), atol=2e-6)


def test_the_pathway_follows_the_encoder_and_then_the_discriminator():
    encoder, encoder_hat, discriminator, discriminator_hat = (
        float32(array) for array in (MAPS, MAPS + 1, OTHER_MAPS, OTHER_MAPS - 2)
    )
    vectors = layer_vectors(encoder, encoder_hat, discriminator, discriminator_hat)
    np.testing.assert_allclose(vectors["pathway"], [[1, 1, 1, 2, 2, 2, 2, 2, 2, 2]] * 4, rtol=1e-5)
    np.testing.assert_array_equal(vectors["encoder_neighbours"], pooled(encoder))
    np.testing.assert_array_equal(vectors["discriminator_neighbours"], pooled(discriminator))


def trained_statistics(detector):
    """Gives the detector averages of batch normalisation that are not 0 and 1, and larger weights."""
    generator = np.random.default_rng(1)
    for variable in detector.variables:
        if variable.path.endswith("kernel"):
            variable.assign(generator.normal(0, 0.2, variable.shape))
        elif variable.path.endswith(("moving_mean", "moving_variance")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return detector


@pytest.fixture(scope="module")
def networks():
    """Every encoder and discriminator as (activations, what its call returns, shapes of the activations)."""
    keras.utils.set_random_seed(0)
    x = tf.constant(np.random.default_rng(3).uniform(-1, 1, (3, 16, 16, 1)), tf.float32)
    ganomaly, egbad, anogan = (trained_statistics(tiny_detector(name)) for name in ("GANomaly", "EGBAD", "AnoGAN"))
    egbad_with_activation = trained_statistics(tiny_detector("EGBAD", encoder_activation=True))
    found = {}
    encoders = {"GANomaly": ganomaly.encoder, "AnoGAN": anogan.encoder, "EGBAD": egbad.averages[0]}
    encoders["EGBAD with activation"] = egbad_with_activation.averages[0]
    for name, encoder in encoders.items():
        found[f"E of {name}"] = encoder.activations(x), encoder(x)
    for name, detector in (("GANomaly", ganomaly), ("AnoGAN", anogan)):
        found[f"D of {name}"] = detector.discriminator.activations(x), detector.discriminator(x)[0]
    code = egbad.averages[0](x)
    found["D of EGBAD"] = egbad.averages[2].activations(x, code), egbad.averages[2](x, code)[0]
    return found


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("E of GANomaly", [(8, 8, 4), (4, 4, 8), (6,)]),
        ("E of AnoGAN", [(8, 8, 4), (4, 4, 8), (6,)]),
        ("E of EGBAD", [(8, 8, 4), (4, 4, 8), (6,)]),
        ("E of EGBAD with activation", [(16, 16, 2), (8, 8, 4), (4, 4, 8), (6,)]),
        ("D of GANomaly", [(8, 8, 4), (4, 4, 8)]),
        ("D of AnoGAN", [(8, 8, 4), (4, 4, 8)]),
        ("D of EGBAD", [(8, 8, 4), (4, 4, 4), (64,)]),
    ],
)
def test_activations_are_those_of_every_layer(networks, name, shapes):
    """The last one is what the network returns, outside of training."""
    activations, output = networks[name]
    assert [tuple(activation.shape[1:]) for activation in activations] == shapes
    np.testing.assert_allclose(activations[-1], output, rtol=1e-5, atol=1e-6)
    for activation in activations:
        assert np.ptp(activation, axis=0).max() > 1e-3  # images differ in every layer


@pytest.mark.parametrize("method", ["AnoGAN", "EGBAD", "GANomaly"])
def test_a_detector_that_reproduces_the_image_has_no_pathway(method, monkeypatch):
    """The generator is replaced by one that returns the image, so that all activations are equal."""
    x = tf.constant(np.random.default_rng(3).uniform(-1, 1, (3, 16, 16, 1)), tf.float32)
    detector = trained_statistics(tiny_detector(method, **({"gamma": 0} if method == "AnoGAN" else {})))
    if method == "AnoGAN":
        detector.is_fitted.assign(1.0)
    assert np.abs(detector.vectors(x)["pathway"]).max() > 0.1
    if method == "EGBAD":
        encoder, _, discriminator = detector.averages
        monkeypatch.setattr(detector, "averages", (encoder, lambda _: x, discriminator))
    else:
        monkeypatch.setattr(detector, "decoder" if method == "GANomaly" else "generator", lambda _: x)
    vectors = detector.vectors(x)
    assert vectors["pathway"].shape[1] == {"AnoGAN": 30, "EGBAD": 90, "GANomaly": 30}[method]
    np.testing.assert_allclose(vectors["pathway"], 0, atol=2e-6)


def test_the_pathway_of_anogan_without_an_encoder_follows_the_searched_image(images):
    """It compares x with G(z) at the end of the search in all layers of D."""
    detector = trained_statistics(tiny_detector("AnoGAN", warm_start=False))
    x = tf.constant(images)
    vectors = detector.score_and_reconstruct(x).vectors
    assert set(vectors) == {"feature_neighbours", "discriminator_neighbours", "pathway"}
    x_hat = detector.reconstruct(x)
    differences = [
        (np.asarray(a, np.float64) - np.asarray(b, np.float64))
        for a, b in zip(detector.discriminator.activations(x), detector.discriminator.activations(x_hat), strict=True)
    ]
    expected = np.concatenate([np.sqrt((d**2).mean(axis=(1, 2))) for d in differences], axis=1)
    np.testing.assert_allclose(vectors["pathway"], expected, rtol=1e-3, atol=1e-4)
    assert detector.memory_banks["pathway"].is_empty
    detector.fit_memory_banks(images)
    scores = detector.scores(x)
    assert set(vectors) <= set(scores)
    assert not {"encoder_neighbours", "latent_neighbours", "mahalanobis"} & set(scores)
    np.testing.assert_allclose(scores["pathway"], detector.memory_banks["pathway"](vectors["pathway"]), rtol=1e-3)


def test_the_pathway_of_anogan_is_fitted_to_the_searched_images_alone(images, monkeypatch):
    """Ten images in batches of eight: the last batch is filled up with images that must not count."""
    monkeypatch.setattr("anomaly_toolbox.models.anogan.SEARCHED_IMAGES", 10)
    detector = tiny_detector("AnoGAN", warm_start=False)
    fitted = []
    bank = detector.memory_banks["pathway"]
    monkeypatch.setattr(bank, "fit", lambda vectors: fitted.append(vectors) or type(bank).fit(bank, vectors))
    calls = []
    detector.fit_memory_banks(images, lambda *numbers: calls.append(numbers))
    (vectors,) = fitted
    expected = detector.score_and_reconstruct(tf.constant(images[:10])).vectors["pathway"]
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-5)
    assert calls == [(1, 2), (2, 2), (1, 2), (2, 2)]  # the vectors of all images, then the search
