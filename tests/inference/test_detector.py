"""The detector of a finished run and `predict`: the same files get the scores of the run's `scores.csv`."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import anomaly_toolbox
from anomaly_toolbox.cli import main
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.runs import FinishedRun, Run
from anomaly_toolbox.training.trial import Trial, run_trial
from tests.conftest import TINY
from tests.datasets.test_folder import fill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    fill(folder, mode="RGB", size=(20, 24), train__good=20, test__good=8)
    return fill(folder, seed=1, mode="RGB", size=(30, 12), test__crack=8)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a finished run of PCA, whose scoring takes milliseconds."""
    hyperparameters = detector_class("PCA").Hyperparameters(**TINY["PCA"])
    trial = Trial("PCA", hyperparameters, "images", str(images), ImageFolder(images, aspect="pad"), seed=0)
    folder, _ = run_trial(trial, tmp_path_factory.mktemp("logs"), plain_console(file=io.StringIO()))
    return folder


@pytest.fixture(scope="module")
def recorded_scores(run):
    """The rows of `scores.csv` by file."""
    with open(run / "scores.csv", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def predict(*arguments):
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_scores_of_files_are_those_of_the_run(run, images, recorded_scores):
    code, out, _ = predict(run, images / "test")
    assert code == 0
    rows = {row["file"].removeprefix(f"{images}/"): row for row in csv.DictReader(io.StringIO(out))}
    assert set(recorded_scores) < set(rows)
    assert len(rows) == 16
    threshold = json.loads((run / "results.json").read_text())["test"]["threshold"]
    for name, recorded in recorded_scores.items():
        assert float(rows[name]["score"]) == pytest.approx(float(recorded["score"]), rel=1e-6)
        assert float(rows[name]["calibrated"]) == pytest.approx(float(recorded["calibrated"]), abs=1e-5)
        assert rows[name]["anomalous"] == ("yes" if float(recorded["score"]) >= threshold else "no")
        assert rows[name]["p_value"] == recorded["p_value"]


@pytest.fixture(scope="module")
def normal_scores(run):
    """The scores of the four normal validation images, from the highest to the lowest."""
    with open(run / "validation_scores.csv", newline="") as file:
        scores = [np.float32(row["paper"]) for row in csv.DictReader(file) if row["label"] == "0"]
    assert len(scores) == 4
    return sorted(scores, reverse=True)


@pytest.fixture
def earlier_run(run, tmp_path):
    """A copy of the run as an earlier version would have made it."""
    folder = tmp_path / "earlier"
    shutil.copytree(run, folder)
    (folder / "validation_scores.csv").unlink()
    results = json.loads((folder / "results.json").read_text())
    del results["sha256"]
    Run(folder, {}).finish(results)
    return folder


def test_p_values_compare_with_the_normal_validation_images(run, normal_scores):
    detector = anomaly_toolbox.load(run)
    highest, second, _, lowest = normal_scores
    scores = np.array([[2 * highest, highest], [second, lowest / 2]], np.float32)
    np.testing.assert_array_equal(detector.p_values(scores), [[1 / 5, 2 / 5], [3 / 5, 5 / 5]])


def test_a_false_alarm_rate_chooses_the_threshold(run, images, normal_scores):
    threshold = anomaly_toolbox.load(run).threshold_for(0.4)
    assert normal_scores[1] < threshold <= np.nextafter(normal_scores[1], np.float32(np.inf))
    code, out, err = predict(run, images / "test", "--false-alarm-rate", 0.4)
    assert code == 0
    assert f"the threshold is {threshold:.9g} by the false-alarm rate; that of the run is not used" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    for row in rows:
        is_anomalous = row["anomalous"] == "yes"
        assert is_anomalous == (float(row["p_value"]) <= 0.4) == (float(row["score"]) >= threshold)
    _, out_of_run, _ = predict(run, images / "test")
    verdicts_of_run = [row["anomalous"] for row in csv.DictReader(io.StringIO(out_of_run))]
    assert verdicts_of_run != [row["anomalous"] for row in rows]


def test_false_alarm_rates_that_the_run_cannot_promise_are_refused(run, images):
    for rate, message in (
        (0.01, "false-alarm rate 0.01: takes 99 normal validation images, and the run has 4; ask for at least 0.2,"),
        (1, "false-alarm rate 1: expected a number between 0 and 1"),
    ):
        code, out, err = predict(run, images / "test", "--false-alarm-rate", rate)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
        with pytest.raises(InputError, match=re.escape(message)):
            anomaly_toolbox.load(run).threshold_for(rate)


def test_a_run_of_an_earlier_version_has_no_p_values(run, images, earlier_run):
    code, out, _ = predict(earlier_run, images / "test")
    assert code == 0
    rows, rows_of_run = (list(csv.DictReader(io.StringIO(text))) for text in (out, predict(run, images / "test")[1]))
    assert rows == [{**row, "p_value": ""} for row in rows_of_run]
    _, out, _ = predict(earlier_run, images / "test", "--format", "jsonl")
    assert json.loads(out.splitlines()[0])["p_value"] is None
    message = "earlier: the run was made by an earlier version and has no validation_scores.csv; train again"
    code, _, err = predict(earlier_run, images / "test", "--false-alarm-rate", 0.4)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    detector = anomaly_toolbox.load(earlier_run)
    for call in (lambda: detector.threshold_for(0.4), lambda: detector.p_values(np.zeros(1))):
        with pytest.raises(InputError, match=message):
            call()


def test_validation_scores_are_checked(run, earlier_run, tmp_path):
    """They are part of a run unless an earlier version made it, and cannot be added to such a run."""
    shutil.copytree(run, tmp_path / "copy")
    path = tmp_path / "copy" / "validation_scores.csv"
    before = path.read_text()
    path.write_text(before.replace("0", "1"))
    with pytest.raises(ToolboxError, match=r"validation_scores\.csv is damaged or missing; restore the folder"):
        anomaly_toolbox.load(tmp_path / "copy")
    path.unlink()
    with pytest.raises(ToolboxError, match=r"validation_scores\.csv is damaged or missing"):
        anomaly_toolbox.load(tmp_path / "copy")
    (earlier_run / "validation_scores.csv").write_text(before)
    with pytest.raises(ToolboxError, match=r"validation_scores\.csv is damaged or missing"):
        anomaly_toolbox.load(earlier_run)


def test_validation_scores_can_be_read_back(run, normal_scores):
    finished = FinishedRun.open(run)
    _, labels, scores = finished.validation_scores()
    assert (labels == 0).sum() == finished.results["validation"]["n_normal"]
    assert (labels == 1).sum() == finished.results["validation"]["n_anomalous"]
    assert list(scores) == list(finished.results["validation"]["scores"])
    assert scores["paper"].max() == np.float32(finished.results["validation"]["score_max"])
    np.testing.assert_array_equal(np.sort(finished.normal_scores())[::-1], normal_scores)


@pytest.mark.parametrize(
    ("method", "bits", "options"),
    [("PCA", 8, {}), ("KNN", 16, {}), ("GANomaly", 12, {"white_level": 4095})],
)
def test_scores_are_those_of_the_run_to_the_last_digit(tmp_path, method, bits, options):
    """Files and arrays of any size and depth, alone and together, get the scores in scores.csv."""
    generator = np.random.default_rng(bits)
    for subfolder, count in (("train/good", 16), ("test/good", 6), ("test/hole", 6)):
        (tmp_path / "images" / subfolder).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 2**bits, generator.integers(9, 40, 2))
            pixels[pixels.shape[0] // 2 :] //= 2 if subfolder == "test/hole" else 1
            deep = pixels.astype(np.uint8 if bits == 8 else np.uint16)
            Image.fromarray(deep).save(tmp_path / "images" / subfolder / f"{number}.tif")
    hyperparameters = detector_class(method).Hyperparameters(**{**TINY[method], "image_size": 16})
    dataset = ImageFolder(tmp_path / "images", **options)
    trial = Trial(method, hyperparameters, "images", "images", dataset, seed=0, reading_options=options)
    folder, results = run_trial(trial, tmp_path / "logs", plain_console(file=io.StringIO()))
    with open(folder / "scores.csv", newline="") as file:
        recorded = {row["file"]: np.float32(row["score"]) for row in csv.DictReader(file)}
    code, out, _ = predict(folder, tmp_path / "images" / "test")
    assert code == 0
    rows = {row["file"].removeprefix(f"{tmp_path}/images/"): row for row in csv.DictReader(io.StringIO(out))}
    assert {name: np.float32(rows[name]["score"]) for name in recorded} == recorded
    detector = anomaly_toolbox.load(folder)
    arrays = [np.asarray(Image.open(tmp_path / "images" / name)) for name in recorded]
    expected = np.array(list(recorded.values()))
    np.testing.assert_array_equal(detector.score_images(arrays), expected)
    swapped = [array.astype(array.dtype.newbyteorder(">")) for array in arrays[3:4]]
    np.testing.assert_array_equal(detector.score_images(swapped), expected[3:4])
    validation = [row for name, row in rows.items() if name not in recorded]
    outcomes = [(float(row["score"]) >= results["validation"]["threshold"], row["anomalous"]) for row in validation]
    assert {(True, "yes"), (False, "no")} >= set(outcomes)
    assert any(is_anomalous for is_anomalous, _ in outcomes)  # the image that set the threshold reaches it


def test_a_run_without_recorded_levels_is_read_as_before(run, images, tmp_path):
    """Each image was rounded to its own levels."""
    hparams = json.loads((run / "hparams.json").read_text())
    assert hparams.pop("levels") == 255
    assert Reading.of_run(hparams, 16).levels == "own"
    assert Reading.of_run({**hparams, "fingerprint_of_images": None}, 16).levels is None


def test_a_note_on_images_with_more_bits_than_the_training_images(run, tmp_path):
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(tmp_path / "deep.png")
    code, _, err = predict(run, tmp_path)
    assert code == 0
    assert "some images have 16 bits, unlike the training images of the run; 65,535 counts as white" in err


def test_heatmaps_are_not_scored_as_images(run, tmp_path):
    fill(tmp_path / "new", **{".": 2})
    for _ in range(3):
        code, out, err = predict(run, tmp_path / "new", "--heatmaps", tmp_path / "new" / "heat", "--overwrite")
        assert code == 0
        assert len(out.splitlines()) == 3
        printed = predict(run, *sorted((tmp_path / "new").rglob("*.png")))
        assert printed[1] == out
    assert "not scored: heatmaps (2)" in err
    code, _, err = predict(run, tmp_path / "new" / "heat")
    assert code == 2
    assert "contains no images; expected PNG, JPEG, BMP or TIFF files; found heatmaps (2)" in err


def test_names_that_a_terminal_cannot_show_are_escaped(run, tmp_path):
    fill(tmp_path, **{".": 2})
    (tmp_path / "0.png").rename(tmp_path / "ü.png")
    command = [sys.executable, "-m", "anomaly_toolbox", "predict", run, tmp_path, "--heatmaps", tmp_path / "ö"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--format", "jsonl"], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["file"] for line in done.stdout.decode("ascii").splitlines()]
    assert names == [str(tmp_path / "1.png"), str(tmp_path / "ü.png")]


def test_a_closed_pipe_has_its_own_exit_code(run, images):
    command = f"{sys.executable} -m anomaly_toolbox predict {run} {images} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "141\n"
    assert "Stopped: the program that reads the output, such as head, closed it." in done.stderr


def test_arrays_and_files_score_the_same(run, images):
    detector = anomaly_toolbox.load(run)
    paths = sorted((images / "test" / "crack").iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    scores = detector.score_images(paths)
    assert scores.shape == (8,)
    np.testing.assert_allclose(detector.score_images(arrays), scores, rtol=1e-6)
    np.testing.assert_allclose(detector.score_images(np.stack(arrays)[2:3]), scores[2:3], rtol=1e-6)
    floats = [array / 255 for array in arrays]
    np.testing.assert_allclose(detector.score_images(floats), scores, rtol=1e-6)
    np.testing.assert_allclose(detector.score_images([array * np.uint16(257) for array in arrays]), scores, rtol=1e-6)
    assert detector.score_images([]).shape == (0,)
    assert detector.calibrate(scores).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"expected images of shape \(height, width, 1 or 3\), received \(4, 4, 2\)"),
        (np.full((4, 4), 3.0), r"floats in \[0, 1\], received float64 from 3.0"),
        (np.zeros((4, 4), np.int64), "received int64"),
    ],
)
def test_arrays_that_are_not_images_are_refused(run, image, message):
    with pytest.raises(ValueError, match=message):
        anomaly_toolbox.load(run).score_images([image])


