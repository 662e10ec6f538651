"""Runs that earlier versions of the toolbox made.

`fixtures/run_before_formats` was made by version 0.1.0, before `hparams.json` and `results.json` had a format number:

    anomaly-box --experiment GANomaly --dataset Digits --seed 7 --set image_size=16 --set width=4 \
        --set latent_vector_size=8 --set memory_size=200 --set epochs=4

Its pictures and event files were left out.
"""

import csv
import io
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

import anomaly_toolbox
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.errors import DamagedFile, ToolboxError
from anomaly_toolbox.inference.export import export
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.weights import readable_weights
from anomaly_toolbox.report import command
from anomaly_toolbox.runs import FORMAT, FinishedRun, Run
from anomaly_toolbox.training.trial import Trial, run_trial

OLD_RUN = Path(__file__).parent / "fixtures" / "run_before_formats"


@pytest.fixture(scope="module")
def test_images():
    """Digits' test images, (n, 16, 16, 1) in [0, 1], in the order of `scores.csv`."""
    dataset = load_dataset("Digits", None, 0)
    dataset.configure(64, (16, 16), anomalous_label=2)
    return (np.concatenate([images for images, _ in dataset.test.as_numpy_iterator()]) + 1) / 2


@pytest.fixture(scope="module")
def old_scores():
    with open(OLD_RUN / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "index"}


def copy_of_run(folder, hparams=None, results=None):
    """The old run with changed values; checksums are made anew as the writer would make them."""
    shutil.copytree(OLD_RUN, folder)
    run = Run(folder, {})
    content = {**json.loads(run.hparams_path.read_text()), **(hparams or {})}
    run.hparams_path.write_text(json.dumps(content))
    finished = json.loads(run.results_path.read_text())
    finished.pop("sha256")
    run.finish({**finished, **(results or {})})
    if results:
        written = json.loads(run.results_path.read_text())
        run.results_path.write_text(json.dumps({**written, **results}))
    return folder


def test_an_old_run_scores_images_as_it_did(test_images, old_scores):
    detector = anomaly_toolbox.load(OLD_RUN)
    scores = detector.score_images(list(test_images))
    np.testing.assert_allclose(scores, old_scores["score"], rtol=2e-6)
    np.testing.assert_allclose(detector.calibrate(scores), old_scores["calibrated"], atol=1e-6)
    assert detector.threshold == 0.10971003770828247
    assert detector.heatmap_range == (1.2928031980991364, 2.0721958629786936)


def test_the_memory_banks_of_an_old_run_are_read(test_images, old_scores):
    model = load_detector(OLD_RUN)
    batches = tf.data.Dataset.from_tensor_slices(2 * test_images[:320] - 1).batch(64, drop_remainder=True)
    scores = model.score_batches(batches, 320, with_maps=True)
    assert not {"pathway", "encoder_neighbours", "paper_excess", "combined"} & set(scores)  # they were not fitted
    for name in ("residual", "latent_neighbours", "feature_neighbours", "mahalanobis"):
        np.testing.assert_allclose(scores[name], old_scores[name][:320], rtol=1e-4, atol=1e-6)
    residual_maps = np.abs(test_images[:64] - (model.reconstruct(2 * test_images[:64] - 1).numpy() + 1) / 2)[..., 0]
    assert not np.allclose(scores["map"][:64], 2 * residual_maps)  # the patches of D count too


def test_an_old_run_is_reported_with_its_figures(tmp_path):
    shutil.copytree(OLD_RUN, tmp_path / "logs" / "GANomaly" / "Digits" / "old")
    _, n_left_out = command.write(tmp_path / "logs", tmp_path / "report")
    assert n_left_out == 0
    table = (tmp_path / "report" / "results_table.csv").read_text()
    assert "GANomaly" in table
    recorded = json.loads((OLD_RUN / "results.json").read_text())["test"]["auprc"]
    assert f"{recorded:.6f}"[:7] in table


