"""The classifier: its loss, the distances to its classes, and its mean images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.covariance import LedoitWolf

from anomaly_toolbox.models.classifier import Classifier, ClassStatistics
from tests.conftest import TINY_NETWORKS, copy_weights, float64, has_changed, record_updates

N_CLASSES = 3


def new_detector(seed=0, **changes):
    keras.utils.set_random_seed(seed)
    detector = Classifier(Classifier.Hyperparameters(**{**TINY_NETWORKS, **changes}), 1, N_CLASSES)
    detector.compile()
    return detector


@pytest.fixture
def detector():
    return new_detector()


def separable_images(count):
    """Images of three levels of grey with a little noise, (count, 16, 16, 1), and their classes, (count,)."""
    generator = np.random.default_rng(count)
    classes = np.arange(count) % N_CLASSES
    images = (classes - 1)[:, np.newaxis, np.newaxis, np.newaxis] * 0.6 + generator.normal(0, 0.05, (count, 16, 16, 1))
    return images.astype(np.float32), classes.astype(np.int32)


def test_the_loss_is_the_cross_entropy(detector, images, monkeypatch):
    """Compares it with NumPy in float64, from h(x) in training: V h⁺ + b, where h⁺ is h after a LeakyReLU."""
    x, y = tf.constant(images[:8]), np.array([0, 1, 2, 2, 1, 0, 0, 0], np.int32)
    layer = detector.classes.layers[-1]
    layer.bias.assign([0.5, -0.25, 0.0])
    layer.kernel.assign(30 * layer.kernel)
    recorded = record_updates(detector, monkeypatch)
    reported = {name: float(value) for name, value in detector.train_step((x, tf.constant(y))).items()}
    h = float64(detector.encoder(x, training=True))
    logits = np.where(h > 0, h, 0.2 * h) @ float64(layer.kernel) + float64(layer.bias)
    odds = np.exp(logits)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[np.arange(8), y]).mean()
    accuracy = (logits.argmax(axis=1) == y).mean()
    assert reported == pytest.approx({"c_loss": loss, "accuracy": accuracy}, rel=1e-5)
    assert recorded == [("c", pytest.approx(loss, rel=1e-5))]
    assert 0 < accuracy < 1


def test_a_step_trains_both_networks(detector, images):
    networks = (detector.encoder, detector.classes)
    before = [copy_weights(network) for network in networks]
    detector.train_step((tf.constant(images[:8]), tf.constant([0, 1, 2, 0, 1, 2, 0, 1])))
    assert [has_changed(weights, network) for weights, network in zip(before, networks, strict=True)] == [True, True]


def test_distances_are_those_of_mahalanobis_to_the_nearest_class():
    """With one covariance for all classes, that of Ledoit and Wolf of the differences to their own means."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, N_CLASSES, 60)
    mixing = generator.normal(size=(4, 4))
    centres = 3 * generator.normal(size=(N_CLASSES, 4))
    features = centres[classes] + generator.normal(size=(60, 4)) @ mixing
    statistics = ClassStatistics(N_CLASSES, 4, (2, 2, 1))
    statistics.fit(features.astype(np.float32), np.zeros((60, 2, 2, 1), np.float32), classes)

    means = np.array([features[classes == number].mean(axis=0) for number in range(N_CLASSES)])
    precision = np.linalg.inv(LedoitWolf().fit(features - means[classes]).covariance_)
    others = centres[np.arange(20) % N_CLASSES] + 2 * generator.normal(size=(20, 4))
    differences = others[:, np.newaxis] - means
    squares = np.einsum("ncd,de,nce->nc", differences, precision, differences)
    assert set(squares.argmin(axis=1)) == set(range(N_CLASSES))  # each class is the nearest of some vectors
    distances = statistics(tf.constant(others, tf.float32))
    np.testing.assert_allclose(distances, np.sqrt(squares.min(axis=1)), rtol=1e-4)
    np.testing.assert_allclose(statistics(tf.constant(means, tf.float32)), np.zeros(N_CLASSES), atol=1e-4)


