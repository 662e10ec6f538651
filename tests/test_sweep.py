"""What one command runs, and what its tables say; no trial is really run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from anomaly_toolbox import sweep
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models import METHODS

AUPRC = {"AnoGAN": 0.3, "EGBAD": 0.9, "GANomaly": 0.5, "KNN": 0.7, "PCA": 0.4}


def results(method, hp):
    test = {"auprc": AUPRC[method], "auprc_interval": [0.1, 0.9], "prevalence": 0.1, "auroc": 0.5}
    scores = {"paper": test, "residual": test}
    if method == "EGBAD":
        scores["mahalanobis"] = {"auprc": 0.123}
    return {
        "experiment": method,
        "anomalous_label": hp.anomalous_label,
        "class_label": None,
        "score": hp.score,
        "epochs": getattr(hp, "epochs", 0),
        "test": {**test, "scores": scores},
        "train_images_per_second": None,
        "score_images_per_second": 2.0,
    }


@pytest.fixture
def run(monkeypatch):
    """Runs a sweep of trials that end at once; returns the trials and what was said."""

    def run(methods=tuple(METHODS), hps_path=None, overrides=(), every=False):
        trials, said = [], io.StringIO()
        monkeypatch.setattr(sweep, "Console", lambda **_: Console(file=said, width=200))
        monkeypatch.setattr(
            sweep,
            "run_trial",
            lambda trial, *_: (
                trials.append(trial)
                or (Path(f"logs/{trial.experiment}"), results(trial.experiment, trial.hyperparameters))
            ),
        )
        options = {"data_dir": None, "hps_path": hps_path, "every_combination": every, "overrides": overrides}
        options |= {"log_dir": Path("logs"), "seed": 0, "overwrite": False, "require_gpu": False}
        sweep.run(list(methods), "Digits", "Digits", **options)
        return trials, said.getvalue()

    return run


def test_run_all_is_every_method(run):
    trials, _ = run()
    assert [trial.experiment for trial in trials] == list(METHODS)


def test_run_all_runs_what_the_file_names(run, tmp_path):
    path = tmp_path / "hps.json"
    labels = {"anomalous_label": {"type": "Discrete", "values": [3]}}
    path.write_text(json.dumps({"anogan": labels, "ganomaly": labels, "descargan": {"x": 1}}))
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
    _, said = run()
    assert "AnoGAN on anomaly - loses to KNN, a baseline that knows pixels only: 0.300 against 0.700" in said
    assert "GANomaly on anomaly - loses to KNN" in said
    assert "EGBAD on anomaly" not in said
    assert "PCA on anomaly" not in said
    assert "loses" not in run(methods=["GANomaly"])[1]


def test_every_score_has_a_column(run):
    _, said = run()
    table = said.partition("AUPRC of every score")[2]
    assert "mahalanobis" in table
    assert "0.123" in table
    assert "AUPRC of every score" not in run(methods=["KNN"])[1]


def test_a_score_that_decides_is_named(run):
    assert "GANomaly (residual)" in run(methods=["GANomaly"], overrides=["score=residual"])[1]
