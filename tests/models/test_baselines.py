"""PCA and KNN, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_detector


@pytest.fixture
def training_images():
    generator = np.random.default_rng(5)
    return (generator.integers(0, 256, (30, 16, 16, 1)) / 127.5 - 1).astype(np.float32)


def test_pca_is_the_distance_to_the_projection(training_images, images):
    detector = tiny_detector("PCA", explained_variance=0.5)
    detector.fit_memory_banks(training_images)
    flat = training_images.reshape(30, -1).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    _, singular_values, axes = np.linalg.svd(centred, full_matrices=False)
    explained_shares = np.cumsum(singular_values**2) / np.sum(singular_values**2)
    leading = axes[: np.searchsorted(explained_shares, 0.5) + 1]
    x = images.reshape(len(images), -1) - flat.mean(axis=0)
    expected = np.linalg.norm(x - x @ leading.T @ leading, axis=1)
    np.testing.assert_allclose(detector.anomaly_score(tf.constant(images)), expected, rtol=1e-4)


def test_knn_is_the_mean_distance_to_the_nearest(training_images, images):
    detector = tiny_detector("KNN", neighbours=3)
    detector.fit_memory_banks(training_images)
    differences = images.reshape(11, 1, -1) - training_images.reshape(1, 30, -1).astype(np.float64)
    distances = np.linalg.norm(differences, axis=2)
    expected = np.sort(distances, axis=1)[:, :3].mean(axis=1)
    np.testing.assert_allclose(detector.anomaly_score(images), expected, rtol=1e-5)
    mean_images = training_images[np.argsort(distances, axis=1)[:, :3]].mean(axis=1)
    np.testing.assert_allclose(detector.reconstruct(images), mean_images, atol=1e-5)


def test_knn_scores_do_not_depend_on_the_batch(images):
    """To the last digit, though scikit-learn's distances do: among 900 images, in batches of any size and order."""
    generator = np.random.default_rng(3)
    detector = tiny_detector("KNN", neighbours=3)
    detector.fit_memory_banks(generator.uniform(-1, 1, (900, 16, 16, 1)).astype(np.float32))
    x = generator.uniform(-1, 1, (400, 16, 16, 1)).astype(np.float32)
    order = generator.permutation(400)
    scores = detector.anomaly_score(x).numpy()
    np.testing.assert_array_equal(detector.anomaly_score(x[order]), scores[order])
    one_by_one = [float(detector.anomaly_score(x[number : number + 1])[0]) for number in range(0, 400, 10)]
    np.testing.assert_array_equal(one_by_one, scores[::10])


def test_the_nearest_image_of_a_training_image_is_itself(training_images):
    detector = tiny_detector("KNN", neighbours=1)
    detector.fit_memory_banks(training_images)
    np.testing.assert_allclose(detector.anomaly_score(training_images), 0, atol=1e-3)


def test_fewer_training_images_than_neighbours(training_images):
    detector = tiny_detector("KNN", neighbours=5)
    detector.fit_memory_banks(training_images[:2])
    assert np.isfinite(detector.anomaly_score(training_images)).all()
