"""The scikit-learn interface: scikit-learn's own checks, the signs of scores, and training."""

import pickle
import random

import numpy as np
import pytest
import tensorflow as tf
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.estimator import ImageOutlierDetector
from tests.class_means import TINY_CLASS_MEANS
from tests.conftest import TINY

pytestmark = pytest.mark.slow

SMALL = {"image_size": 4, "batch_size": 16}


@parametrize_with_checks([ImageOutlierDetector("KNN", hyperparameters=SMALL, contamination=0.25)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    """Forty grey images of 16x16 pixels with an edge, and three outliers without it."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 40, (43, 16, 16), np.uint8)
    images[:40, :, 8:] += 200
    return images


@pytest.mark.parametrize("method", ["PCA", "GANomaly"])
def test_signs_are_those_of_an_outlier_detector(X, method):
    detector = ImageOutlierDetector(method, hyperparameters={**TINY[method], "score": "residual"}, contamination=0.05)
    assert detector.fit(X[:40]) is detector
    assert detector.detector_.decay_steps == 0  # the learning rate is constant by default
    scores = detector.score_samples(X)
    assert scores.shape == (43,)
    assert scores[40:].max() < scores[:40].min()
    np.testing.assert_allclose(detector.decision_function(X), scores - detector.offset_)
    assert np.array_equal(detector.predict(X)[40:], [-1] * 3)
    assert np.mean(detector.predict(X[:40]) == -1) == pytest.approx(0.05)
    assert -detector.fit_predict(X[:40]).sum() == -36


def test_values_of_any_range_and_colours(X):
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"])
    X[0, 0, 0], X[0, 0, 1] = 0, 255  # for floats, `fit` takes the lowest and highest value as black and white
    scores = detector.fit(X).score_samples(X)
    scores_of_floats = detector.fit(X * 5.0 - 100).score_samples(X * 5.0 - 100)
    assert np.corrcoef(scores, scores_of_floats)[0, 1] > 0.99
    colours = np.stack([X, X[::-1], X], axis=-1)
    assert detector.fit(colours).score_samples(colours).shape == (43,)
    assert detector.detector_.image_shape == (16, 16, 3)


@pytest.mark.parametrize("fitted_dtype", [np.float64, np.float32, np.int64, np.uint8, np.uint16])
def test_equal_values_have_equal_scores_in_every_type(X, fitted_dtype):
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 8, "explained_variance": 0.5})
    expected = detector.fit(X.astype(fitted_dtype)).score_samples(X.astype(fitted_dtype))
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
def test_values_of_another_range_are_refused(X, fitted, later):
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(fitted(X))
    with pytest.raises(
        ValueError, match=r"X: received \w+ from .* to .*; in fit 0 was black and [\d.e+]+ white: scale"
    ):
        detector.score_samples(later(X))


def test_both_labels_are_refused(X):
    labels = {"anomalous_label": 2, "normal_label": 3}
    with pytest.raises(InputError, match="anomalous_label and normal_label are both set"):
        ImageOutlierDetector("PCA", hyperparameters={**TINY["PCA"], **labels}).fit(X)


def test_pixels_brighter_than_all_training_images_are_anomalous():
    dark = np.random.default_rng(0).uniform(0, 0.4, (20, 8, 8))
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 8}).fit(dark)
    bright, brighter = dark[:1].copy(), dark[:1].copy()
    bright[0, 2:5, 2:5], brighter[0, 2:5, 2:5] = 0.4, 1.0
    assert detector.black_white_ == (0, 1)
    assert detector.score_samples(brighter) < detector.score_samples(bright)


def test_anomalies_may_be_brighter_than_a_measured_range(X):
    """Training images with floats from 0 to 150 may be dark ones, in which white is 255."""
    dark = np.minimum(X, 150).astype(float)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(dark)
    assert detector.score_samples(np.where(dark > 140, 255.0, dark)).shape == (43,)
    with pytest.raises(ValueError, match="scale the numbers"):
        detector.score_samples(4 * dark)


@pytest.mark.parametrize("method", ["PCA", "GANomaly"])
def test_fit_keeps_the_global_random_states(X, method):
    def draw():
        return random.random(), np.random.rand(), float(tf.random.uniform(()))

    def draw_before_and_after(action):
        random.seed(3)
        np.random.seed(3)
        tf.random.set_seed(3)
        before = draw()
        action()
        return before, draw()

    detector = ImageOutlierDetector(method, hyperparameters=TINY[method], random_state=0)
    assert draw_before_and_after(lambda: detector.fit(X)) == draw_before_and_after(lambda: None)


def test_fit_does_not_depend_on_the_global_random_states(X):
    detector = ImageOutlierDetector("GANomaly", hyperparameters={**TINY["GANomaly"], "epochs": 1}, random_state=0)
    scores = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        np.random.seed(seed)
        scores.append(detector.fit(X).score_samples(X))
    np.testing.assert_array_equal(*scores)


def test_the_learning_rate_decays_until_the_end_of_the_fit(X):
    """In 2 epochs of 5 steps it falls from 0.0002 to 0."""
    hyperparameters = {**TINY["GANomaly"], "learning_rate_decay": True}
    detector = ImageOutlierDetector("GANomaly", hyperparameters=hyperparameters).fit(X).detector_
    assert detector.decay_steps == 10
    for optimizer in detector.optimizers.values():
        assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-12)


def test_divergence_is_an_error(X):
    hyperparameters = {**TINY["GANomaly"], "contextual_loss_weight": 1e39}
    with pytest.raises(ToolboxError, match=r"^training diverged: g_loss is (inf|nan) in epoch 1; try a lower"):
        ImageOutlierDetector("GANomaly", hyperparameters=hyperparameters).fit(X)


@pytest.fixture
def many():
    """120 images with a bar whose length varies, so that some are more complex than others."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 40, (120, 16, 16), np.uint8)
    for image in images:
        image[4:8, : generator.integers(2, 15)] += 200
    return images


@pytest.mark.parametrize("score", ["combined", "paper_excess"])
def test_derived_scores(many, score):
    """They are those of the fitted detector, whatever the other images, and an image without a bar is an outlier."""
    hyperparameters = {"image_size": 16, "score": score}
    detector = ImageOutlierDetector("KNN", hyperparameters=hyperparameters).fit(many)
    scores = detector.score_samples(many)
    x = tf.constant(many[..., np.newaxis] / np.float32(127.5) - 1)
    np.testing.assert_allclose(scores, -detector.detector_.scores(x)[score].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(detector.score_samples(many[5:8]), scores[5:8], rtol=1e-5, atol=1e-5)
    plain = ImageOutlierDetector("KNN", hyperparameters={"image_size": 16}).fit(many)
    assert not np.allclose(plain.score_samples(many), scores, rtol=1e-2)
    assert detector.score_samples(np.rot90(many[:20], axes=(1, 2))).mean() < scores.mean()


def test_derived_scores_take_100_images(many):
    for score in ("combined", "residual_excess"):
        with pytest.raises(ValueError, match=f"^score {score} takes 100 training images, received 99$"):
            ImageOutlierDetector("PCA", hyperparameters={"image_size": 16, "score": score}).fit(many[:99])
    with pytest.raises(ValueError, match="takes 100 training images, received 120 and memory_size 50"):
        ImageOutlierDetector("PCA", hyperparameters={"score": "combined", "memory_size": 50}).fit(many)
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 16}).fit(many[:99])
    assert set(detector.detector_.scores(np.zeros((1, 16, 16, 1), np.float32))) == {"paper", "residual"}
    detector = ImageOutlierDetector("PCA", hyperparameters={"image_size": 16, "score": "combined"}).fit(many[:100])
    assert np.isfinite(detector.score_samples(many)).all()


@pytest.fixture
def three_kinds():
    """Sixty dark, grey and bright images, twenty of each kind, and the names of their kinds."""
    kinds = np.array(["dark", "grey", "bright"] * 20)
    noise = np.random.default_rng(0).integers(0, 20, (60, 16, 16))
    return (np.tile([0, 100, 200], 20)[:, None, None] + noise).astype(np.uint8), kinds


def test_classes_of_normal_images(class_means, three_kinds):
    images, kinds = three_kinds
    detector = ImageOutlierDetector("ClassMeans", hyperparameters={**TINY_CLASS_MEANS, "epochs": 10})
    assert detector.fit(images, kinds) is detector
    assert detector.normal_classes_.tolist() == ["bright", "dark", "grey"]
    brightness = detector.detector_.mean_images(tf.range(3)).numpy().mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, np.array([209, 9, 109]) / 127.5 - 1, atol=0.15)
    assert detector.score_samples(np.full((1, 16, 16), 160, np.uint8)) < detector.score_samples(images).min()
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(images), detector.score_samples(images))
    assert (detector.fit_predict(images, kinds) == 1).mean() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kinds: None, r"y: ClassMeans needs the class of each image; expected fit\(X, y\), received y=None"),
        (lambda kinds: kinds[1:], r"inconsistent numbers of samples: \[60, 59\]"),
        (lambda kinds: np.full(60, "grey"), "y: ClassMeans needs at least two classes, received only grey"),
        (lambda kinds: np.linspace(0.1, 1, 60), "Unknown label type: continuous"),
        (lambda kinds: np.where(kinds == "grey", np.nan, 1), "contains NaN"),
        (lambda kinds: np.stack([kinds, kinds], axis=1), "y should be a 1d array"),
    ],
)
def test_errors_about_classes(class_means, three_kinds, change, message):
    images, kinds = three_kinds
    detector = ImageOutlierDetector("ClassMeans", hyperparameters=TINY_CLASS_MEANS)
    with pytest.raises(ValueError, match=message):
        detector.fit(images, change(kinds))


