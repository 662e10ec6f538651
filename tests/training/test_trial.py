"""One trial from images to metrics: its files, reproducible results, and how it continues when interrupted."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, roc_auc_score
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from anomaly_toolbox import evaluation, false_alarms
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.inference.members import load_detector
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.runs import FORMAT, Run
from anomaly_toolbox.training import callbacks, gallery, progress, summaries
from anomaly_toolbox.training import trial as trial_module
from anomaly_toolbox.training.trial import Trial, run_trial
from tests.conftest import TINY

pytestmark = pytest.mark.slow

MUCH_MEMORY = "much memory"

#: Of the run that most tests look at. Averaged weights and a falling learning rate have to continue, too.
FINISHED = {"epochs": 3, "weight_averaging": 0.9, "learning_rate_decay": True, "select_by": "auprc"}


def trial(method="GANomaly", seed=0, **changes):
    """A trial on the digits with a tiny detector; `changes` are hyperparameters."""
    values = {**TINY[method], "anomalous_label": 2, "batch_size": 64}
    if "epochs" in values:
        values["step_log_frequency"] = 5
    hyperparameters = detector_class(method).Hyperparameters(**{**values, **changes})
    return Trial(method, hyperparameters, "Digits", "Digits", Digits(), seed)


def run(folder, console=None, overwrite=False, **changes):
    """Runs a trial in a log folder -> its run folder and its results; `changes` are arguments of `trial`."""
    return run_trial(trial(**changes), folder, console or plain_console(file=io.StringIO()), overwrite)


def columns_of(folder, name="scores.csv"):
    """The columns of `scores.csv` by name, as floats."""
    with open(folder / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs: its folder, its results and its output."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "describe_memory", lambda detector: f"{MUCH_MEMORY} of {type(detector).__name__}")
        folder, results = run(tmp_path_factory.mktemp("logs"), plain_console(file=output), **FINISHED)
    return folder, results, output.getvalue()


def test_the_run_folder_holds_all_files(finished):
    folder, _, _ = finished
    names = {path.name for path in folder.iterdir() if not path.name.startswith(("events", ".lock"))}
    assert names == {
        "hparams.json",
        "model.weights.h5",
        "results.json",
        "scores.csv",
        "validation_scores.csv",
        "most_anomalous.png",
        "most_wrong.png",
        "precision_recall.png",
        "reconstructions.png",
        "scores.png",
    }


def test_the_results_describe_the_trial(finished):
    folder, results, _ = finished
    written = json.loads((folder / "results.json").read_text())
    checked_files = {"hparams.json", "model.weights.h5", "scores.csv", "validation_scores.csv", "results.json"}
    assert set(written.pop("sha256")) == checked_files
    assert written.pop("format") == FORMAT
    assert results == written
    description = {name: results[name] for name in ("experiment", "dataset", "anomalous_label", "seed", "epochs")}
    assert description == {"experiment": "GANomaly", "dataset": "Digits", "anomalous_label": 2, "seed": 0, "epochs": 3}
    assert 1 <= results["selected_epoch"] <= 3
    assert results["train_images_per_second"] > 0
    assert results["train_seconds"] > 0
    assert results["score_seconds"] == 360 / results["score_images_per_second"]
    assert (results["test"]["n_normal"], results["test"]["n_anomalous"]) == (325, 35)
    hparams = json.loads((folder / "hparams.json").read_text())
    assert hparams["hyperparameters"]["width"] == 4
    assert hparams["channels"] == 1
    assert {"tensorflow", "keras", "numpy"} <= set(hparams["versions"])


def test_scores_csv_reproduces_every_metric(finished):
    folder, results, _ = finished
    columns, validation = columns_of(folder), columns_of(folder, "validation_scores.csv")
    labels, test = columns["label"], results["test"]
    assert columns["index"].tolist() == list(range(360))
    assert test["auprc"] == average_precision_score(labels, columns["score"])
    assert test["auroc"] == roc_auc_score(labels, columns["score"])
    for name, recorded in test["scores"].items():
        recomputed = evaluation.metrics(labels, columns[name], recorded["threshold"])
        recomputed["auprc_interval"] = evaluation.auprc_interval(labels, columns[name])
        normal_scores = validation[name][validation["label"] == 0]
        recomputed["false_alarms"] = false_alarms.at_each_rate(normal_scores, labels, columns[name])
        assert recomputed == recorded
    assert test["scores"]["paper"]["auprc"] == test["auprc"]


def test_every_score_is_reported(finished):
    folder, results, _ = finished
    basic = ["discriminator", "discriminator_neighbours", "encoder_neighbours", "feature_neighbours"]
    basic += ["latent_neighbours", "mahalanobis", "patches", "pathway"]
    excess = [f"{name}_excess" for name in sorted(["paper", "residual", *basic])]
    names = ["paper", "residual", *basic, *excess, "combined"]
    complexity = ["log_ink", "log_variation"]
    assert list(columns_of(folder)) == ["index", "label", "score", "calibrated", "p_value", *names, *complexity]
    assert list(columns_of(folder, "validation_scores.csv")) == ["index", "label", *names, *complexity]
    assert list(results["test"]["scores"]) == list(results["validation"]["scores"]) == names
    assert results["score"] == "paper"
    assert results["validation"]["scores"]["paper"]["auprc"] == results["validation"]["auprc"]


def test_p_values_are_those_of_the_validation_scores(finished):
    folder, results, _ = finished
    test, validation = columns_of(folder), columns_of(folder, "validation_scores.csv")
    counts = [results["validation"][name] for name in ("n_normal", "n_anomalous")]
    assert [(validation["label"] == label).sum() for label in (0, 1)] == counts
    assert results["validation"]["auprc"] == average_precision_score(validation["label"], validation["paper"])
    normal_scores = validation["paper"][validation["label"] == 0]
    expected = [(1 + (normal_scores >= score).sum()) / (len(normal_scores) + 1) for score in test["score"]]
    np.testing.assert_allclose(test["p_value"], expected, rtol=1e-8)
    for rate, outcome in results["test"]["false_alarms"].items():
        if rate != "0.001":  # which 325 normal images are too few for
            is_alarm = test["p_value"] <= float(rate)
            assert outcome["detection_rate"] == is_alarm[test["label"] == 1].mean()
            assert outcome["false_alarm_rate"] == is_alarm[test["label"] == 0].mean()


def test_calibrated_scores_use_the_validation_scores(finished):
    folder, results, _ = finished
    columns, validation = columns_of(folder), results["validation"]
    low, high = validation["score_min"], validation["score_max"]
    expected = np.clip((columns["score"] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(columns["calibrated"], expected, atol=1e-6)
    assert low <= validation["threshold"] <= high


def test_the_detector_can_be_loaded_and_scores_the_same(finished):
    folder, _, _ = finished
    dataset = Digits()
    dataset.configure(360, (16, 16), anomalous_label=2)
    images, _ = next(iter(dataset.test))
    np.testing.assert_allclose(load_detector(folder)(images), columns_of(folder)["score"], rtol=1e-4)


def test_the_numbers_of_images_are_printed(finished):
    _, _, output = finished
    assert "train: 972 normal, 106 anomalous images" in output
    assert "test: 325 normal, 35 anomalous images" in output
    assert output.count("validation AUPRC") == 3


def test_much_memory_is_mentioned_before_the_first_epoch(finished):
    _, _, output = finished
    assert 0 < output.find(f"{MUCH_MEMORY} of GANomaly") < output.find("epoch 1/3")


def test_tensorboard_has_every_curve(finished):
    folder, _, _ = finished
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"losses/{name}" for name in ("g_loss", "d_loss", "d_real", "d_fake", "contextual")} <= tags
    assert {"validation/auprc", "validation/auroc", "validation/loss", "learning_rate/g", "learning_rate/d"} <= tags
    assert {"scores/paper/normal", "scores/paper/anomalous", "test/auprc", "kept/auprc"} <= tags
    assert any(tag.startswith("precision_recall/paper") for tag in tags)
    assert {"image, reconstruction, residual, where", "_hparams_/session_start_info"} <= tags
    assert steps_of(folder, "losses/d_loss") == [1, *range(5, 46, 5)]
    assert steps_of(folder, "validation/auprc") == [15, 30, 45]
    assert steps_of(folder, "test/auprc") == steps_of(folder, "kept/auprc") == [45]
    for kind, label in (("normal", 0), ("anomalous", 1)):
        tag = f"scores/paper/{kind}"
        assert steps_of(folder, tag) == [15, 30, 45]
        assert events.SummaryMetadata(tag).plugin_data.plugin_name == "histograms"
        counts = tf.make_ndarray(events.Tensors(tag)[-1].tensor_proto)[:, 2]
        assert counts.sum() == (columns_of(folder, "validation_scores.csv")["label"] == label).sum()
    assert values_of(folder, "validation/paper/auprc") == values_of(folder, "validation/auprc")


def test_a_score_that_is_not_finite_is_an_error_though_it_is_not_selected():
    with pytest.raises(ToolboxError, match="not finite"):
        summaries._write_scores("residual", np.array([0, 1]), np.array([np.nan, 1.0]))


def steps_of(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [event.step for event in events.Tensors(tag)]


def values_of(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]


def test_every_run_is_one_row_of_the_hparams_tab_below_any_log_folder(tmp_path):
    """The name of a run's folder may be the same for several methods and in several log folders."""
    folders = [tmp_path / logs / method / "seed=0" for logs in "ab" for method in ("KNN", "PCA")]
    for folder in folders:
        folder.mkdir(parents=True)
        for _ in range(2):  # an interrupted run that continues is still one row
            summaries.summarise_hyperparameters(folder, {"seed": 0, "width": None})
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider_of(tmp_path)))
    request = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=[0, 1, 2, 3])
    rows = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert sorted(row.name for row in rows) == sorted(str(folder.relative_to(tmp_path)) for folder in folders)
    assert all(len(row.sessions) == 1 for row in rows)