def test_colours_become_the_same_grey_in_every_type(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    reading = Reading(16, 1)
    from_bytes = reading.of_array(colours)
    np.testing.assert_allclose(reading.of_array(colours / 255), from_bytes, atol=0.01)
    np.testing.assert_allclose(reading.of_array(colours.astype(np.uint16) * 257), from_bytes, atol=0.01)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ("a.png", "expected a list of images, received one path"),
        (b"content", "expected a list of images, received the content of one file"),
        (np.zeros((64, 64, 3), np.uint8), r"one image or 64; give a list"),
        ([[1, 2]], "received list"),
    ],
)
def test_a_single_image_is_refused(run, received, message):
    with pytest.raises(ValueError, match=message):
        anomaly_toolbox.load(run).score_images(received)


def test_files_that_cannot_be_used_do_not_stop_the_rest(run, images, tmp_path):
    fill(tmp_path, a=1)
    fill(tmp_path, size=(300, 40), b=1)
    (tmp_path / "a" / "bad.png").write_text("text")
    (tmp_path / "b" / "empty.jpg").touch()
    code, out, err = predict(run, tmp_path, "--format", "jsonl", "--heatmaps", tmp_path / "heat")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert "2 images scored, 2 files could not be used" in err
    assert [row.get("problem", "")[:12] for row in rows] == ["", "is not a PNG", "", "is empty"]
    assert isinstance(rows[0]["anomalous"], bool)
    for name, shape in (("a/0.png.heat.png", (252, 252, 3)), ("b/0.png.heat.png", (300, 40, 3))):
        assert np.asarray(Image.open(tmp_path / "heat" / name)).shape == shape


