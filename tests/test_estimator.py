"""scikit-learn's interface: its own checks, its signs, and that it trains."""

import random

import numpy as np
import pytest
import tensorflow as tf
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.estimator import ImageOutlierDetector
from tests.conftest import TINY

SMALL = {"image_size": 4, "batch_size": 16}


@parametrize_with_checks([ImageOutlierDetector("KNN", hyperparameters=SMALL, contamination=0.25)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    """Forty grey images of 16x16 pixels with an edge, and three without."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 40, (43, 16, 16), np.uint8)
    images[:40, :, 8:] += 200
    return images


@pytest.mark.parametrize("method", ["PCA", "GANomaly"])
def test_signs_are_those_of_an_outlier_detector(X, method):
    detector = ImageOutlierDetector(method, hyperparameters={**TINY[method], "score": "residual"}, contamination=0.05)
    assert detector.fit(X[:40]) is detector
    scores = detector.score_samples(X)
    assert scores.shape == (43,)
    assert scores[40:].max() < scores[:40].min()
    np.testing.assert_allclose(detector.decision_function(X), scores - detector.offset_)
    assert np.array_equal(detector.predict(X)[40:], [-1] * 3)
    assert np.mean(detector.predict(X[:40]) == -1) == pytest.approx(0.05)
    assert -detector.fit_predict(X[:40]).sum() == -36


def test_numbers_of_any_range_and_colours(X):
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"])
    X[0, 0, 0], X[0, 0, 1] = 0, 255  # black and white, which floats do not say
    of_bytes = detector.fit(X).score_samples(X)
    scaled = detector.fit(X * 5.0 - 100).score_samples(X * 5.0 - 100)
    assert np.corrcoef(of_bytes, scaled)[0, 1] > 0.99
    colours = np.stack([X, X[::-1], X], axis=-1)
    assert detector.fit(colours).score_samples(colours).shape == (43,)
    assert detector.detector_.image_shape == (16, 16, 3)


@pytest.mark.parametrize("fitted", [np.float64, np.float32, np.int64, np.uint8, np.uint16])
def test_the_same_numbers_mean_the_same_in_every_type(X, fitted):
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 8, "explained_variance": 0.5})
    expected = detector.fit(X.astype(fitted)).score_samples(X.astype(fitted))
    assert np.ptp(expected) > 0
    for dtype in (np.float64, np.float32, np.int32, np.int64, np.uint8, np.uint16):
        np.testing.assert_array_equal(detector.score_samples(X.astype(dtype)), expected)


@pytest.mark.parametrize(
    ("fitted", "later"),
    [
        (lambda X: X, lambda X: X / 255),
        (lambda X: X, lambda X: (X > 128).astype(float)),
        (lambda X: X, lambda X: X > 128),
        (lambda X: X, lambda X: X.astype(int) * 4),
        (lambda X: X.astype(np.uint16) * 257, lambda X: X),
        (lambda X: X / 255, lambda X: X / 127.5 - 1),
        (lambda X: X / 255, lambda X: X),
        (lambda X: X / 255.0, lambda X: X.astype(np.uint16) * 257),
        (lambda X: X, lambda X: X.astype(np.uint16) * 257),
    ],
)
def test_numbers_of_another_range_are_refused(X, fitted, later):
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(fitted(X))
    with pytest.raises(
        ValueError, match=r"X: received \w+ from .* to .*; in fit 0 was black and [\d.e+]+ white: scale"
    ):
        detector.score_samples(later(X))


def test_what_is_brighter_than_all_training_images_is_seen():
    dark = np.random.default_rng(0).uniform(0, 0.4, (20, 8, 8))
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 8}).fit(dark)
    bright, brighter = dark[:1].copy(), dark[:1].copy()
    bright[0, 2:5, 2:5], brighter[0, 2:5, 2:5] = 0.4, 1.0
    assert detector.black_white_ == (0, 1)
    assert detector.score_samples(brighter) < detector.score_samples(bright)


def test_an_anomaly_may_be_brighter_than_a_range_that_was_measured(X):
    """Floats from 0 to 200 may well be images whose white is 255."""
    dark = np.minimum(X, 150).astype(float)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(dark)
    assert detector.score_samples(np.where(dark > 140, 255.0, dark)).shape == (43,)
    with pytest.raises(ValueError, match="scale the numbers"):
        detector.score_samples(4 * dark)


@pytest.mark.parametrize("method", ["PCA", "GANomaly"])
def test_the_callers_random_numbers_go_on(X, method):
    def drawn(between):
        random.seed(3)
        np.random.seed(3)
        tf.random.set_seed(3)
        first = random.random(), np.random.rand(), float(tf.random.uniform(()))
        between()
        return first, (random.random(), np.random.rand(), float(tf.random.uniform(())))

    detector = ImageOutlierDetector(method, hyperparameters=TINY[method], random_state=0)
    assert drawn(lambda: detector.fit(X)) == drawn(lambda: None)


def test_a_seed_decides_whatever_the_callers_random_numbers_are(X):
    detector = ImageOutlierDetector("GANomaly", hyperparameters={**TINY["GANomaly"], "epochs": 1}, random_state=0)
    scores = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        np.random.seed(seed)
        scores.append(detector.fit(X).score_samples(X))
    np.testing.assert_array_equal(*scores)


def test_a_training_that_diverges_is_told(X):
    hyperparameters = {**TINY["GANomaly"], "contextual_loss_weight": 1e39}
    with pytest.raises(ToolboxError, match=r"^training diverged: g_loss is (inf|nan) in epoch 1; try a lower"):
        ImageOutlierDetector("GANomaly", hyperparameters=hyperparameters).fit(X)


def test_wrong_input_is_told(X):
    with pytest.raises(ValueError, match=r"contamination: expected a share in \[0, 0.5\], received 'auto'"):
        ImageOutlierDetector("PCA", contamination="auto").fit(X)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(X)
    with pytest.raises(ValueError, match=r"expected images of shape \(16, 16\) as in fit, received \(16, 10\)"):
        detector.predict(X[..., :10])


def test_parameters_and_a_grid_search(X):
    places = [5, 20, 33]  # an outlier in each of three folds
    X, y = np.insert(X[:36], places, X[40:], axis=0), np.insert(np.ones(36, int), places, -1)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"])
    assert clone(detector).get_params() == detector.get_params()
    grid = {"hyperparameters": [{**TINY["PCA"], "explained_variance": share} for share in (0.2, 0.9)]}
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=3).fit(X, y)
    assert 0.9 < search.best_score_ <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"contamination": 0.7}, "contamination"),
        ({"method": "PCB"}, "did you mean PCA"),
        ({"hyperparameters": {"width": 1}}, "hyperparameters .*width"),
    ],
)
def test_bad_parameters(X, options, told):
    with pytest.raises(Exception, match=told):
        ImageOutlierDetector(**{"method": "PCA", **options}).fit(X)