def provider_of(folder):
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(folder))


def test_a_finished_run_is_skipped(finished):
    folder, results, _ = finished
    output = io.StringIO()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}
    assert run(folder.parents[2], plain_console(file=output), **FINISHED) == (folder, results)
    assert "finished before, skipped" in output.getvalue()
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}


def test_an_interrupted_training_continues_with_the_same_results(finished, tmp_path, monkeypatch):
    """The run stops in epoch 3, and again before it is finished; averages, rates and the best epoch continue too."""
    uninterrupted, results, _ = finished
    on_train_batch_end = summaries.Summaries.on_train_batch_end

    def stop_in_epoch_3(self, batch, logs=None):
        on_train_batch_end(self, batch, logs)
        if self._epoch == 2 and batch == 7:
            self.writer.flush()
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(summaries.Summaries, "on_train_batch_end", stop_in_epoch_3)
        with pytest.raises(Stop):
            run(tmp_path, **FINISHED)
    (folder,) = (path.parent for path in tmp_path.rglob("hparams.json"))
    assert steps_of(folder, "losses/d_loss")[-1] == 35
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, **FINISHED)
    output = io.StringIO()
    _, continued_results = run(tmp_path, plain_console(file=output), **FINISHED)
    for tag in tags_of(folder):
        steps = steps_of(folder, tag)
        assert steps == sorted(set(steps)), tag  # each step once, in order
        assert steps == steps_of(uninterrupted, tag)
    for name in ("g", "d"):
        rates = values_of(folder, f"learning_rate/{name}")
        assert rates == pytest.approx([2e-4 * 2 / 3, 2e-4 / 3, 0])  # after 15, 30 and 45 of 45 steps
    assert "continuing after epoch 3 of 3" in output.getvalue()
    for part in ("validation", "test", "selected_epoch", "derived_scores"):
        assert continued_results[part] == results[part]


