"""Which trials a command runs, and the tables and messages that it prints. The trials themselves are stubs."""

import io
import json
import re
from pathlib import Path

import pytest

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.errors import InputError, NoClasses, ToolboxError
from anomaly_toolbox.models import METHODS
from anomaly_toolbox.report import tables
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.sweeps import command
from anomaly_toolbox.sweeps.plan import Options, make_plan
from tests.conftest import made_up_results

AUPRC = dict.fromkeys(METHODS, 0.2) | {"AnoGAN": 0.3, "EGBAD": 0.9, "GANomaly": 0.5, "KNN": 0.7, "PCA": 0.4}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command whose trials are stubs; returns the trials and the printed text.

    The AUPRC of a stub is that of its method in AUPRC, less 0.001 for each unit of width away from 64. A trial fails if
    `fails` gives an error for it.
    """

    def run(methods=tuple(METHODS), fails=lambda trial: None, **options):
        trials, output = [], io.StringIO()
        monkeypatch.setattr(command, "plain_console", lambda **_: plain_console(file=output, width=200))

        def finish_at_once(trial, *_):
            trials.append(trial)
            failure = fails(trial)
            if failure:
                raise failure
            hp = trial.hyperparameters
            auprc = AUPRC[trial.experiment] - 0.001 * abs(getattr(hp, "width", 64) - 64)
            scores = {"paper": auprc, "residual": 0.2}
            if trial.experiment == "EGBAD":
                scores["mahalanobis"] = 0.123
            epochs = getattr(hp, "epochs", 0)
            results = made_up_results(trial.experiment, hp.anomalous_label, scores, hp.score, trial.seed, epochs)
            results["normal_label"] = hp.normal_label
            return Path(f"logs/{trial.experiment}"), results

        monkeypatch.setattr(command, "run_trial", finish_at_once)
        try:
            command.run(make_plan(Options(list(methods), "Digits", "Digits", log_dir=tmp_path / "logs", **options)))
        except ToolboxError as failure:
            if not trials:
                raise
            output.write(f"raised: {failure}")
        return trials, output.getvalue()

    return run


@pytest.fixture
def write(tmp_path):
    def write(**sections):
        path = tmp_path / "hps.json"
        discrete = {
            method: {name: {"type": "Discrete", "values": values} for name, values in section.items()}
            for method, section in sections.items()
        }
        path.write_text(json.dumps(discrete))
        return path

    return write


def test_run_all_runs_every_method(run):
    trials, _ = run()
    assert [trial.experiment for trial in trials] == list(METHODS)


def test_run_all_runs_the_methods_of_the_hyperparameter_file(run, write):
    path = write(anogan={"anomalous_label": [3]}, ganomaly={"anomalous_label": [3]}, descargan={})
    trials, output = run(hps_path=path)
    assert [(t.experiment, t.hyperparameters.anomalous_label) for t in trials] == [("AnoGAN", 3), ("GANomaly", 3)]
    assert "left out" in output
    assert "EGBAD, FAnoGAN, KNN, PCA" in output
    path.write_text("{}")
    with pytest.raises(InputError, match="has no section"):
        run(hps_path=path)


def test_an_override_applies_to_the_methods_that_have_the_hyperparameter(run):
    trials, _ = run(overrides=["epochs=3", "anomalous_label=4"])
    for trial in trials:
        assert getattr(trial.hyperparameters, "epochs", 3) == 3
        assert hasattr(trial.hyperparameters, "epochs") == (trial.experiment not in ("KNN", "PCA"))
    assert {trial.hyperparameters.anomalous_label for trial in trials} == {4}
    with pytest.raises(InputError, match="no hyperparameter is called 'epoch'"):
        run(overrides=["epoch=3"])


def test_a_gan_worse_than_a_baseline_is_remarked(run):
    _, output = run(overrides=["anomalous_label=4"])
    assert "AnoGAN has a lower AUPRC than the baseline KNN on label 4 (0.300 against 0.700)" in output
    assert "GANomaly has a lower AUPRC than the baseline KNN" in output
    assert "EGBAD has a lower AUPRC" not in output
    assert "PCA has a lower AUPRC" not in output
    assert "has a lower AUPRC" not in run(methods=["GANomaly"])[1]


def test_every_score_has_a_column(run):
    _, output = run()
    table = output.partition("AUPRC and AUROC of every score")[2]
    assert "mahalanobis" in table
    assert "0.123" in table
    assert "AUROC of every score" not in run(methods=["KNN"])[1]


def test_a_selected_score_other_than_the_papers_is_named(run):
    assert "GANomaly (residual)" in run(methods=["GANomaly"], overrides=["score=residual"])[1]


def test_without_tuning_the_first_value_of_each_hyperparameter_is_used(run, write):
    path = write(ganomaly={"anomalous_label": [3, 4], "width": [32, 64]})
    trials, _ = run(methods=["GANomaly"], hps_path=path)
    assert [(t.hyperparameters.anomalous_label, t.hyperparameters.width) for t in trials] == [(3, 32)]
    trials, _ = run(methods=["GANomaly"], hps_path=path, storage=str(path.parent / "journal"))
    assert len(trials) == 1


def test_tuning_chooses_for_each_label_and_over_labels(run, write):
    """The grid runs once. The same command again has nothing left to run and prints the same tables."""
    path = write(ganomaly={"anomalous_label": [4, 3], "width": [32, 60]}, knn={"anomalous_label": [4, 3]})
    trials, output = run(hps_path=path, tuning=True)
    hyperparameters = [trial.hyperparameters for trial in trials]
    grid = [(hp.anomalous_label, getattr(hp, "width", None)) for hp in hyperparameters]
    assert grid == [(4, 32), (4, 60), (3, 32), (3, 60), (4, None), (3, None)]
    assert "GANomaly, one setting (chosen by validation AUPRC): width=60" in output
    assert "GANomaly, each label's setting (chosen by validation AUPRC): 3: width=60; 4: width=60" in output
    auprc, auroc = [line for line in output.splitlines() if line.startswith("GANomaly, one setting  ")]
    assert auprc.split()[-3:] == ["0.496", "0.496", "0.496"]
    assert auroc.split()[-3:] == ["0.500", "0.500", "0.500"]
    trials, output_again = run(hps_path=path, tuning=True)
    assert trials == []
    assert output_again.partition("AUPRC on")[2] == output.partition("AUPRC on")[2]


def test_normal_labels_have_studies_and_a_table_of_their_own(run, write):
    """KNN has one class normal, PCA one anomalous: no column and no mean has both."""
    path = write(knn={"normal_label": [10, 9], "neighbours": [1, 2]}, pca={"anomalous_label": [9]})
    trials, output = run(hps_path=path, tuning=True)
    labels = [(trial.hyperparameters.normal_label, trial.hyperparameters.anomalous_label) for trial in trials]
    assert labels == [(10, None), (10, None), (9, None), (9, None), (None, 9)]
    assert "\nKNN on Digits, normal_label 10, neighbours 1\n" in output
    assert "KNN, each label's setting (chosen by validation AUPRC): normal 9: neighbours=1; normal 10:" in output
    before, after = output.split("AUPRC on the test images of Digits, one class normal\n")
    assert re.search(r"^PCA +9 +0\.4", before, re.MULTILINE)
    assert after.splitlines()[0].split() == ["method", "normal", "9", "normal", "10", "mean"]
    trials, _ = run(hps_path=path, tuning=True, overrides=["anomalous_label=3"])
    assert {(trial.hyperparameters.normal_label, trial.hyperparameters.anomalous_label) for trial in trials} == {
        (None, 3)
    }


def test_a_section_of_no_method_is_ignored_with_a_note(run, write):
    path = write(knn={"anomalous_label": [2]}, conditional_anogan={})
    _, output = run(methods=["KNN"], hps_path=path)
    assert f"{path}: the section conditional_anogan is ignored: no method is called so: did you mean cond" in output
    path = write(descargan={})
    with pytest.raises(InputError, match="the section descargan is ignored: DeScarGAN is left out: it needs labelled"):
        run(hps_path=path)


def test_why_a_section_of_descargan_is_ignored(run, write):
    path = write(knn={"anomalous_label": [2]}, descargan={"any_name": [1]})
    trials, output = run(methods=["KNN"], hps_path=path)
    assert len(trials) == 1
    (line,) = [line for line in output.splitlines() if "DeScarGAN" in line]
    assert line.startswith(
        f"{path}: the section descargan is ignored: DeScarGAN is left out: it needs labelled anomalous images"
    )
    assert "DeScarGAN" not in run(methods=["KNN"])[1]


def egbad_fails(trial):
    return RuntimeError("the disk is full\nof other things") if trial.experiment == "EGBAD" else None


def classifier_has_no_classes(trial):
    return NoClasses("there are no classes") if trial.experiment == "Classifier" else None


def test_a_method_without_the_classes_that_it_needs_is_left_out_of_several(run, write):
    trials, output = run(fails=classifier_has_no_classes)
    assert len(trials) == len(METHODS)
    assert "left out: there are no classes\n" in output
    assert "raised" not in output
    path = write(**{method: {"anomalous_label": [1]} for method in ("classifier", "knn")})
    _, output = run(fails=classifier_has_no_classes, hps_path=path, tuning=True)
    assert "left out: Classifier/anomalous_label=1: there are no classes\n" in output
    assert "raised" not in output
    _, output = run(methods=["Classifier"], fails=classifier_has_no_classes)
    assert "raised: there are no classes" in output


def test_when_a_method_fails_the_others_still_run(run, write):
    trials, output = run(fails=egbad_fails)
    assert len(trials) == len(METHODS)
    assert f"raised: 1 of {len(METHODS)} trials failed; the first: EGBAD: RuntimeError: the disk is full" in output
    table = output.partition("\nfailed")[2]
    assert "EGBAD" in table
    path = write(**{method: {"anomalous_label": [1]} for method in ("egbad", "knn")})
    trials, output = run(fails=egbad_fails, hps_path=path, tuning=True)
    assert "EGBAD/anomalous_label=1" in output.partition("\nfailed")[2]
    assert "RuntimeError: the disk is full" in output
    assert [trial.experiment for trial in trials] == ["EGBAD", "KNN"]
    trials, _ = run(fails=egbad_fails, hps_path=path, tuning=True)
    assert [trial.experiment for trial in trials] == ["EGBAD"]  # only failed trials run again


def test_the_error_of_a_single_trial_is_raised_unchanged(run):
    with pytest.raises(RuntimeError, match="the disk is full"):
        run(methods=["KNN"], fails=lambda _: RuntimeError("the disk is full"))


def test_the_median_pruner_stops_a_worse_trial(run, write, monkeypatch):
    """Five trials finish with an AUPRC of 0.5; the sixth has 0.1 after its first epoch."""

    def run_trial(trial, log_dir, console, overwrite, watch, steps):
        width = trial.hyperparameters.width
        watch(1, {"val_auprc": 0.1 if width == 6 else 0.5})
        finished_widths.append(width)
        return Path("logs"), made_up_results("GANomaly", 2, {"paper": 0.5}, "paper", 0, 1)

    finished_widths, output = [], io.StringIO()
    monkeypatch.setattr(command, "plain_console", lambda **_: plain_console(file=output, width=200))
    monkeypatch.setattr(command, "run_trial", run_trial)
    path = write(ganomaly={"width": [1, 2, 3, 4, 5, 6]})
    options = {"hps_path": path, "tuning": True, "pruner": "median", "log_dir": path.parent / "logs"}
    command.run(make_plan(Options(["GANomaly"], "Digits", "Digits", **options)))
    assert finished_widths == [1, 2, 3, 4, 5]
    assert "stopped early: GANomaly, width=6, after epoch 1" in output.getvalue()


@pytest.mark.parametrize("width", [20, 30, 80, 200])
def test_the_table_keeps_method_and_auprc_at_any_width(width, monkeypatch):
    """The metrics that do not fit are listed below the table."""
    monkeypatch.setenv("COLUMNS", str(width))
    output = io.StringIO()
    results = made_up_results("GANomaly", 2, {"paper": 0.123}, "paper", 0, 1)
    tables.show(plain_console(file=output, width=width), [ComparedRun({}, results, None)], [])
    head, line = output.getvalue().splitlines()[2:4]
    assert head.split()[:3] == ["method", "label", "AUPRC"]
    assert line.split()[:3] == ["GANomaly", "2", "0.123"]
    assert ("prevalence" in head) == (width >= 80)
    assert ("A wider terminal also shows" in output.getvalue()) == (width < 70)


def test_a_wide_table_is_split_to_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    output = io.StringIO()
    runs = []
    for label in range(10):
        results = made_up_results("PCA", label, {"paper": label / 10}, "paper", 0, 0)
        runs.append(ComparedRun({}, results, None))
    tables.show(plain_console(file=output, width=40), runs, [])
    lines = output.getvalue().splitlines()
    assert max(len(line) for line in lines if line.startswith(("method ", "PCA  "))) <= 40
    printed = [word for line in lines if line.startswith("PCA  ") for word in line.split()[1:]]
    assert printed == [*(f"{label / 10:.3f}" for label in range(10)), "0.450", *["0.500"] * 11]
    monkeypatch.delenv("COLUMNS")
    unlimited = io.StringIO()
    tables.show(plain_console(file=unlimited, width=40), runs, [])
    assert sum(line.startswith("PCA  ") for line in unlimited.getvalue().splitlines()) == 2  # AUPRC and AUROC


def test_names_of_sweeps_are_shortened(tmp_path):
    path = tmp_path / ("傷" * 80 + ".json")
    path.write_text('{"pca": {"explained_variance": {"type": "Discrete", "values": [0.5, 0.9]}}}')
    plan = make_plan(Options(["PCA"], "Digits", "D" * 250, hps_path=path, tuning=True, log_dir=tmp_path / "logs"))
    opened = command.open_sweep(plan)
    assert len(opened.name.encode()) < 200
    opened.prepare()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tuning": True}, [3]),
        ({"tuning": True, "workers": 2}, [2]),
        ({"tuning": True, "workers": 1}, []),
        ({}, []),
    ],
)
def test_a_sweep_has_one_worker_for_each_gpu(run, monkeypatch, options, expected):
    gpus = ("GPU of a test",) * 3
    for module in ("device", "sweeps.command"):
        monkeypatch.setattr(f"anomaly_toolbox.{module}.prepare_gpus", lambda: gpus)
    n_workers = []

    def work_here(plan, console, sweep, number):
        n_workers.append(number)
        sweep.work(command.TrialRunner(plan.options, console).run_in_sweep)

    monkeypatch.setattr(command, "_start_workers", work_here)
    _, output = run(["PCA"], **options)
    assert n_workers == expected
    assert "GPU of a test" in output