def test_other_methods_ignore_y(X):
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"])
    expected = detector.fit(X).score_samples(X)
    np.testing.assert_array_equal(detector.fit(X, np.arange(43) % 2).score_samples(X), expected)
    assert detector.normal_classes_ is None


def test_errors_about_input(X):
    with pytest.raises(ValueError, match=r"contamination: expected a share in \[0, 0.5\], received 'auto'"):
        ImageOutlierDetector("PCA", contamination="auto").fit(X)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"]).fit(X)
    with pytest.raises(ValueError, match=r"expected images of shape \(16, 16\) as in fit, received \(16, 10\)"):
        detector.predict(X[..., :10])


def test_parameters_and_a_grid_search(X):
    positions = [5, 20, 33]  # an outlier in each of three folds
    y = np.insert(np.ones(36, int), positions, -1)
    X = np.insert(X[:36], positions, X[40:], axis=0)
    detector = ImageOutlierDetector("PCA", hyperparameters=TINY["PCA"])
    assert clone(detector).get_params() == detector.get_params()
    grid = {"hyperparameters": [{**TINY["PCA"], "explained_variance": share} for share in (0.2, 0.9)]}
    search = GridSearchCV(detector, grid, scoring="roc_auc", cv=3).fit(X, y)
    assert 0.9 < search.best_score_ <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contamination": 0.7}, "contamination"),
        ({"method": "PCB"}, "did you mean PCA"),
        ({"hyperparameters": {"width": 1}}, "hyperparameters .*width"),
    ],
)
def test_errors_about_parameters(X, options, message):
    with pytest.raises(Exception, match=message):
        ImageOutlierDetector(**{"method": "PCA", **options}).fit(X)