def tags_of(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tags()["tensors"]


class Stop(Exception):
    pass


def stop(*_, **__):
    raise Stop


def assert_equal_but_for_rounding(found, expected):
    """The last digit of a threshold differs on some processors."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal_but_for_rounding(found[name], value)
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-6)


def test_an_interrupted_encoder_fit_and_search_continue_with_the_same_results(tmp_path, monkeypatch):
    """AnoGAN stops while it fits its encoder, which starts again, and during the search, which continues."""
    changes = {"method": "AnoGAN", "epochs": 1, "validation_size": 100, "batch_size": 60, "gamma": 3}
    _, results = run(tmp_path / "uninterrupted", **changes)
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(progress.AfterFitProgress, "on_train_batch_end", stop)
        with pytest.raises(Stop):
            run(tmp_path / "interrupted", **changes)
    on_predict_batch_end = callbacks.KeepScores.on_predict_batch_end

    def save_and_stop_after_four_batches(self, batch, logs=None):
        on_predict_batch_end(self, batch, logs)
        if batch == 3:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.KeepScores, "on_predict_batch_end", save_and_stop_after_four_batches)
        with pytest.raises(Stop):
            run(tmp_path / "interrupted", **changes)
    output = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "draw", stop)  # after all images are scored and the scores saved
        with pytest.raises(Stop):
            run(tmp_path / "interrupted", plain_console(file=output), **changes)
    assert "scoring continues after 240 of 360 test images" in output.getvalue()
    _, continued_results = run(tmp_path / "interrupted", **changes)
    assert continued_results["score_images_per_second"] is None
    assert continued_results["score_seconds"] is None
    assert continued_results["selected_epoch"] == results["selected_epoch"]
    for part in ("validation", "test"):
        assert_equal_but_for_rounding(continued_results[part], results[part])
    assert {"latent_neighbours", "mahalanobis"} <= set(results["test"]["scores"])


def test_scores_that_an_earlier_version_saved_are_computed_anew(tmp_path, monkeypatch):
    """It saved no complexity, and fewer scores."""
    changes = {"method": "PCA", "image_size": 8}
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "SECONDS_BETWEEN_SAVES", -1)
        patch.setattr(gallery, "draw", stop)  # after all images are scored
        with pytest.raises(Stop):
            run(tmp_path, **changes)
    saved = sorted(tmp_path.rglob("*-scores.npz"))
    assert [path.name for path in saved] == ["test-scores.npz", "validation-scores.npz"]
    paper = {}
    for path in saved:
        with np.load(path) as file:
            content = dict(file)
        paper[path.name] = content["paper"]
        networks, images, _ = str(content["key"]).split()
        del content["complexity"]
        np.savez(path, **{**content, "key": f"{networks} {images}"})
    folder, results = run(tmp_path, **changes)
    np.testing.assert_array_equal(columns_of(folder)["paper"].astype(np.float32), paper["test-scores.npz"][:360])
    assert results["derived_scores"] is not None
    assert "combined" in results["test"]["scores"]


def test_scores_of_other_networks_are_ignored(tmp_path):
    keep_scores = callbacks.KeepScores(tmp_path / "scores.npz", "key")
    assert keep_scores.restore() == ({}, 0)
    np.savez(tmp_path / "scores.npz", key="key", batches=2, paper=np.arange(4.0))
    scores, n_batches = keep_scores.restore()
    assert scores["paper"].tolist() == [0, 1, 2, 3]
    assert n_batches == 2
    assert callbacks.KeepScores(tmp_path / "scores.npz", "other key").restore() == ({}, 0)
    (tmp_path / "scores.npz").write_bytes(b"damaged")
    assert keep_scores.restore() == ({}, 0)


@pytest.mark.parametrize("method", ["KNN", "PCA"])
def test_baselines_need_no_epochs(tmp_path, method):
    folder, results = run_trial(baseline(method), tmp_path, plain_console(file=io.StringIO()))
    assert (results["epochs"], results["selected_epoch"], results["train_images_per_second"]) == (0, None, None)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"_hparams_/session_start_info", "kept/auprc", "test/auprc"} <= set(events.Tags()["tensors"])
    assert results["test"]["auprc"] == average_precision_score(columns_of(folder)["label"], columns_of(folder)["paper"])
    dataset = Digits()
    dataset.configure(360, (16, 16), anomalous_label=2)
    images, _ = next(iter(dataset.test))
    np.testing.assert_allclose(load_detector(folder)(images), columns_of(folder)["score"], rtol=1e-4)


def baseline(method, **changes):
    schema = detector_class(method).Hyperparameters
    return Trial(method, schema(**{**TINY[method], "anomalous_label": 2, **changes}), "Digits", "Digits", Digits(), 0)


def test_knn_is_better_than_chance(tmp_path):
    _, results = run_trial(baseline("KNN", memory_size=2000), tmp_path, plain_console(file=io.StringIO()))
    assert results["test"]["auprc"] > 5 * results["test"]["prevalence"]


def test_another_score_can_be_selected(tmp_path):
    folder, results = run(tmp_path, epochs=1, score="latent_neighbours")
    assert results["score"] == "latent_neighbours"
    assert results["test"]["auprc"] == results["test"]["scores"]["latent_neighbours"]["auprc"]
    np.testing.assert_array_equal(columns_of(folder)["score"], columns_of(folder)["latent_neighbours"])


def test_a_sample_of_the_validation_images(tmp_path):
    _, results = run(tmp_path, method="PCA", validation_size=50)
    assert results["validation"]["n_normal"] + results["validation"]["n_anomalous"] == 50
    assert results["test"]["n_normal"] == 325


def test_overwriting_with_a_run_that_fails_keeps_the_earlier_run(tmp_path):
    """The finished run stays as it is if the images of the new one are refused."""
    folder, results = run(tmp_path, method="PCA")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    broken = dataclasses.replace(trial(method="PCA"), dataset=Unsteady())
    with pytest.raises(ToolboxError, match="in another order"):
        run_trial(broken, tmp_path, plain_console(file=io.StringIO()), overwrite=True)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert run(tmp_path, method="PCA") == (folder, results)


def test_a_damaged_checkpoint_is_reported(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "best_threshold", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, epochs=1)
    (weights,) = tmp_path.rglob("epoch-1.weights.h5")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ToolboxError, match="checkpoint is damaged"):
        run(tmp_path, epochs=1)
    run(tmp_path, epochs=1, overwrite=True)


def test_patience_and_the_last_epoch(tmp_path):
    """With a tiny learning rate the networks hardly change, so an early epoch stays the best and patience runs out."""
    output = io.StringIO()
    _, results = run(tmp_path, plain_console(file=output), epochs=9, learning_rate=1e-30, patience=2)
    n_epochs = output.getvalue().count("validation AUPRC")
    assert n_epochs <= 5
    assert f"stopped after epoch {n_epochs}: no epoch was better for 2 epochs (patience)" in output.getvalue()
    assert results["selected_epoch"] == n_epochs - 2
    assert (results["epochs"], results["steps"]) == (n_epochs, 15 * n_epochs)
    folder, results = run(tmp_path, epochs=2, step_log_frequency=1000)
    assert results["selected_epoch"] == 2
    assert steps_of(folder, "losses/d_loss") == [1, 15, 30]  # the first step and the end of each epoch


def test_a_batch_larger_than_the_training_set(tmp_path):
    with pytest.raises(InputError, match="batch_size: 2000 is larger than the training set"):
        run(tmp_path, batch_size=2000)


class NoAnomalousValidation(Digits):
    def configure(self, *arguments, **options):
        super().configure(*arguments, **options)
        self._validation = self._validation_normal


def test_without_anomalous_validation_images_the_loss_selects_the_epoch(tmp_path):
    output = io.StringIO()
    changed_trial = dataclasses.replace(trial(epochs=2, select_by="auprc"), dataset=NoAnomalousValidation())
    _, results = run_trial(changed_trial, tmp_path, plain_console(file=output))
    assert "the epoch with the lowest loss is kept" in output.getvalue()
    assert output.getvalue().count("validation residual") == 2
    assert results["validation"]["auprc"] is None
    highest = results["validation"]["score_max"]
    assert results["validation"]["threshold"] == min(highest, float(f"{highest:.9g}"))  # as it is printed
    assert results["test"]["auprc"] > 0


class OtherAnomalies(Digits):
    """The anomalous validation images are white."""

    def configure(self, *arguments, **options):
        super().configure(*arguments, **options)
        self._validation = self._validation.map(
            lambda images, labels: (tf.where(labels[:, None, None, None] == 1, 1.0, images), labels)
        )


def test_the_heatmap_range_does_not_depend_on_anomalous_validation_images(tmp_path):
    _, results = run(tmp_path / "a", method="PCA")
    changed_trial = dataclasses.replace(trial(method="PCA"), dataset=OtherAnomalies())
    _, changed_results = run_trial(changed_trial, tmp_path / "b", plain_console(file=io.StringIO()))
    assert changed_results["heat_range"] == results["heat_range"]
    assert changed_results["validation"]["score_max"] != results["validation"]["score_max"]


class Unsteady(Digits):
    """The test images come in another order each time."""

    def configure(self, *arguments, **options):
        super().configure(*arguments, **options)
        self._test = self._test.unbatch().shuffle(1000).batch(60)


def test_a_split_with_another_order_each_time_is_refused_by_name(tmp_path):
    unsteady = dataclasses.replace(trial(method="PCA"), dataset=Unsteady())
    with pytest.raises(ToolboxError, match=r"^Unsteady\.test gives other images, or in another order"):
        run_trial(unsteady, tmp_path, plain_console(file=io.StringIO()))
    assert not list(tmp_path.rglob("results.json"))


def test_a_wrong_number_of_test_files_is_refused(tmp_path):
    pca_trial = trial(method="PCA")
    pca_trial.dataset.test_files = ["1.png"]
    with pytest.raises(ToolboxError, match=r"Digits\.test_files has 1 names, expected one for each of the 360"):
        run_trial(pca_trial, tmp_path, plain_console(file=io.StringIO()))


def test_a_training_that_diverges_is_reported(tmp_path):
    with pytest.raises(ToolboxError, match=r"^training diverged: \w+ is (inf|nan) in epoch 1; try a lower"):
        run(tmp_path, contextual_loss_weight=1e39)


def test_without_a_label_the_default_of_the_dataset_is_used(tmp_path):
    folder, results = run(tmp_path, method="PCA", anomalous_label=None)
    assert results["anomalous_label"] == 2
    assert folder.name.startswith("anomalous_label=2")


def test_each_step_is_traced_once_in_three_epochs(tmp_path, monkeypatch):
    traced = []
    cls = detector_class("GANomaly")

    def record_calls(name):
        step = getattr(cls, name)

        def recorded_step(self, x):
            traced.append(name)
            return step(self, x)

        monkeypatch.setattr(cls, name, recorded_step)

    record_calls("train_step")
    record_calls("predict_step")
    run(tmp_path, epochs=3)
    assert sorted(traced) == ["predict_step", "train_step"]


@pytest.mark.parametrize("method", ["KNN", "GANomaly"])
def test_a_finished_run_without_results_is_completed_again(method, tmp_path):
    changes = {"method": method} if method == "KNN" else {"method": method, "epochs": 1}
    folder, _ = run(tmp_path, **changes)
    scores = (folder / "scores.csv").read_text()
    (folder / "results.json").unlink()
    assert run(tmp_path, **changes)[0] == folder
    assert (folder / "results.json").exists()
    assert (folder / "scores.csv").read_text() == scores
