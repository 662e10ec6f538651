"""Ensembles from the command to predictions and exports, with members of different methods, sizes and scores."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import average_precision_score

from anomaly_toolbox import load
from anomaly_toolbox.cli import main
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.runs import FinishedRun, Run

OLD_RUN = Path(__file__).parents[1] / "fixtures" / "run_before_formats"


def run_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(log_dir, method, *settings, label=2):
    """Trains on Digits and returns the run folder."""
    options = [option for setting in settings for option in ("--set", setting)]
    label_option = ("--set", f"anomalous_label={label}")
    before = set(log_dir.glob(f"{method}/Digits/*"))
    result = run_command("--experiment", method, "--dataset", "Digits", *label_option, *options, "--log-dir", log_dir)
    assert result.exit_code == 0, result.output
    (folder,) = set(log_dir.glob(f"{method}/Digits/*")) - before
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """PCA with the paper's score, KNN of another size with an excess score, PCA with `combined`.

    The last two have scored different samples of the validation images.
    """
    log_dir = tmp_path_factory.mktemp("logs")
    return [
        train(log_dir, "PCA", "image_size=8"),
        train(log_dir, "KNN", "image_size=12", "score=paper_excess", "validation_size=120"),
        train(log_dir, "PCA", "image_size=16", "score=combined", "validation_size=200"),
    ]


@pytest.fixture(scope="module")
def ensemble(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "all"
    result = run_command("ensemble", *members, "--output", folder)
    assert result.exit_code == 0, result.output
    assert "member KNN (paper_excess, seed 0)" in result.output
    return folder


def table(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def u(scores, normal_scores):
    if normal_scores.min() >= 0:
        scores, normal_scores = np.log(scores), np.log(normal_scores)
    median = np.median(normal_scores)
    return (scores - median) / (1.4826 * np.median(np.abs(normal_scores - median)))


def selected_scores(folder, positions):
    """The scores of the normal validation images at some positions of the split, and those of the test images."""
    score = json.loads((folder / "results.json").read_text())["score"]
    validation = table(folder / "validation_scores.csv")
    is_wanted = np.isin(validation["index"], positions) & (validation["label"] == 0)
    return validation[score][is_wanted], table(folder / "scores.csv")["score"]


def test_scores_and_p_values_can_be_recomputed_from_the_members(members, ensemble):
    validation, test = table(ensemble / "validation_scores.csv"), table(ensemble / "scores.csv")
    positions = [set(table(member / "validation_scores.csv")["index"]) for member in members]
    assert positions[1] - positions[2]
    assert positions[2] - positions[1]
    assert list(validation["index"]) == sorted(positions[0] & positions[1] & positions[2])
    parts, p_values = [], []
    for member in members:
        normal_scores, test_scores = selected_scores(member, validation["index"])
        parts.append(u(test_scores, normal_scores))
        n_at_or_above = (normal_scores >= test_scores[:, np.newaxis]).sum(axis=1)
        p_values.append((1 + n_at_or_above) / (len(normal_scores) + 1))
    np.testing.assert_allclose(test["score"], np.mean(parts, axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(test["fisher"], -np.log(p_values).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(test["maximum"], np.max(parts, axis=0), rtol=1e-5, atol=1e-5)
    normal = validation["mean"][validation["label"] == 0]
    at_or_above = (normal.astype(np.float32) >= test["score"].astype(np.float32)[:, np.newaxis]).sum(axis=1)
    np.testing.assert_allclose(test["p_value"], (1 + at_or_above) / (len(normal) + 1), rtol=1e-6)


def test_results_have_the_metrics_of_the_ensemble_and_of_its_members(members, ensemble):
    results, test = json.loads((ensemble / "results.json").read_text()), table(ensemble / "scores.csv")
    assert results["test"]["auprc"] == pytest.approx(average_precision_score(test["label"], test["score"]))
    assert set(results["test"]["scores"]) == {"mean", "fisher", "maximum"}
    assert [member["experiment"] for member in results["members"]] == ["PCA", "KNN", "PCA"]
    for member, folder in zip(results["members"], members, strict=True):
        assert member["auprc"] == json.loads((folder / "results.json").read_text())["test"]["auprc"]


def test_the_order_of_the_members_does_not_matter(members, ensemble, tmp_path):
    assert run_command("ensemble", *reversed(members), "--output", tmp_path / "other").exit_code == 0
    scores = table(tmp_path / "other" / "scores.csv")["score"]
    np.testing.assert_allclose(scores, table(ensemble / "scores.csv")["score"], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def test_images():
    """Digits' test images, (n, 8, 8, 1), uint8, in the order of `scores.csv`."""
    dataset = load_dataset("Digits", None, 0)
    dataset.configure(64, (8, 8), anomalous_label=2)
    images = np.concatenate([images for images, _ in dataset.test.as_numpy_iterator()])
    return np.round((images + 1) * 127.5).astype(np.uint8)


