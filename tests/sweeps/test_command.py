"""What one command runs, and what its tables say; no trial is really run."""

import io
import json
from pathlib import Path

import pytest

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.models import METHODS
from anomaly_toolbox.report import tables
from anomaly_toolbox.report.comparison import Finished
from anomaly_toolbox.sweeps import command
from anomaly_toolbox.sweeps.plan import Options, make
from tests.conftest import made_up_results

AUPRC = {"AnoGAN": 0.3, "EGBAD": 0.9, "GANomaly": 0.5, "KNN": 0.7, "PCA": 0.4}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a sweep of trials that end at once, in 0.01 a unit of width worse; returns the trials and what was said."""

    def run(methods=tuple(METHODS), fails=lambda trial: False, **options):
        trials, said = [], io.StringIO()
        monkeypatch.setattr(command, "plain_console", lambda **_: plain_console(file=said, width=200))

        def end_at_once(trial, *_):
            trials.append(trial)
            if fails(trial):
                raise RuntimeError("the disk is full\nof other things")
            hp = trial.hyperparameters
            auprc = AUPRC[trial.experiment] - 0.001 * abs(getattr(hp, "width", 64) - 64)
            scores = {"paper": auprc, "residual": 0.2}
            if trial.experiment == "EGBAD":
                scores["mahalanobis"] = 0.123
            epochs = getattr(hp, "epochs", 0)
            results = made_up_results(trial.experiment, hp.anomalous_label, scores, hp.score, trial.seed, epochs)
            return Path(f"logs/{trial.experiment}"), results

        monkeypatch.setattr(command, "run_trial", end_at_once)
        try:
            command.run(make(Options(list(methods), "Digits", "Digits", log_dir=tmp_path / "logs", **options)))
        except ToolboxError as failure:
            if not fails(None):
                raise
            said.write(f"raised: {failure}")
        return trials, said.getvalue()

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


def test_run_all_is_every_method(run):
    trials, _ = run()
    assert [trial.experiment for trial in trials] == list(METHODS)


def test_run_all_runs_what_the_file_names(run, write):
    path = write(anogan={"anomalous_label": [3]}, ganomaly={"anomalous_label": [3]}, descargan={})
    trials, said = run(hps_path=path)
    assert [(t.experiment, t.hyperparameters.anomalous_label) for t in trials] == [("AnoGAN", 3), ("GANomaly", 3)]
    assert "left out" in said
    assert "EGBAD, KNN, PCA" in said
    path.write_text("{}")
    with pytest.raises(InputError, match="has no section"):
        run(hps_path=path)


def test_an_override_goes_to_the_methods_that_know_it(run):
    trials, _ = run(overrides=["epochs=3", "anomalous_label=4"])
    assert [getattr(trial.hyperparameters, "epochs", None) for trial in trials] == [3, 3, 3, None, None]
    assert {trial.hyperparameters.anomalous_label for trial in trials} == {4}
    with pytest.raises(InputError, match="no hyperparameter is called 'epoch'"):
        run(overrides=["epoch=3"])


def test_a_gan_that_loses_to_a_baseline_is_told_so(run):
    _, said = run(overrides=["anomalous_label=4"])
    expected = "AnoGAN loses to KNN, a baseline that knows pixels only, on anomaly 4: 0.300 against 0.700"
    assert expected in said
    assert "GANomaly loses to KNN" in said
    assert "EGBAD loses" not in said
    assert "PCA loses" not in said
    assert "loses" not in run(methods=["GANomaly"])[1]


def test_every_score_has_a_column(run):
    _, said = run()
    table = said.partition("AUPRC of every score")[2]
    assert "mahalanobis" in table
    assert "0.123" in table
    assert "AUPRC of every score" not in run(methods=["KNN"])[1]


def test_a_score_that_decides_is_named(run):
    assert "GANomaly (residual)" in run(methods=["GANomaly"], overrides=["score=residual"])[1]


def test_without_tuning_the_first_of_each(run, write):
    path = write(ganomaly={"anomalous_label": [3, 4], "width": [32, 64]})
    trials, _ = run(methods=["GANomaly"], hps_path=path)
    assert [(t.hyperparameters.anomalous_label, t.hyperparameters.width) for t in trials] == [(3, 32)]
    trials, _ = run(methods=["GANomaly"], hps_path=path, storage=str(path.parent / "journal"))
    assert len(trials) == 1


def test_tuning_chooses_for_each_label_and_over_labels(run, write):
    """The grid is run once; again, nothing is left to do and the tables are the same."""
    path = write(ganomaly={"anomalous_label": [4, 3], "width": [32, 60]}, knn={"anomalous_label": [4, 3]})
    trials, said = run(hps_path=path, tuning=True)
    hyperparameters = [trial.hyperparameters for trial in trials]
    seen = [(hp.anomalous_label, getattr(hp, "width", None)) for hp in hyperparameters]
    assert seen == [(4, 32), (4, 60), (3, 32), (3, 60), (4, None), (3, None)]
    assert "GANomaly, one setting: width=60" in said
    assert "GANomaly, each label's setting: 3: width=60; 4: width=60" in said
    (row,) = [line for line in said.splitlines() if line.startswith("GANomaly, one setting  ")]
    assert row.split()[-3:] == ["0.496", "0.496", "0.496"]
    nothing, again = run(hps_path=path, tuning=True)
    assert nothing == []
    assert again.partition("AUPRC on")[2] == said.partition("AUPRC on")[2]


def test_one_method_that_fails_does_not_lose_the_others(run, write):
    fails = lambda trial: trial is None or trial.experiment == "EGBAD"  # noqa: E731
    trials, said = run(fails=fails)
    assert len(trials) == len(METHODS)
    assert "raised: 1 of 5 trials failed; the first: EGBAD: RuntimeError: the disk is full" in said
    table = said.partition("\nfailed")[2]
    assert "EGBAD" in table
    path = write(**{method: {"anomalous_label": [1]} for method in ("egbad", "knn")})
    trials, said = run(fails=fails, hps_path=path, tuning=True)
    assert "EGBAD/anomalous_label=1" in said.partition("\nfailed")[2]
    assert "RuntimeError: the disk is full" in said
    assert [trial.experiment for trial in trials] == ["EGBAD", "KNN"]
    trials, _ = run(fails=fails, hps_path=path, tuning=True)
    assert [trial.experiment for trial in trials] == ["EGBAD"]  # what failed is tried again, what finished is not


def test_a_single_trial_that_fails_is_told_as_it_is(run):
    with pytest.raises(RuntimeError, match="the disk is full"):
        run(methods=["KNN"], fails=lambda trial: True)


def test_a_median_pruner_stops_what_is_worse(run, write, monkeypatch):
    """Five trials end at 0.5, the sixth is at 0.1 after its first epoch."""

    def run_trial(trial, log_dir, console, overwrite, watch):
        width = trial.hyperparameters.width
        watch(1, {"val_auprc": 0.1 if width == 6 else 0.5})
        watched.append(width)
        return Path("logs"), made_up_results("GANomaly", 2, {"paper": 0.5}, "paper", 0, 1)

    watched, said = [], io.StringIO()
    monkeypatch.setattr(command, "plain_console", lambda **_: plain_console(file=said, width=200))
    monkeypatch.setattr(command, "run_trial", run_trial)
    path = write(ganomaly={"width": [1, 2, 3, 4, 5, 6]})
    options = {"hps_path": path, "tuning": True, "pruner": "median", "log_dir": path.parent / "logs"}
    command.run(make(Options(["GANomaly"], "Digits", "Digits", **options)))
    assert watched == [1, 2, 3, 4, 5]
    assert "stopped early: GANomaly, width=6, after epoch 1" in said.getvalue()


@pytest.mark.parametrize("width", [20, 30, 80, 200])
def test_the_table_keeps_method_and_auprc_at_any_width(width, monkeypatch):
    """What does not fit is named."""
    monkeypatch.setenv("COLUMNS", str(width))
    said = io.StringIO()
    results = made_up_results("GANomaly", 2, {"paper": 0.123}, "paper", 0, 1)
    tables.show(plain_console(file=said, width=width), [Finished({}, results, None)], [])
    head, row = said.getvalue().splitlines()[2:4]
    assert head.split()[:3] == ["method", "anomaly", "AUPRC"]
    assert row.split()[:3] == ["GANomaly", "2", "0.123"]
    assert ("prevalence" in head) == (width >= 80)
    assert ("A wider terminal also shows" in said.getvalue()) == (width < 70)


def test_a_matrix_comes_in_parts_where_it_does_not_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    said = io.StringIO()
    made_up = [made_up_results("PCA", label, {"paper": label / 10}, "paper", 0, 0) for label in range(10)]
    runs = [Finished({}, results, None) for results in made_up]
    tables.show(plain_console(file=said, width=40), runs, [])
    lines = said.getvalue().splitlines()
    assert max(len(line) for line in lines if line.startswith(("method ", "PCA  "))) <= 40
    shown = [word for line in lines if line.startswith("PCA  ") for word in line.split()[1:]]
    assert shown == [*(f"{label / 10:.3f}" for label in range(10)), "0.450"]
    monkeypatch.delenv("COLUMNS")
    whole = io.StringIO()
    tables.show(plain_console(file=whole, width=40), runs, [])
    assert sum(line.startswith("PCA  ") for line in whole.getvalue().splitlines()) == 1


def test_names_of_sweeps_are_short_enough(tmp_path):
    path = tmp_path / ("傷" * 80 + ".json")
    path.write_text('{"pca": {"explained_variance": {"type": "Discrete", "values": [0.5, 0.9]}}}')
    plan = make(Options(["PCA"], "Digits", "D" * 250, hps_path=path, tuning=True, log_dir=tmp_path / "logs"))
    opened = command.open_sweep(plan)
    assert len(opened.name.encode()) < 200
    opened.prepare()
