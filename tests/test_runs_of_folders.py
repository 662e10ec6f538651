"""Runs on a folder of images: with masks, and with normal images alone."""

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import anomaly_toolbox
from anomaly_toolbox.cli import main
from tests.datasets.test_folder import fill

pytestmark = pytest.mark.slow


def anomaly_box(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


def only_run(log_dir):
    (results,) = log_dir.rglob("results.json")
    return results.parent, json.loads(results.read_text())


def tensorboard_tags(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tags()["tensors"]


def png(pixels):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def parts(tmp_path):
    """Grey noise; defects are bright squares, with masks."""
    folder = fill(tmp_path / "my parts", size=(16, 16), train__good=24, test__good=8, test__spot=8)
    (folder / "ground_truth" / "spot").mkdir(parents=True)
    for number, path in enumerate(sorted((folder / "test" / "spot").iterdir())):
        pixels, mask = np.array(Image.open(path)) // 4, np.zeros((16, 16), np.uint8)
        mask[number : number + 5, 4:9] = 255
        pixels[mask > 0] = 255
        Image.fromarray(pixels).save(path)
        Image.fromarray(mask).save(folder / "ground_truth" / "spot" / f"{path.stem}_mask.png")
    for path in folder.glob("*/good/*.png"):
        Image.fromarray(np.array(Image.open(path)) // 4).save(path)
    return folder


def test_masks_measure_the_anomaly_maps(parts, tmp_path):
    logs = tmp_path / "logs"
    code, out, _ = anomaly_box("--experiment", "PCA", "--dataset", parts, "--set", "image_size=16", "--log-dir", logs)
    assert code == 0
    folder, results = only_run(logs)
    assert folder.parent.name == "my-parts"
    assert results["test"]["pro"] > 0.9
    assert results["test"]["pixel_auroc"] > 0.9
    assert results["test"]["pixel_prevalence"] == pytest.approx(25 / 256 / 2)
    assert "anomaly maps of PCA: pixel AUROC" in out
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].startswith("test/spot/") for row in rows] == [row["label"] == "1" for row in rows]
    assert (folder / "where.png").exists()
    assert "where, the highest test scores of each folder" in tensorboard_tags(folder)
    assert anomaly_box("report", logs)[0] == 0
    assert "PRO" in (logs / "report.html").read_text()
    assert "on the original images" in (logs / "report.html").read_text()
    assert "PRO of the anomaly maps:" in (logs / "results_table.md").read_text()


def test_another_aspect_or_other_images_are_another_run(parts, tmp_path):
    arguments = ["--experiment", "PCA", "--dataset", parts, "--set", "image_size=16", "--log-dir", tmp_path / "logs"]
    assert anomaly_box(*arguments)[0] == 0
    assert anomaly_box(*arguments, "--aspect", "pad")[0] == 0
    assert len(list((tmp_path / "logs").rglob("results.json"))) == 2
    for same in ([], ["--aspect", "stretch"], ["--on-bad-image", "skip"]):
        assert "finished before, skipped" in anomaly_box(*arguments, *same)[1]
    assert anomaly_box("report", tmp_path / "logs")[0] == 0
    table = (tmp_path / "logs" / "results_table.md").read_text()
    assert "the same run" not in table
    assert "aspect=" in (tmp_path / "logs" / "report.html").read_text()
    fill(parts, seed=9, test__scratch=1)
    code, _, err = anomaly_box(*arguments)
    assert code == 1
    assert "the images have changed since this run was made; choose another --log-dir" in err
    assert anomaly_box(*arguments[:-1], tmp_path / "logs" / "later")[0] == 0
    assert anomaly_box("report", tmp_path / "logs")[0] == 0
    assert "its images are not those of" in (tmp_path / "logs" / "results_table.md").read_text()


def test_masks_are_checked_before_the_training(parts, tmp_path):
    """The masks of validation images, too."""
    options = ["--experiment", "PCA", "--dataset", parts, "--set", "image_size=16", "--log-dir", tmp_path / "logs"]
    mask = parts / "ground_truth" / "spot" / "3_mask.png"
    for content, message in (
        (b"text", "is not a PNG"),
        (png(np.zeros((8, 8), np.uint8) + 255), "has 8 x 8 pixels, its image 16 x 16"),
        (png(np.zeros((16, 16), np.uint8)), "marks nothing, but its image"),
    ):
        mask.write_bytes(content)
        code, out, err = anomaly_box(*options)
        assert code == 1
        assert f"3_mask.png: {message}" in err
        assert "train:" not in out
        assert not list((tmp_path / "logs").rglob("hparams.json"))
    code, out, _ = anomaly_box(*options, "--on-bad-image", "skip")
    assert code == 0
    assert "left out: " in out
    mask.unlink()
    code, out, _ = anomaly_box(*options, "--all-test-images")
    assert code == 0
    assert "1 of 8 anomalous test images have no mask, such as" in out
    assert "pixel AUROC" not in out


@pytest.mark.parametrize("method", ["PCA", "GANomaly"])
def test_normal_images_alone(tmp_path, method):
    logs, images = tmp_path / "logs", fill(tmp_path / "images", normal=40)
    tiny = ["image_size=16", "batch_size=8"] + (["width=4", "epochs=2"] if method == "GANomaly" else [])
    options = [part for value in tiny for part in ("--set", value)]
    code, out, _ = anomaly_box("--experiment", method, "--dataset", images, "--log-dir", logs, *options)
    assert code == 0
    assert "nothing can be measured" in out
    assert "no anomalous test images, so nothing is measured" in out
    folder, results = only_run(logs)
    assert results["test"]["auprc"] is None
    assert results["test"]["scores"]["residual"]["auprc_interval"] is None
    assert not (folder / "precision_recall.png").exists()
    assert (folder / "most_anomalous.png").exists()
    scores = anomaly_toolbox.load(folder).score_images(sorted((images / "normal").iterdir()))
    assert len(set(scores)) == 40
    assert anomaly_box("report", logs)[0] == 0
    assert "nothing to compare" in (logs / "results_table.md").read_text()


def test_notes_and_options_that_are_not_supported(parts, tmp_path):
    (parts / "train" / "good" / "bad.png").write_text("text")
    arguments = ["--experiment", "PCA", "--dataset", parts, "--set", "image_size=16", "--log-dir", tmp_path / "logs"]
    code, _, err = anomaly_box(*arguments)
    assert code == 1
    assert "bad.png: is not a PNG" in err
    code, out, _ = anomaly_box(*arguments, "--on-bad-image", "skip")
    assert code == 0
    assert "left out: " in out
    code, _, err = anomaly_box(
        "--experiment", "PCA", "--dataset", "Digits", "--aspect", "pad", "--log-dir", tmp_path / "logs"
    )
    assert code == 2
    assert "--aspect: is not supported by --dataset Digits" in err