def test_a_loaded_ensemble_gives_the_scores_of_scores_csv_in_any_batch(ensemble, test_images):
    detector = load(ensemble)
    scores, expected = detector.score_images(list(test_images[:90])), table(ensemble / "scores.csv")
    np.testing.assert_allclose(scores, expected["score"][:90], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(detector.score_images([test_images[7]]), scores[7:8], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores >= detector.threshold_for(0.05), detector.p_values(scores) <= 0.05)
    assert detector.image_shape == (16, 16, 1)


def test_predict_scores_files_and_draws_heatmaps(ensemble, test_images, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.fromarray(test_images[number, ..., 0]).save(images / f"{number}.png")
    output = tmp_path / "out.csv"
    result = run_command("predict", ensemble, images, "--heatmaps", tmp_path / "heat", "--output", output)
    assert result.exit_code == 0, result.output
    with open(output, newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(scores, load(ensemble).score_images(list(test_images[:3])), rtol=1e-5)
    assert len(list((tmp_path / "heat").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["savedmodel", "onnx", "tflite"])
def test_exports_equal_the_loaded_ensemble(ensemble, test_images, tmp_path, file_format):
    if file_format == "onnx":
        pytest.importorskip("tf2onnx")
    path = tmp_path / "export"
    result = run_command("export", ensemble, "--format", file_format, "--output", path)
    assert result.exit_code == 0, result.output
    images = test_images[:5]
    match file_format:
        case "savedmodel":
            outputs = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(images))
        case "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(None, {"images": images}), strict=True))
        case "tflite":
            outputs = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")(images=images)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    expected = [scored for _, scored in load(ensemble).score_files(paths)]
    for name, tolerance in (("score", 1e-3), ("calibrated", 1e-3), ("p_value", 1e-6)):
        np.testing.assert_allclose(outputs[name], [getattr(scored, name) for scored in expected], atol=tolerance)
    assert list(outputs["anomalous"]) == [scored.is_anomalous for scored in expected]
    np.testing.assert_allclose(outputs["map"], [scored.anomaly_map for scored in expected], atol=1e-3)
    assert outputs["reconstruction"].shape == (5, 16, 16, 1)


def test_the_report_shows_the_ensemble_with_its_members(members, ensemble, tmp_path):
    shutil.copytree(members[0].parents[2], tmp_path / "logs")
    shutil.copytree(ensemble, tmp_path / "logs" / "Ensemble" / "Digits" / "all")
    result = run_command("report", tmp_path / "logs")
    assert result.exit_code == 0, result.output
    markdown = (tmp_path / "logs" / "results_table.md").read_text()
    assert "Ensemble of 2 PCA + KNN" in markdown
    assert "mean member" in markdown
    assert "best member" in markdown


def test_the_same_command_again_changes_nothing(members, ensemble):
    before = (ensemble / "results.json").stat().st_mtime_ns
    assert run_command("ensemble", *members, "--output", ensemble).exit_code == 0
    assert (ensemble / "results.json").stat().st_mtime_ns == before


def test_an_interrupted_ensemble_is_made_by_the_same_command(members, ensemble, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(ensemble, folder)
    (folder / "results.json").unlink()
    (folder / "scores.csv").write_text("half")
    assert run_command("ensemble", *members, "--output", folder).exit_code == 0
    assert (folder / "scores.csv").read_text() == (ensemble / "scores.csv").read_text()
    FinishedRun.open(folder)


def test_an_attempt_that_was_killed_at_once_leaves_nothing_in_the_way(members, tmp_path):
    (tmp_path / "all").mkdir()
    for name in (".lock", ".4711.hparams.json"):
        (tmp_path / "all" / name).touch()
    assert run_command("ensemble", *members, "--output", tmp_path / "all").exit_code == 0


def test_a_replacement_can_be_interrupted_at_any_file(members, ensemble, tmp_path, monkeypatch):
    """The members are complete, and the same command makes the ensemble."""
    folder, unlink, before = tmp_path / "all", Path.unlink, [contents(member) for member in members]
    command = ("ensemble", *members[:2], "--output", folder, "--overwrite")
    for number in range(1, 7):
        deleted = []

        def interrupt(path, deleted=deleted, number=number, **options):
            if path.parent == folder and len(deleted) == number:
                raise KeyboardInterrupt
            deleted.append(path)
            unlink(path, **options)

        shutil.copytree(ensemble, folder)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupt)
            assert run_command(*command).exit_code == 130
        assert run_command(*command).exit_code == 0
        assert len(FinishedRun.open(folder).results["members"]) == 2
        shutil.rmtree(folder)
    assert [contents(member) for member in members] == before


def test_nothing_that_no_ensemble_wrote_is_deleted(members, ensemble, tmp_path):
    """Not even with `--overwrite`, and not from the folder of an unfinished ensemble."""
    folder = tmp_path / "all"
    shutil.copytree(ensemble, folder)
    (folder / "notes.txt").write_text("mine")
    for is_finished in (True, False):
        if not is_finished:
            (folder / "results.json").unlink()
        for option in ([], ["--overwrite"]):
            refused = run_command("ensemble", *members[:2], "--output", folder, *option)
            assert refused.exit_code == 2
            assert "holds notes.txt, which no ensemble wrote; move it, or choose another folder" in refused.output
    (folder / "notes.txt").unlink()
    (folder / "model.onnx").touch()  # an export of the ensemble that is replaced
    assert "holds another ensemble; --overwrite replaces it" in refusal(*members[:2], "--output", folder)
    assert run_command("ensemble", *members[:2], "--output", folder, "--overwrite").exit_code == 0
    assert not (folder / "model.onnx").exists()


@pytest.mark.parametrize("content", [None, "{"])
def test_an_ensemble_with_damaged_hparams_can_be_made_again(members, ensemble, tmp_path, content):
    folder = tmp_path / "all"
    shutil.copytree(ensemble, folder)
    if content is None:
        (folder / "hparams.json").unlink()
    else:
        (folder / "hparams.json").write_text(content)
    refused = run_command("ensemble", *members, "--output", folder)
    assert refused.exit_code == 1
    assert "hparams.json is" in refused.output
    assert "; --overwrite makes the ensemble again" in refused.output
    assert run_command("ensemble", *members, "--output", folder, "--overwrite").exit_code == 0
    assert len(FinishedRun.open(folder).results["members"]) == 3


def test_an_ensemble_of_another_version_is_the_same(members, ensemble, tmp_path):
    folder = changed_copy(ensemble, tmp_path / "all", versions={"anomaly-toolbox": "9"})
    before = contents(folder)
    assert run_command("ensemble", *members, "--output", folder).exit_code == 0
    assert contents(folder) == before


def test_another_ensemble_is_replaced_only_if_asked(members, ensemble, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(ensemble, folder)
    arguments = ("ensemble", *members[:2], "--output", folder)
    refused = run_command(*arguments)
    assert refused.exit_code == 2
    assert "holds another ensemble; --overwrite replaces it" in refused.output
    assert run_command(*arguments, "--overwrite").exit_code == 0
    assert len(json.loads((folder / "results.json").read_text())["members"]) == 2


def test_a_damaged_ensemble_is_replaced_only_if_asked(members, ensemble, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(ensemble, folder)
    (folder / "scores.csv").write_text("damaged")
    refused = run_command("ensemble", *members, "--output", folder)
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert "scores.csv is damaged or missing; --overwrite makes the ensemble again" in refused.output
    assert run_command("ensemble", *members, "--output", folder, "--overwrite").exit_code == 0
    FinishedRun.open(folder)


@pytest.fixture(scope="module")
def other_label(tmp_path_factory):
    return train(tmp_path_factory.mktemp("label"), "PCA", "image_size=8", label=3)


def refusal(*arguments):
    """The single line of an error with exit code 2."""
    result = run_command("ensemble", *arguments)
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1
    return result.output


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_unsuitable_members_are_refused_in_one_line(members, ensemble, other_label, tmp_path):
    output = ("--output", tmp_path / "new")
    assert "takes at least two runs, received 1" in refusal(members[0], *output)
    assert "is the same run as" in refusal(members[0], members[0], *output)
    copy = tmp_path / "copy"
    shutil.copytree(members[0], copy)
    assert "is the same run as" in refusal(members[0], copy, *output)
    (tmp_path / "link").symlink_to(members[0])
    assert "is the same run as" in refusal(members[0], tmp_path / "link", *output)
    assert "anomalous_label is 3, expected 2" in refusal(members[0], other_label, *output)
    assert "is an ensemble; give its members instead" in refusal(members[0], ensemble, *output)
    assert "has no validation_scores.csv; train again" in refusal(members[0], OLD_RUN, *output)
    assert "is not the folder of a run" in refusal(members[0], tmp_path, *output)
    (copy / "results.json").unlink()
    assert "the run is not finished" in refusal(members[1], copy, *output)
    assert not (tmp_path / "new").exists()


def changed_copy(folder, copy, change=lambda copy: None, **changes):
    """A copy of a run with other values in `hparams.json`, or changed files, and checksums that match."""
    shutil.copytree(folder, copy)
    change(copy)
    run = Run(copy, {})
    hparams = json.loads(run.hparams_path.read_text())
    run.hparams_path.write_text(json.dumps(hparams | changes))
    results = json.loads(run.results_path.read_text())
    results.pop("sha256")
    run.finish(results)
    return copy


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scores.csv", lambda rows: [rows[0], *rows[2:], rows[1]], "its images are not those of"),
        ("scores.csv", lambda rows: rows[:-1], "its images are not those of"),
        (
            "validation_scores.csv",
            lambda rows: [rows[0], *(f"{n}{row[row.index(',') :]}" for n, row in enumerate(rows[2:]))],
            "its images are not those of",
        ),
        (
            "validation_scores.csv",
            lambda rows: [rows[0], *(f"999{row}" for row in rows[1:])],
            "has scored no validation image that the runs before it have scored",
        ),
    ],
)
def test_scores_of_other_images_are_refused(members, tmp_path, name, change, message):
    """The sizes differ, so the checksums of the images cannot be compared; labels and positions can."""

    def rewrite(copy):
        rows = (copy / name).read_text().splitlines()
        (copy / name).write_text("\n".join(change(rows)) + "\n")

    copy = changed_copy(members[0], tmp_path / "copy", rewrite, seed=1)
    assert message in refusal(members[1], copy, "--output", tmp_path / "new")


def test_a_member_without_a_spread_is_refused(members, tmp_path):
    def set_all_scores_to_1(copy):
        header, *rows = (copy / "validation_scores.csv").read_text().splitlines()
        rows = [",".join([*row.split(",")[:2], *["1"] * (header.count(",") - 1)]) for row in rows]
        (copy / "validation_scores.csv").write_text("\n".join([header, *rows]) + "\n")

    copy = changed_copy(members[0], tmp_path / "copy", set_all_scores_to_1, seed=1)
    expected = "all normal validation images have the same score, so it cannot be a member"
    assert expected in refusal(members[1], copy, "--output", tmp_path / "new")


def test_runs_of_one_size_on_other_pixels_are_refused(members, tmp_path):
    """Compared with every other member, not with the first alone."""
    copy = changed_copy(members[1], tmp_path / "copy", digest_of_images="0", seed=1)
    line = refusal(members[0], members[1], copy, "--output", tmp_path / "new")
    assert f"{copy}: its images are not those of {members[1]}" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "MNIST"}, "its dataset: MNIST, expected Digits as in"),
        ({"fingerprint_of_images": "0"}, "its images are not those of"),
        ({"channels": 3}, "the channels of its images: 3, expected 1 as in"),
        ({"aspect": "pad"}, "--aspect: pad, expected None as in"),
        ({"white_level": 4095}, "--white-level: 4095, expected None as in"),
        ({"reading": {"split": "pooled"}}, "the options for its images: {'split': 'pooled'}, expected {} as in"),
    ],
)
def test_members_with_other_images_are_refused(members, tmp_path, changes, message):
    copy = changed_copy(members[0], tmp_path / "copy", **changes, seed=1)
    assert message in refusal(members[1], copy, "--output", tmp_path / "new")


