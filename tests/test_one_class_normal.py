"""`normal_label` from the command to everything that is made of its runs."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_toolbox.cli import main
from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.inference.export import metadata
from anomaly_toolbox.inference.formats import check
from anomaly_toolbox.runs import FinishedRun

COMMAND = ["--dataset", "Digits", "--set", "image_size=8"]


def invoke(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    """A grid of two normal labels for KNN and PCA with their ensembles, and a run with one anomalous label."""
    folder = tmp_path_factory.mktemp("logs")
    sections = {name: {"normal_label": {"type": "Discrete", "values": [7, 3]}} for name in ("pca", "knn")}
    (folder / "hps.json").write_text(json.dumps(sections))
    grid = ["--run-all", "--hps-path", folder / "hps.json", "--tuning", "--ensemble"]
    invoke(*COMMAND, *grid, "--log-dir", folder)
    invoke(*COMMAND, "--experiment", "PCA", "--set", "anomalous_label=3", "--log-dir", folder)
    return folder


@pytest.fixture
def run(log_dir):
    return log_dir / "PCA" / "Digits" / "normal_label=3,image_size=8,seed=0"


def test_the_run_folder_records_the_label(log_dir, run):
    names = [f"{label},image_size=8,seed=0" for label in ("anomalous_label=3", "normal_label=3", "normal_label=7")]
    assert sorted(path.name for path in (log_dir / "PCA" / "Digits").iterdir()) == names
    results, hparams = (json.loads((run / name).read_text()) for name in ("results.json", "hparams.json"))
    for labels in (results, hparams["hyperparameters"]):
        assert (labels["normal_label"], labels["anomalous_label"]) == (3, None)
    assert (results["test"]["n_normal"], results["test"]["n_anomalous"]) == (37, 323)
    assert results["test"]["auroc"] > 0.9


def test_a_finished_run_is_not_run_again(log_dir):
    command = [*COMMAND, "--experiment", "PCA", "--set", "normal_label=3", "--log-dir", log_dir]
    assert "finished before, skipped" in invoke(*command).output


def test_both_kinds_of_runs_are_reported_apart(log_dir, tmp_path):
    invoke("report", log_dir, "--output", tmp_path)
    markdown = (tmp_path / "results_table.md").read_text()
    tables = re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]
    assert [table.splitlines()[0] for table in tables] == ["Digits", "Digits, one class normal"]
    assert "| method | 3 | mean |" in tables[0]
    assert "| method | normal 3 | normal 7 | mean |" in tables[1]
    assert "| prevalence | 0.897 | 0.900 | 0.899 |" in tables[1]


def test_ensembles_have_the_label_of_their_members(log_dir, run, tmp_path):
    folders = sorted((log_dir / "Ensemble" / "Digits").iterdir())
    assert [folder.name.partition(",seed")[0] for folder in folders] == [
        f"KNN+PCA,normal_label={label}" for label in (3, 7)
    ]
    for folder, label in zip(folders, (3, 7), strict=True):
        for content in (FinishedRun.open(folder).results, FinishedRun.open(folder).hparams["hyperparameters"]):
            assert (content["normal_label"], content["anomalous_label"], content["class_label"]) == (label, None, None)
    anomalous = run.with_name("anomalous_label=3,image_size=8,seed=0")
    other = run.with_name("normal_label=7,image_size=8,seed=0")
    for refused, reason in (
        (anomalous, "anomalous_label is 3, expected None"),
        (other, "normal_label is 7, expected 3"),
    ):
        assert reason in invoke("ensemble", run, refused, "--output", tmp_path / "new", code=2).output


def test_an_ensemble_without_the_label_is_as_earlier_versions_wrote_it(log_dir, tmp_path):
    """Otherwise the same command would take the ensemble of an earlier version for another one."""
    command = [*COMMAND, "--experiment", "KNN", "--set", "anomalous_label=3", "--log-dir", log_dir]
    invoke(*command)
    members = [log_dir / method / "Digits" / "anomalous_label=3,image_size=8,seed=0" for method in ("KNN", "PCA")]
    invoke("ensemble", *members, "--output", tmp_path / "new")
    assert "normal_label" not in FinishedRun.open(tmp_path / "new").hparams["hyperparameters"]


def test_the_detector_scores_new_images(run, tmp_path):
    digit = Digits()._raw["test"].images[0, ..., 0]
    Image.fromarray(digit).save(tmp_path / "digit.png")
    prediction = invoke("predict", run, tmp_path / "digit.png").stdout.splitlines()[1]
    scores = np.genfromtxt(run / "scores.csv", delimiter=",", names=True)["score"]
    assert float(prediction.split(",")[1]) == pytest.approx(scores[0], rel=1e-4)


def test_the_metadata_of_an_export_distinguish_both_labels(run):
    for folder, label, normal_label in (
        (run, "", "3"),
        (run.with_name("anomalous_label=3,image_size=8,seed=0"), "3", ""),
    ):
        finished, _ = check(folder, "savedmodel", None, False)
        values = metadata(finished, Reading.of_run(finished.hparams, finished.image_size), ["uint8"])
        assert (values["label"], values["normal_label"]) == (label, normal_label)
