"""scikit-learn's interface: its own checks, its signs, and that it trains."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

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