def test_a_damaged_member_is_refused(members, tmp_path):
    shutil.copytree(members[0], tmp_path / "copy")
    (tmp_path / "copy" / "model.weights.h5").write_bytes(b"")
    result = run_command("ensemble", members[1], tmp_path / "copy", "--output", tmp_path / "new")
    assert result.exit_code == 1
    assert "model.weights.h5 is damaged" in result.output


def test_no_member_and_no_other_file_is_ever_deleted(members, ensemble, tmp_path):
    log_dir = tmp_path / "logs"
    shutil.copytree(members[0].parents[2], log_dir)
    copies = [log_dir / member.relative_to(members[0].parents[2]) for member in members]
    shutil.copytree(ensemble, tmp_path / "outer")
    inner = tmp_path / "outer" / "member"
    shutil.copytree(copies[0], inner)
    (tmp_path / "link").symlink_to(copies[0])
    (copies[0] / "notes").mkdir()
    (tmp_path / "link to notes").symlink_to(copies[0] / "notes")
    before = contents(tmp_path)
    in_member = (copies[0] / "new", copies[0] / "notes", tmp_path / "link to notes", tmp_path / "link to notes" / "new")
    for output in (copies[0], log_dir, tmp_path / "link", *in_member):
        assert "choose another folder" in refusal(*copies, "--output", output, "--overwrite")
    other_run = refusal(*copies[1:], "--output", tmp_path / "outer", "--overwrite")
    assert f"outer: holds another run, {inner}; choose another folder" in other_run
    (tmp_path / "outer link").symlink_to(tmp_path / "outer")
    (tmp_path / "outer" / "link").symlink_to(copies[0])
    for member in (inner, tmp_path / "outer" / "link", tmp_path / "outer link" / "link"):
        for output in (tmp_path / "outer", tmp_path / "outer link"):
            line = refusal(member, copies[1], "--output", output, "--overwrite")
            assert f"{output}: shares files with the member {member}; choose another folder" in line
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        assert "choose another folder" in refusal(*copies, "--output", tmp_path / name, "--overwrite")
    assert contents(tmp_path).items() >= before.items()
