"""Ensembles of detectors of image files, whose scores are those of `scores.csv` to the last digit."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from anomaly_toolbox import load
from anomaly_toolbox.inference import formats
from tests.conftest import TINY
from tests.datasets.test_folder import fill
from tests.ensembles.test_ensembles import changed_copy, refusal, run_command, table, u

MEMBERS = {
    "PCA": {"image_size": 8},
    "KNN": {"image_size": 12, "score": "residual"},
    "GANomaly": {**TINY["GANomaly"], "epochs": 1},
}


def train(images, log_dir, method, seed=0):
    """Trains on a folder of images and returns the run folder."""
    settings = [f"--set={name}={value}" for name, value in MEMBERS[method].items()]
    before = set(log_dir.glob(f"{method}/*/*"))
    options = ["--dataset", images, "--aspect", "crop", "--log-dir", log_dir, "--seed", seed]
    result = run_command("--experiment", method, *options, *settings)
    assert result.exit_code == 0, result.output
    (folder,) = set(log_dir.glob(f"{method}/*/*")) - before
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of noise in two shapes; the anomalous ones have blurred columns."""
    folder = tmp_path_factory.mktemp("data") / "parts"
    fill(folder, size=(20, 24), train__good=40, test__good=16)
    fill(folder, seed=1, size=(30, 12), test__blurred=16)
    for path in (folder / "test" / "blurred").iterdir():
        pixels = np.asarray(Image.open(path))
        Image.fromarray(np.sort(pixels, axis=0)).save(path)
    return folder


@pytest.fixture(scope="module")
def members(images, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("logs")
    return [train(images, log_dir, method) for method in MEMBERS]


@pytest.fixture(scope="module")
def ensemble(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "all"
    result = run_command("ensemble", *members, "--output", folder)
    assert result.exit_code == 0, result.output
    return folder


def assert_almost_equal(scores, expected):
    """Some processors round in another way when other images are in the batch."""
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)


def recorded_scores(folder):
    """The scores of the test images by the names of their files, as float32."""
    with open(folder / "scores.csv", newline="") as file:
        return {row["file"]: np.float32(row["score"]) for row in csv.DictReader(file)}


def test_scores_are_those_of_scores_csv(images, ensemble):
    """In one batch, alone, in another order, and as arrays."""
    detector, recorded = load(ensemble), recorded_scores(ensemble)
    expected = np.array(list(recorded.values()))
    paths = [images / name for name in recorded]
    assert_almost_equal(detector.score_images(paths), expected)
    assert_almost_equal(detector.score_images(paths[3:4]), expected[3:4])
    assert_almost_equal(detector.score_images(paths[::-1]), expected[::-1])
    assert_almost_equal(detector.score_images([np.asarray(Image.open(path)) for path in paths]), expected)
    assert detector.image_shape == (16, 16, 1)


def test_the_selected_score_of_each_member_counts(members, ensemble):
    parts = []
    for member, settings in zip(members, MEMBERS.values(), strict=True):
        validation, score = table(member / "validation_scores.csv"), settings.get("score", "paper")
        test_scores = np.array(list(recorded_scores(member).values()), np.float64)
        parts.append(u(test_scores, validation[score][validation["label"] == 0]))
    scores = np.array(list(recorded_scores(ensemble).values()))
    np.testing.assert_allclose(scores, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)
    assert np.ptp(parts, axis=0).min() > 0.01  # each of the members has its own opinion


def test_predict_prints_the_same_scores_and_p_values(images, ensemble):
    result = run_command("predict", ensemble, images / "test")
    assert result.exit_code == 0, result.output
    rows = {row["file"].removeprefix(f"{images}/"): row for row in csv.DictReader(result.stdout.splitlines())}
    with open(ensemble / "scores.csv", newline="") as file:
        recorded = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 32
    assert len(recorded) == 16
    for name, row in recorded.items():
        assert_almost_equal(float(rows[name]["score"]), float(row["score"]))
        assert float(rows[name]["p_value"]) == float(row["p_value"])
        assert float(rows[name]["calibrated"]) == pytest.approx(float(row["calibrated"]), abs=1e-5)


def test_the_anomaly_map_is_the_mean_of_the_members_maps(images, members, ensemble):
    path = images / "test" / "blurred" / "0.png"
    maps = []
    for member in members:
        ((_, scored),) = load(member).score_files([path])
        maps.append(tf.image.resize(scored.anomaly_map[..., np.newaxis], (16, 16)).numpy()[..., 0])
    ((_, scored),) = load(ensemble).score_files([path])
    np.testing.assert_allclose(scored.anomaly_map, np.mean(maps, axis=0), rtol=1e-5, atol=1e-6)
    ranges = [load(member).heatmap_range for member in members]
    assert load(ensemble).heatmap_range == pytest.approx(tuple(np.mean(ranges, axis=0)))


def test_the_members_are_not_needed_any_more(images, members, ensemble, tmp_path):
    """An ensemble can be moved, and its members deleted."""
    copies = [shutil.copytree(member, tmp_path / "members" / member.parts[-3]) for member in members]
    assert run_command("ensemble", *copies, "--output", tmp_path / "new").exit_code == 0
    shutil.rmtree(tmp_path / "members")
    moved = (tmp_path / "new").rename(tmp_path / "moved")
    name, expected = next(iter(recorded_scores(ensemble).items()))
    np.testing.assert_array_equal(load(moved).score_images([images / name]), [expected])


def test_runs_on_changed_files_are_refused(images, members, tmp_path):
    changed = tmp_path / "parts"
    shutil.copytree(images, changed)
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(changed / "test" / "good" / "0.png")
    other = train(changed, tmp_path / "logs", "PCA", seed=1)
    assert f"{other}: its images are not those of" in refusal(members[1], other, "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_a_member_that_a_format_does_not_support_is_refused_by_name(ensemble, tmp_path, file_format):
    hparams = json.loads((ensemble / "hparams.json").read_text())
    hparams["members"][1]["experiment"] = "AnoGAN"
    copy = changed_copy(ensemble, tmp_path / "copy", **hparams)
    result = run_command("export", copy, "--format", file_format)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert f"AnoGAN cannot be exported to {file_format}" in result.output
    assert not (copy / formats.FORMATS[file_format]).exists()
