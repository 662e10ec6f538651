"""The memory banks, compared with NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.memory import Mahalanobis, Neighbours, PrincipalComponents, WhitenedNeighbours, nearest

GENERATOR = np.random.default_rng(2)
DEVIATIONS = [1, 2, 3, 1, 0.5, 0.1]
NORMAL = (GENERATOR.normal(size=(40, 6)).astype(np.float32) * DEVIATIONS).astype(np.float32)
OTHERS = GENERATOR.normal(size=(7, 6)).astype(np.float32)


def cosine_distances(a, b):
    a, b = (v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return 1 - a @ b.T


def test_neighbours_by_hand():
    """Vectors at angles of 0, 90 and 180 degrees have the cosine distances 0, 1 and 2."""
    bank = Neighbours()
    bank.fit(np.array([[3.0, 0], [0, 1], [-2, 0]], np.float32))
    np.testing.assert_allclose(bank(tf.constant([[5.0, 0]])), [(0 + 1 + 2) / 3], atol=1e-6)


def test_neighbours_are_the_five_nearest():
    bank = Neighbours()
    bank.fit(NORMAL)
    expected = np.sort(cosine_distances(OTHERS, NORMAL), axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(bank(OTHERS), expected, rtol=1e-4, atol=1e-6)


def test_neighbours_along_principal_components():
    bank = Neighbours(components=2)
    bank.fit(NORMAL)
    centred = NORMAL.astype(np.float64) - NORMAL.mean(axis=0)
    axes = np.linalg.svd(centred)[2][:2]
    distances = cosine_distances((OTHERS - NORMAL.mean(axis=0)) @ axes.T, centred @ axes.T)
    np.testing.assert_allclose(bank(OTHERS), np.sort(distances, axis=1)[:, :5].mean(axis=1), rtol=1e-3, atol=1e-5)


def close_vectors(n, seed, difference):
    """Vectors of 64 elements that differ by this share."""
    base = np.random.default_rng(5).normal(size=64)
    return (base * (1 + difference * np.random.default_rng(seed).normal(size=(n, 64)))).astype(np.float32)


@pytest.mark.parametrize("n_stored", [5, 1000])
def test_cosine_distances_of_close_vectors_keep_their_digits(n_stored):
    """1 - cosine loses them in float32. Of 1000 vectors, the nearest are hardly nearer than many others."""
    stored, others = close_vectors(n_stored, 0, 1e-4), close_vectors(7, 1, 1e-4)
    a, b = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (others, stored))
    distances = ((a[:, None] - b) ** 2).sum(axis=2) / 2
    expected = np.sort(distances, axis=1)[:, :5].mean(axis=1)
    bank = Neighbours()
    bank.fit(stored)
    np.testing.assert_allclose(bank(others), expected, rtol=1e-3)
    cosines = tf.matmul(tf.math.l2_normalize(others, axis=1), bank.arrays["directions"], transpose_b=True)
    rounded = 1 - tf.reduce_mean(tf.math.top_k(cosines, 5)[0], axis=1)
    assert np.abs(rounded / expected - 1).min() > 0.1


def test_the_nearest_of_close_vectors_are_found():
    """The vectors are 10,000 times as long as their differences."""
    stored, others = close_vectors(500, 2, 1e-4), close_vectors(9, 3, 1e-4)
    distances = np.linalg.norm(others[:, None].astype(np.float64) - stored, axis=2)
    found = np.asarray(nearest(others, stored, 3), np.float64)
    expected = np.sort(distances, axis=1)[:, :3]
    np.testing.assert_allclose(np.linalg.norm(found - others[:, None], axis=2), expected, rtol=1e-3)


def test_the_nearest_vectors_come_in_the_order_of_their_distance():
    stored = tf.constant([[0.0, 0], [10, 0], [3, 0], [0, 2]])
    np.testing.assert_array_equal(nearest(tf.constant([[4.0, 0]]), stored, 2), [[[3, 0], [0, 0]]])
    assert nearest(tf.constant([[4.0, 0]]), stored, 9).shape == (1, 4, 2)


def test_whitened_neighbours_equal_numpy():
    bank = WhitenedNeighbours(components=4)
    bank.fit(NORMAL)
    mean = NORMAL.astype(np.float64).mean(axis=0)
    _, singular_values, axes = np.linalg.svd(NORMAL.astype(np.float64) - mean, full_matrices=False)
    whitening = axes[:4].T / (singular_values[:4] / np.sqrt(len(NORMAL) - 1))
    differences = ((OTHERS - mean) @ whitening)[:, np.newaxis] - (NORMAL - mean) @ whitening
    distances = np.sort(np.linalg.norm(differences, axis=2), axis=1)[:, :5]
    np.testing.assert_allclose(bank(OTHERS), distances.mean(axis=1), rtol=1e-3)


def test_whitened_neighbours_weigh_dimensions_by_their_spread():
    generator = np.random.default_rng(0)
    bank = WhitenedNeighbours(components=2)
    bank.fit((generator.normal(size=(5000, 2)) * [1, 100]).astype(np.float32))
    along_the_narrow, along_the_wide = bank(tf.constant([[8.0, 0], [0, 8.0]])).numpy()
    assert along_the_narrow > 10 * along_the_wide


def test_mahalanobis_by_hand():
    """The dimensions have standard deviations 1 and 10. With so many vectors, shrinkage has no effect."""
    vectors = np.random.default_rng(0).normal(size=(200_000, 2)) * [1, 10] + [3, 0]
    bank = Mahalanobis()
    bank.fit(vectors.astype(np.float32))
    np.testing.assert_allclose(bank(tf.constant([[5.0, 0], [3, 20], [3, 0]])), [2, 2, 0], atol=0.04)


def test_mahalanobis_uses_correlations():
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(5000, 1))
    vectors = np.concatenate([shared, shared + 0.1 * generator.normal(size=(5000, 1))], axis=1)
    bank = Mahalanobis()
    bank.fit(vectors.astype(np.float32))
    along, against = bank(tf.constant([[1.0, 1.0], [1.0, -1.0]])).numpy()
    assert against > 10 * along


def test_principal_components_and_back():
    bank = PrincipalComponents(6)
    bank.fit(NORMAL)
    np.testing.assert_allclose(bank.inverse(bank(OTHERS)), OTHERS, atol=1e-5)
    bank = PrincipalComponents(0.5)
    bank.fit(NORMAL)
    assert bank(OTHERS).shape == (7, 1)  # the third dimension has more than half of the variance


@pytest.mark.parametrize(
    "make_bank",
    [Neighbours, lambda: Neighbours(3), lambda: WhitenedNeighbours(3), Mahalanobis, lambda: PrincipalComponents(2)],
)
def test_memory_banks_are_saved_with_the_weights(make_bank, tmp_path):
    def make_model():
        model = keras.Sequential()
        model.bank = make_bank()
        model.built = True
        return model

    model, loaded = make_model(), make_model()
    assert model.bank.is_empty
    model.bank.fit(NORMAL)
    model.save_weights(tmp_path / "m.weights.h5")
    loaded.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(model.bank(OTHERS), loaded.bank(OTHERS))
    assert len(model.bank.stored) == len(loaded.bank.stored) > 0


@pytest.mark.parametrize("bank", [Neighbours(), Neighbours(64), WhitenedNeighbours(64), Mahalanobis()])
def test_few_vectors(bank):
    bank.fit(NORMAL[:2])
    assert np.isfinite(bank(OTHERS)).all()
