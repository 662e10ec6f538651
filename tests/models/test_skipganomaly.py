"""Skip-GANomaly: its equations, its skip connections, and which network each loss trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.skipganomaly import UNet
from tests.conftest import enlarge_kernels, float64, networks_changed_by, record_updates, sigmoid, tiny_detector


@pytest.fixture
def detector():
    keras.utils.set_random_seed(0)
    detector = tiny_detector("SkipGANomaly", lambda_=0.75)
    enlarge_kernels(detector.generator, detector.discriminator)
    return detector


@pytest.fixture
def x(images):
    return tf.constant(images[:8])


def test_losses_are_those_of_numpy(detector, x, monkeypatch):
    """Compares them with NumPy in float64, from the outputs of the networks in training."""
    recorded = record_updates(detector, monkeypatch)
    reported = {name: float(value) for name, value in detector.train_step(x).items()}
    x_hat = detector.generator(x, training=True)
    features, real = detector.discriminator(x, training=True)
    features_hat, fake = detector.discriminator(x_hat, training=True)
    adversarial = -np.log(sigmoid(fake)).mean()  # not + log (1 − D): non-saturating
    contextual = np.abs(float64(x) - float64(x_hat)).mean()
    latent = ((float64(features) - float64(features_hat)) ** 2).mean()
    expected = {
        "adversarial": adversarial,
        "contextual": contextual,
        "latent": latent,
        "g_loss": 1 * adversarial + 40 * contextual + 1 * latent,
        "d_loss": -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
        "d_real": sigmoid(real).mean(),
        "d_fake": sigmoid(fake).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)
    assert recorded == [("g", pytest.approx(expected["g_loss"])), ("d", pytest.approx(expected["d_loss"]))]
    assert features.shape == (8, 4, 4, 100)
    assert latent > 0.01  # it is no rounding error
    assert abs(expected["d_real"] - expected["d_fake"]) > 0.01


@pytest.mark.parametrize("term", ["adversarial_loss_weight", "contextual_loss_weight", "latent_loss_weight"])
def test_each_term_trains_the_generator(x, term, monkeypatch):
    """Alone, with a weight of 3; L_G is then three times the term."""
    names = ["adversarial_loss_weight", "contextual_loss_weight", "latent_loss_weight"]
    detector = tiny_detector("SkipGANomaly", **{name: 3.0 * (name == term) for name in names})
    networks = {"g": detector.generator, "d": detector.discriminator}
    assert networks_changed_by("g", detector, networks, x, monkeypatch) == ["g"]
    means = {name: float(mean.result()) for name, mean in detector.means.items()}
    assert means["g_loss"] == pytest.approx(3 * means[term.removesuffix("_loss_weight")], rel=1e-5)


def test_the_discriminator_has_an_optimizer_of_its_own(detector, x, monkeypatch):
    networks = {"g": detector.generator, "d": detector.discriminator}
    assert networks_changed_by("d", detector, networks, x, monkeypatch) == ["d"]


def test_the_score_has_the_residual_and_the_features(detector, images):
    """0.75 mean (x − x̂)² + 0.25 mean (f(x) − f(x̂))² of each image, in float64."""
    x_hat = detector.generator(images)
    features, features_hat = (float64(detector.discriminator(x)[0]) for x in (images, x_hat))
    residual = ((images - float64(x_hat)) ** 2).mean(axis=(1, 2, 3))
    latent = ((features - features_hat) ** 2).mean(axis=(1, 2, 3))
    assert latent.min() > 0.01 * residual.max()
    np.testing.assert_allclose(detector.anomaly_score(images), 0.75 * residual + 0.25 * latent, rtol=1e-4)
    np.testing.assert_allclose(detector.reconstruct(images), x_hat, rtol=1e-4, atol=1e-6)


def test_the_score_of_an_image_does_not_depend_on_the_others(detector, x):
    """As it would in training mode, in which the authors score."""
    detector.train_step(x)
    together = detector.anomaly_score(x)
    alone = [detector.anomaly_score(x[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together[:3], alone, rtol=1e-4)


def test_averaged_weights_score_images(x):
    detector = tiny_detector("SkipGANomaly", weight_averaging=0.9)
    detector.train_step(x)
    expected = detector.averages[0](x)
    assert not np.allclose(detector.generator(x), expected, atol=1e-4)
    np.testing.assert_allclose(detector.reconstruct(x), expected, rtol=1e-4, atol=1e-6)


def test_the_maps_of_a_u_net_have_the_sizes_of_its_docstring():
    network = UNet(32, 64, 3, 100)
    *maps, code = network.encoder.activations(tf.zeros((1, 32, 32, 3)))
    assert [tuple(feature_map.shape[1:]) for feature_map in maps] == [(16, 16, 64), (8, 8, 128), (4, 4, 256)]
    assert code.shape == (1, 100)
    assert network.first(code).shape == (1, 4, 4, 256)
    assert network.decode([*maps, code]).shape == (1, 32, 32, 3)
    kernels = [tuple(up.layers[0].kernel.shape) for up in network.ups] + [tuple(network.last.kernel.shape)]
    # height, width, outputs, inputs; half of the inputs come from the map of the same size on the way down
    assert kernels == [(4, 4, 128, 2 * 256), (4, 4, 64, 2 * 128), (4, 4, 3, 2 * 64)]


@pytest.mark.parametrize("training", [False, True])
def test_the_decoder_sees_the_code_and_each_map_and_nothing_else(detector, x, training, monkeypatch):
    """No skip leads from the input to the output: with the same maps and code, any input has the same output."""
    network = detector.generator
    parts = network.encoder.activations(x, training)
    assert [part.shape[1] for part in parts] == [8, 4, 6]
    output = network(x, training=training)
    for number in range(3):
        changed = [part + 0.5 * (number == i) * tf.sign(part) for i, part in enumerate(parts)]
        monkeypatch.setattr(network.encoder, "activations", lambda x, training, changed=changed: changed)
        assert np.abs(network(x, training=training) - output).max() > 1e-3, number
    monkeypatch.setattr(network.encoder, "activations", lambda x, training: parts)
    np.testing.assert_allclose(network(x, training=training), output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network(-x, training=training), output, rtol=1e-5, atol=1e-6)


def test_a_map_is_seen_where_it_lies(detector, x):
    """A change in one place of the largest map changes only the pixels around it."""
    *maps, code = detector.generator.encoder.activations(x[:1])
    x_hat = detector.generator.decode([*maps, code])
    change = np.zeros(maps[0].shape, np.float32)
    change[0, 2, 5] = 1
    difference = np.abs(detector.generator.decode([maps[0] + change, maps[1], code]) - x_hat)[0, :, :, 0]
    rows, columns = np.nonzero(difference > 1e-6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 6, 9, 12)
