"""What every registered method must do."""

import typing

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models import METHODS, detector_class, method_name
from tests.conftest import TINY, tiny_detector

BASELINES = {"KNN", "PCA"}  # fitted by scikit-learn, not in epochs


def training_images():
    return np.random.default_rng(1).uniform(-1, 1, (24, 16, 16, 1)).astype(np.float32)


@pytest.fixture(params=sorted(METHODS), scope="module")
def detector(request):
    """Trained for a few steps, so that batch normalisation has figures of its own, and concluded."""
    tf.keras.utils.set_random_seed(0)
    detector = tiny_detector(request.param)
    images = training_images()
    if request.param not in BASELINES:
        batches = tf.data.Dataset.from_tensor_slices(images).batch(8, drop_remainder=True)
        detector.fit(batches, verbose=0, shuffle=False)
    detector.after_fit(images)
    detector.fit_memory_banks(images)
    return detector


def in_batches(detector, images, size):
    """Scores by `predict`, the last batch filled up as the toolbox does."""
    filled = np.concatenate([images, np.zeros((-len(images) % size, *images.shape[1:]), np.float32)])
    return detector.score_batches(tf.data.Dataset.from_tensor_slices(filled).batch(size), len(images))


def test_every_method_is_tested():
    assert set(TINY) == set(METHODS)


@pytest.mark.parametrize("name", ["GANomaly", "ganomaly", "GANOMALY", "GANomalyExperiment"])
def test_names_in_any_case(name):
    assert method_name(name) == "GANomaly"


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(InputError, match="did you mean GANomaly"):
        method_name("ganomali")


def test_every_hyperparameter_is_described_and_has_a_default():
    for name in METHODS:
        schema = detector_class(name).Hyperparameters
        assert schema()
        assert all(field.description for field in schema.model_fields.values())


@pytest.mark.parametrize("method", sorted(set(METHODS) - BASELINES))
def test_every_network_moves(method):
    tf.keras.utils.set_random_seed(0)
    detector = tiny_detector(method)
    before = {weight.path: weight.numpy() for weight in detector.trainable_variables}
    detector.fit(tf.data.Dataset.from_tensors(training_images()[:8]), verbose=0, shuffle=False)
    detector.after_fit(training_images())
    still = [w.path for w in detector.trainable_variables if np.array_equal(before[w.path], w.numpy())]
    assert len(before) > 4
    assert not still


def test_the_score_that_decides_is_one_of_those_it_knows(detector, images):
    choices = typing.get_args(detector.Hyperparameters.model_fields["score"].annotation)
    assert choices == tuple(sorted(detector.scores(images), key=choices.index))
    assert choices[:2] == ("paper", "residual")


def test_scores_are_finite_different_and_one_an_image(detector, images):
    scores = in_batches(detector, images, 8)
    assert {"paper", "residual"} <= set(scores)
    for values in scores.values():
        assert values.shape == (len(images),)
        assert np.isfinite(values).all()
        assert len(np.unique(values)) == len(images)


def test_scores_do_not_depend_on_batch_mates_or_batch_size(detector, images):
    together = in_batches(detector, images, 8)
    shuffled = in_batches(detector, images[::-1], 4)
    for name, values in together.items():
        np.testing.assert_allclose(shuffled[name][::-1], values, rtol=1e-4, atol=1e-5)


def test_compiled_equals_eager(detector, images):
    compiled = in_batches(detector, images, 8)
    for name, values in detector.scores(tf.constant(images)).items():
        np.testing.assert_allclose(values, compiled[name], rtol=1e-4, atol=1e-5)


def test_the_first_score_is_the_papers(detector, images):
    np.testing.assert_array_equal(detector(images), detector.anomaly_score(images))
    np.testing.assert_allclose(next(iter(detector.scores(images).values())), detector(images), rtol=1e-6)


def test_reconstructions_and_maps(detector, images):
    reconstructions = detector.reconstruct(tf.constant(images)).numpy()
    assert reconstructions.shape == images.shape
    assert np.abs(reconstructions).max() <= 1
    residuals = np.abs(images - reconstructions).mean(axis=-1)
    np.testing.assert_allclose(detector.scores(images)["residual"], residuals.mean(axis=(1, 2)), rtol=1e-5)
    maps = detector.anomaly_map(tf.constant(images)).numpy()
    unusual = unusual_places(detector, images)
    np.testing.assert_allclose(maps, residuals * unusual, rtol=1e-3, atol=1e-6)
    if type(detector).__name__ not in BASELINES:
        assert np.ptp(unusual) > 0.1
        of_normal = unusual_places(detector, training_images())
        assert np.sqrt((of_normal**2).mean()) == pytest.approx(1, abs=0.3)


def unusual_places(detector, images):
    """The weights of the residuals in a map, computed without TensorFlow from what D's first convolution finds."""
    method = type(detector).__name__
    if method in BASELINES:
        return np.ones(images.shape[:3])
    of_images = detector.averages[2].of_x if method == "EGBAD" else detector.discriminator.features
    convolution, activation = of_images.layers[:2]
    found = activation(convolution(images)).numpy().astype(np.float64)
    vectors = np.zeros((*found.shape[:3], 2 * found.shape[3]))
    for row, column in np.ndindex(found.shape[1:3]):
        window = found[:, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        vectors[:, row, column] = np.concatenate([window.mean(axis=(1, 2)), (window**2).mean(axis=(1, 2))], axis=-1)
    mean, whitening = (detector.memory_banks["patches"].arrays[name].numpy() for name in ("mean", "whitening"))
    unusual = np.sqrt((((vectors - mean) @ whitening) ** 2).mean(axis=-1))
    return np.kron(unusual, np.ones((1, 2, 2)))


def test_saved_networks_score_the_same(detector, images, tmp_path):
    """With all that was memory_images, also where another memory was filled already."""
    path = tmp_path / "model.weights.h5"
    detector.save_networks(path)
    other = tiny_detector(type(detector).__name__)
    other.fit_memory_banks(-training_images()[:16])
    assert not np.allclose(other(images), detector(images))
    other.load_networks(path)
    expected = detector.scores(images)
    for name, values in other.scores(images).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    assert set(in_batches(other, images, 8)) == set(expected)


@pytest.mark.parametrize("method", sorted(set(METHODS) - BASELINES))
def test_optimizers_are_built_but_not_in_the_saved_networks(method, tmp_path):
    detector = tiny_detector(method)
    assert all(optimizer.built for optimizer in detector.optimizers.values())
    detector.save_networks(tmp_path / "model.weights.h5")
    detector.save_weights(str(tmp_path / "all.weights.h5"))
    assert (tmp_path / "model.weights.h5").stat().st_size < (tmp_path / "all.weights.h5").stat().st_size
    assert detector.optimizers


def test_a_wrong_image_size_is_refused(detector):
    with pytest.raises(ValueError, match=r"expected images of shape \(16, 16, 1\), received \(32, 32, 1\)"):
        detector.predict_step(tf.zeros((2, 32, 32, 1)))
