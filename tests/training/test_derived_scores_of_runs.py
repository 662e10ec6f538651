"""Excess scores and the combined score of whole runs: the files, the loaded detector, and exports give the same."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox import load
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.inference.export import export
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.training import callbacks
from anomaly_toolbox.training.trial import Trial, run_trial
from tests.conftest import derived_scores_in_numpy
from tests.training.test_trial import columns_of, run, values_of

pytestmark = pytest.mark.slow


def pca_trial(**changes):
    hyperparameters = {"image_size": 8, "anomalous_label": 2, **changes}
    schema = detector_class("PCA").Hyperparameters
    return Trial("PCA", schema(**hyperparameters), "Digits", "Digits", Digits(), 0)


def run_pca(folder, **changes):
    """The run folder and the output of a run of PCA."""
    output = io.StringIO()
    run_folder, _ = run_trial(pca_trial(**changes), folder, plain_console(file=output))
    return run_folder, output.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run folders of PCA with each selected score."""
    folder = tmp_path_factory.mktemp("logs")
    return {score: run_pca(folder, score=score)[0] for score in ("combined", "paper_excess")}


@pytest.fixture(scope="module")
def test_images():
    """Digits' test images in the order of `scores.csv`, (360, 8, 8, 1) in [0, 1], float32."""
    dataset = Digits()
    dataset.configure(360, (8, 8), anomalous_label=2)
    images, _ = next(iter(dataset.test))
    return (images.numpy() + 1) / 2


def recorded(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", ["scores.csv", "validation_scores.csv"])
def test_derived_scores_can_be_recomputed_from_the_files_of_a_run(runs, name):
    columns = columns_of(runs["combined"], name)
    description = recorded(runs["combined"])["derived_scores"]
    complexities = np.stack([columns["log_ink"], columns["log_variation"]], axis=1)
    expected = derived_scores_in_numpy(columns, complexities, description)
    assert set(expected) == {"paper_excess", "residual_excess", "combined"}
    for score, values in expected.items():
        np.testing.assert_allclose(columns[score], values, rtol=1e-4, atol=1e-4)
    assert description["combined_from"] == ["paper"]


def test_the_complexity_is_that_of_the_images(runs, test_images):
    """Computed from the images and the recorded grey; the background of the digits is black."""
    columns = columns_of(runs["combined"])
    (grey,) = recorded(runs["combined"])["derived_scores"]["grey"]
    assert 0 <= grey < 0.5
    pixels = test_images[..., 0].astype(np.float64)
    ink = np.abs(pixels - grey).sum(axis=(1, 2))
    variation = np.abs(np.diff(pixels, axis=1)).sum(axis=(1, 2)) + np.abs(np.diff(pixels, axis=2)).sum(axis=(1, 2))
    np.testing.assert_allclose(columns["log_ink"], np.log(1 + ink), rtol=1e-5)
    np.testing.assert_allclose(columns["log_variation"], np.log(1 + variation), rtol=1e-5)


@pytest.mark.parametrize("score", ["combined", "paper_excess"])
def test_a_derived_score_can_be_selected(runs, score):
    columns, results = columns_of(runs[score]), recorded(runs[score])
    np.testing.assert_array_equal(columns["score"], columns[score])
    assert results["test"]["auprc"] == results["test"]["scores"][score]["auprc"]
    assert results["test"]["auprc"] != results["test"]["scores"]["paper"]["auprc"]
    assert results["test"]["threshold"] == results["validation"]["scores"][score]["threshold"]


@pytest.mark.parametrize("score", ["combined", "paper_excess"])
def test_the_loaded_detector_and_exports_give_the_derived_score(runs, test_images, tmp_path, score):
    """In any company and any number, as bytes and as floats."""
    levels = np.round(255 * test_images[:40]).astype(np.uint8)
    images = levels.astype(np.float32) / 255
    detector = load(runs[score])
    expected = detector.score_images(list(images))
    np.testing.assert_allclose(expected, load_detector(runs[score]).scores(2 * images - 1)[score], rtol=1e-4, atol=1e-4)
    shuffled = np.random.default_rng(0).permutation(40)[:7]
    np.testing.assert_allclose(detector.score_images(list(images[shuffled])), expected[shuffled], rtol=1e-4, atol=1e-5)
    path = export(runs[score], "savedmodel", tmp_path / "exported")
    loaded = tf.saved_model.load(str(path))
    exported = loaded.signatures["float_images"](images=tf.constant(images))["score"]
    np.testing.assert_allclose(exported, expected, rtol=1e-4, atol=1e-4)
    alone = loaded.signatures["float_images"](images=tf.constant(images[3:4]))["score"]
    np.testing.assert_allclose(alone, expected[3:4], rtol=1e-4, atol=1e-4)


def test_the_loaded_detector_gives_the_scores_of_the_run(runs, test_images):
    scores = load(runs["combined"]).score_images(list(test_images))
    np.testing.assert_allclose(scores, columns_of(runs["combined"])["combined"], rtol=1e-3, atol=1e-3)


def test_derived_scores_take_100_training_images(tmp_path):
    """With 99, a run with the paper's score has none and says so; a run with a derived score stops before training."""
    message = r"^score combined: there are 99 normal training images \(memory_size\); derived scores take 100; choose"
    with pytest.raises(InputError, match=message) as error:
        run_pca(tmp_path, memory_size=99, score="combined")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("model.weights.h5"))
    with pytest.raises(InputError, match="score residual_excess: there are 99"):
        run_pca(tmp_path, memory_size=99, score="residual_excess")
    folder, output = run_pca(tmp_path, memory_size=99)
    assert "no excess scores and no combined score: there are 99 normal training images (memory_size)" in output
    assert list(columns_of(folder))[5:] == ["paper", "residual", "log_ink", "log_variation"]
    assert recorded(folder)["derived_scores"] is None
    folder, output = run_pca(tmp_path, memory_size=100, score="combined")
    assert "no excess" not in output
    assert "combined" in columns_of(folder)