def test_statistics_by_hand():
    """Four residuals of (±1, 0) and four of (0, ±1) have the covariance I / 2; class 2 has no images."""
    residuals = np.tile([[1, 0], [-1, 0], [0, 1], [0, -1]], (2, 1)).astype(np.float32)
    classes = np.repeat([0, 1], 4)
    features = residuals + np.array([[10, 0], [0, 20]], np.float32)[classes]
    images = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    statistics = ClassStatistics(N_CLASSES, 2, (1, 1, 1))
    statistics.fit(features, images, classes)
    np.testing.assert_allclose(statistics.arrays["means"], [[10, 0], [0, 20], [5, 10]], atol=1e-6)
    np.testing.assert_allclose(np.ravel(statistics.arrays["images"]), [1.5, 5.5, 3.5], atol=1e-6)
    distances = statistics(tf.constant([[10.0, 3.0], [4.0, 20.0], [5.0, 10.0], [6.0, 10.0]]))
    np.testing.assert_allclose(distances, np.sqrt(2) * np.array([3, 4, 0, 1]), atol=1e-4)


def test_the_detector_takes_the_classes_that_it_finds(detector, eager):
    """The mean images stand for reconstructions, and the score is the distance of h(x)."""
    images, _ = separable_images(20)  # no batch size divides it
    layer = detector.classes.layers[-1]
    h = float64(detector.encoder(images))
    h_plus = np.where(h > 0, h, 0.2 * h)
    layer.kernel.assign(30 * layer.kernel)
    layer.bias.assign(-np.median(h_plus @ float64(layer.kernel), axis=0))  # so that there are several classes
    found = (h_plus @ float64(layer.kernel) + float64(layer.bias)).argmax(axis=1)
    assert len(set(found)) > 1

    detector.fit_memory_banks(images)
    mean_images = {number: images[found == number].mean(axis=0) for number in set(found)}
    expected = [mean_images[number] for number in found]
    np.testing.assert_allclose(detector.reconstruct(images), expected, rtol=1e-4, atol=1e-5)
    means = np.array([h[found == number].mean(axis=0) if number in found else h.mean(axis=0) for number in range(3)])
    residuals = np.array([h[i] - means[number] for i, number in enumerate(found)])
    precision = np.linalg.inv(LedoitWolf().fit(residuals).covariance_)
    differences = h[:, np.newaxis] - means
    squares = np.einsum("ncd,de,nce->nc", differences, precision, differences)
    np.testing.assert_allclose(detector.anomaly_score(images), np.sqrt(squares.min(axis=1)), rtol=1e-2)
    output = detector.score_and_reconstruct(tf.constant(images))
    np.testing.assert_allclose(output.score, detector.anomaly_score(images), rtol=1e-3)
    np.testing.assert_allclose(output.reconstruction, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.vectors["latent_neighbours"], h, rtol=1e-4, atol=1e-6)


def test_training_tells_classes_apart_and_an_unknown_kind_from_all(eager):
    detector = new_detector(learning_rate=2e-2)
    images, classes = separable_images(48)
    chance = (detector.classes(detector.encoder(images)).numpy().argmax(axis=1) == classes).mean()
    for _ in range(4):
        for start in range(0, 48, 8):
            detector.train_step((tf.constant(images[start : start + 8]), tf.constant(classes[start : start + 8])))
    others, other_classes = separable_images(30)
    accuracy = (detector.classes(detector.encoder(others)).numpy().argmax(axis=1) == other_classes).mean()
    assert chance < 0.5
    assert accuracy > 0.9
    detector.fit_memory_banks(images)
    anomalies = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 1)).astype(np.float32)
    assert detector.anomaly_score(anomalies).numpy().min() > detector.anomaly_score(others).numpy().max()


def test_statistics_are_saved_with_the_networks(detector, tmp_path, eager):
    images, _ = separable_images(20)
    detector.fit_memory_banks(images)
    detector.save_networks(tmp_path / "model.weights.h5")
    other = new_detector(seed=1)
    assert not np.allclose(other.anomaly_score(images), detector.anomaly_score(images))
    other.load_networks(tmp_path / "model.weights.h5")
    for name, array in detector.statistics.arrays.items():
        np.testing.assert_array_equal(other.statistics.arrays[name], array, err_msg=name)
    np.testing.assert_allclose(other.anomaly_score(images), detector.anomaly_score(images), rtol=1e-5)
    np.testing.assert_allclose(other.reconstruct(images), detector.reconstruct(images), rtol=1e-6)