def test_an_old_run_is_exported(test_images, old_scores, tmp_path):
    path = export(OLD_RUN, "savedmodel", tmp_path / "exported")
    signature = tf.saved_model.load(str(path)).signatures["float_images"]
    outputs = signature(images=tf.constant(test_images[:8], tf.float32))
    np.testing.assert_allclose(outputs["score"], old_scores["score"][:8], rtol=1e-5)


def test_new_files_carry_the_format(tmp_path):
    run = Run(tmp_path / "run", {"experiment": "PCA"})
    with run.locked():
        run.begin()
        run.weights_path.write_bytes(b"")
        run.scores_path.write_text("")
        run.finish({"score": "paper"})
    for path in (run.hparams_path, run.results_path):
        assert json.loads(path.read_text())["format"] == FORMAT == 1


@pytest.mark.parametrize("name", ["hparams.json", "results.json"])
def test_a_newer_format_is_refused_in_one_line(tmp_path, name):
    changed = {name.partition(".")[0]: {"format": 2}}
    folder = copy_of_run(tmp_path / "run", **changed)
    with pytest.raises(ToolboxError, match=rf"{name} has format 2, .* reads formats up to 1; install a newer") as error:
        FinishedRun.open(folder)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, DamagedFile)


def test_an_interrupted_old_run_continues(tmp_path):
    """`begin` accepts the folder of a run that was begun before there were formats."""
    hparams = json.loads((OLD_RUN / "hparams.json").read_text())
    shutil.copytree(OLD_RUN, tmp_path / "run")
    run = Run(tmp_path / "run", hparams)
    with run.locked():
        run.begin()
        assert run.finished_results() is not None


def run_the_command_of_the_old_run(log_folder, **changes):
    """The command in the docstring of this file with `changes`, and with the default of `memory_size`."""
    schema = detector_class("GANomaly").Hyperparameters
    hp = schema(image_size=16, width=4, latent_vector_size=8, epochs=4, anomalous_label=2, **changes)
    output = io.StringIO()
    trial = Trial("GANomaly", hp, "Digits", "Digits", load_dataset("Digits", None, 0), seed=7)
    return run_trial(trial, log_folder, plain_console(file=output)), output.getvalue()


def test_an_old_run_with_the_earlier_default_of_memory_size_is_skipped(tmp_path):
    """Its default was 5,000. Other hyperparameters that differ are named."""
    recorded = json.loads((OLD_RUN / "hparams.json").read_text())["hyperparameters"]
    name = "anomalous_label=2,image_size=16,epochs=4,width=4,latent_vector_size=8,seed=7"
    folder = tmp_path / "GANomaly" / "Digits" / name
    folder.parent.mkdir(parents=True)
    copy_of_run(folder, hparams={"hyperparameters": {**recorded, "memory_size": 5000}})
    (run_folder, results), output = run_the_command_of_the_old_run(tmp_path)
    assert run_folder == folder
    assert "finished before, skipped" in output
    assert results["test"] == json.loads((OLD_RUN / "results.json").read_text())["test"]

    shutil.rmtree(folder)
    copy_of_run(folder, hparams={"hyperparameters": {**recorded, "memory_size": 5000, "patience": 3}})
    with pytest.raises(ToolboxError, match="patience is 3, this run has None"):
        run_the_command_of_the_old_run(tmp_path)
    shutil.rmtree(folder)
    copy_of_run(folder, hparams={"hyperparameters": {**recorded, "memory_size": 4999}})
    with pytest.raises(ToolboxError, match="memory_size is 4999, this run has 60000"):  # this was never the default
        run_the_command_of_the_old_run(tmp_path)


def test_renamed_groups_are_found_in_old_weights(tmp_path):
    with readable_weights(OLD_RUN / "model.weights.h5") as path, h5py.File(path) as file:
        assert "layers/local_feature_distance" in file
        assert "layers/surroundings" not in file
    with h5py.File(OLD_RUN / "model.weights.h5") as file:
        assert "layers/surroundings" in file  # the run itself stays as it was