class FewImages(Digits):
    """There are 80 normal training images."""

    def configure(self, *arguments, **options):
        super().configure(*arguments, **options)
        self._train_normal = self._train_normal.unbatch().take(80).batch(40)


def test_few_training_images_are_named(tmp_path):
    small = dataclasses.replace(pca_trial(score="combined", batch_size=40), dataset=FewImages())
    with pytest.raises(InputError, match="there are 80 normal training images; derived scores take 100"):
        run_trial(small, tmp_path, plain_console(file=io.StringIO()))


def test_a_larger_memory_after_the_epochs_is_compiled_once_more(tmp_path, monkeypatch):
    """The validation after each epoch compares with 120 images, and the finished detector with all of them."""
    monkeypatch.setattr(callbacks, "IMAGES_IN_MEMORY", 120)
    traced = []
    cls = detector_class("GANomaly")
    predict_step = cls.predict_step
    monkeypatch.setattr(cls, "predict_step", lambda self, x: traced.append(1) or predict_step(self, x))
    folder, _ = run(tmp_path, epochs=2, memory_size=400, score="combined")
    assert len(traced) == 2
    detector = load_detector(folder)
    assert detector.memory_banks["latent_neighbours"].arrays["directions"].shape[0] == 400 - 40
    columns = columns_of(folder)
    dataset = Digits()
    dataset.configure(360, (16, 16), anomalous_label=2)
    images, _ = next(iter(dataset.test))
    for name in ("latent_neighbours", "discriminator_neighbours", "combined"):
        values = detector.scores(images)[name]
        np.testing.assert_allclose(values, columns[name], rtol=1e-3, atol=1e-3 * np.ptp(values))
    curves = {tag: values_of(folder, tag) for tag in ("validation/auprc", "validation/combined/auprc")}
    assert curves["validation/auprc"] == curves["validation/combined/auprc"]  # which chooses the epoch
    assert len(curves["validation/auprc"]) == 2