def test_an_existing_output_is_not_overwritten(run, images, tmp_path):
    output = tmp_path / "scores.csv"
    assert predict(run, images / "test", "--output", output)[0] == 0
    before = output.read_bytes()
    code, _, err = predict(run, images / "test" / "crack", "--output", output)
    assert (code, output.read_bytes()) == (2, before)
    assert "already exists; --overwrite replaces it" in err
    assert predict(run, images / "test" / "crack", "--output", output, "--overwrite")[0] == 0
    assert len(output.read_text().splitlines()) == 9


def test_heatmaps_replace_no_files(run, tmp_path):
    """Neither the images, nor files outside of the folder, nor each other."""
    fill(tmp_path, size=(40, 40), here=1, elsewhere=1)
    (tmp_path / "here" / "0.jpg").write_bytes((tmp_path / "here" / "0.png").read_bytes())
    (tmp_path / "here" / "0.jpg.png").write_bytes((tmp_path / "here" / "0.png").read_bytes())
    (tmp_path / "here" / "in").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*g")}
    paths = [tmp_path / "here", tmp_path / "here" / "in" / ".." / ".." / "elsewhere"]
    assert predict(run, *paths, "--heatmaps", tmp_path / "here" / "in")[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    heatmaps = set(tmp_path.rglob("*.heat.png"))
    assert len(heatmaps) == 4
    assert all(path.is_relative_to(tmp_path / "here" / "in") for path in heatmaps)
    code, _, err = predict(run, tmp_path / "here", paths[1], "--heatmaps", tmp_path / "here" / "in")
    assert code == 2
    assert "already exists; --overwrite replaces it" in err
    for given in (tmp_path / "here" / "0.png", tmp_path / "here"):
        code, _, err = predict(run, given, "--output", tmp_path / "here" / "0.png", "--overwrite")
        assert code == 2
        assert "is named like an image" in err
    assert {path: path.read_bytes() for path in before} == before


def test_a_name_that_is_not_utf8(run, tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    try:
        fill(tmp_path, a=2)
        (tmp_path / "a" / "0.png").rename(tmp_path / "a" / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert predict(run, tmp_path / "a", "--output", tmp_path / "o.csv", "--heatmaps", tmp_path / "heat")[0] == 0
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert [line.split(",")[0].rsplit("/", 1)[1] for line in lines[1:]] == ["1.png", "bad\\udcff.png"]


def test_a_link_that_leads_nowhere_does_not_stop_the_rest(run, tmp_path):
    fill(tmp_path, new=2)
    os.symlink(tmp_path / "nowhere.png", tmp_path / "new" / "link.png")
    output = tmp_path / "scores.csv"
    for _ in range(2):
        code, _, err = predict(run, tmp_path / "new", "--output", output, "--overwrite")
        assert code == 1
        assert "2 images scored, 1 file could not be used" in err


def test_wrong_paths_are_refused(run, images, tmp_path):
    for arguments, message in (
        ([run, tmp_path / "nowhere"], "nowhere: there is no such file or folder"),
        ([run, tmp_path], "contains no images"),
        ([tmp_path, images], "is not the folder of a run: there is no hparams.json in it"),
        ([run, images, "--heatmaps", run / "scores.csv"], "--heatmaps .*scores.csv: is a file; expected a folder"),
        ([run, images, "--output", tmp_path], "expected a file"),
    ):
        code, _, err = predict(*arguments)
        assert code == 2
        assert err.count("\n") == 1
        assert re.search(message, err)


def test_unfinished_and_damaged_runs_are_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "results.json").rename(tmp_path / "results.json")
    with pytest.raises(InputError, match="the run is not finished"):
        anomaly_toolbox.load(copy)
    (tmp_path / "results.json").rename(copy / "results.json")
    hparams = copy / "hparams.json"
    before = hparams.read_text()
    hparams.write_text(before.replace('"paper"', '"residual"'))
    with pytest.raises(ToolboxError, match=r"hparams\.json is damaged or missing; restore the folder from a copy"):
        anomaly_toolbox.load(copy)
    hparams.write_text(before)
    weights = copy / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ToolboxError, match=r"model\.weights\.h5 is damaged"):
        anomaly_toolbox.load(copy)


def test_heat_range_is_an_alias(run):
    """`heat_range` is the name of `heatmap_range` in earlier versions."""
    detector = anomaly_toolbox.load(run)
    recorded = json.loads((run / "results.json").read_text())["heat_range"]
    assert detector.heat_range == detector.heatmap_range == tuple(recorded)
