"""A log folder with made-up runs."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from anomaly_toolbox import evaluation
from anomaly_toolbox.runs import Run
from tests.conftest import made_up_results


def write_run(
    folder,
    method,
    label,
    seed=0,
    separation=1.0,
    epochs=2,
    width=32,
    dataset="Digits",
    scores=("paper", "residual"),
    members=None,
    is_old=False,
    normal_label=None,
    **hparams,
):
    """Writes a finished run of 180 normal and 20 anomalous test images.

    Scores are normally distributed. `separation` is how many standard deviations the paper's scores of anomalous images
    are higher on average; it is half of that for all other scores. The metrics are computed from the scores. `members`
    are those of an ensemble. If `is_old`, `results.json` lacks what earlier versions did not write.
    """
    generator = np.random.default_rng([seed, label or 0, len(method)])
    labels = np.repeat([0, 1], [180, 20])
    values_of_scores = {}
    for name in scores:
        values_of_scores[name] = generator.normal(labels * separation * (1 if name == "paper" else 0.5))
    results = made_up_results(method, label, dict.fromkeys(scores, 0.5), "paper", seed, epochs, dataset)
    for name, values in values_of_scores.items():
        metrics = evaluation.metrics(labels, values, threshold=0.5)
        metrics["auprc_at_0.357"] = metrics["auprc"] / 2
        metrics["false_alarms"] = {rate: shares_at(labels, values, float(rate)) for rate in ("0.001", "0.01", "0.05")}
        if is_old:
            del metrics["auprc_at_0.357"], metrics["false_alarms"]
        metrics["auprc_interval"] = evaluation.auprc_interval(labels, values, resamples=20)
        results["test"]["scores"][name] = metrics
    if members is not None:
        results["members"] = members
    if not is_old:
        results["normal_label"] = normal_label
    hyperparameters = {"anomalous_label": label, "class_label": None, "epochs": epochs, "width": width}
    if not is_old:
        hyperparameters["normal_label"] = normal_label
    if members is not None:
        hyperparameters["members"] = [member["experiment"] for member in members]
    trial = {"experiment": method, "dataset": dataset, "hyperparameters": hyperparameters, "seed": seed}
    run = Run(folder, {**trial, **hparams})
    with run.locked():
        run.begin()
        with open(run.scores_path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "label", "score", "calibrated", *scores])
            paper_values = values_of_scores["paper"]
            columns = [paper_values, paper_values, *values_of_scores.values()]
            for index, fields in enumerate(zip(labels, *columns, strict=True)):
                writer.writerow([index, *fields])
        run.weights_path.write_bytes(b"weights")
        for name in ("most_anomalous.png", "most_wrong.png"):
            Image.fromarray(generator.integers(0, 255, (30, 120), np.uint8)).save(folder / name)
        run.finish(results)
    return folder


def shares_at(labels, values, rate):
    """An entry of `false_alarms`; None for a rate of 0.001, as if there were too few validation images."""
    if rate == 0.001:
        return None
    threshold = float(np.quantile(values[labels == 0], 1 - rate))
    is_alarm = values >= threshold
    rates = {"detection_rate": is_alarm[labels == 1].mean(), "false_alarm_rate": is_alarm[labels == 0].mean()}
    return {"threshold": threshold, **{name: float(share) for name, share in rates.items()}}


@pytest.fixture
def log_dir(tmp_path):
    """Three methods on two labels, one with two seeds; also damaged runs, an unfinished run and a copy of a run."""
    logs = tmp_path / "logs"
    for label in (2, 10):
        write_run(logs / f"GANomaly/Digits/label={label}", "GANomaly", label, separation=1.0)
        write_run(logs / f"EGBAD/Digits/<{label}>", "EGBAD", label, separation=0.3)
        write_run(logs / f"KNN/Digits/label={label}", "KNN", label, separation=2.0, epochs=0)
    write_run(logs / "GANomaly/Digits/label=2,seed=1", "GANomaly", 2, seed=1, separation=1.2)
    write_run(logs / "copies/label=2", "GANomaly", 2)
    damaged = write_run(logs / "GANomaly/Digits/label=3", "GANomaly", 3)
    (damaged / "scores.csv").write_text("index,label\n")
    damaged = write_run(logs / "GANomaly/Digits/label=4", "GANomaly", 4)
    (damaged / "hparams.json").write_text("{")
    unfinished = write_run(logs / "GANomaly/Digits/label=5", "GANomaly", 5)
    (unfinished / "results.json").unlink()
    (unfinished / "checkpoint").mkdir()
    (unfinished / "checkpoint" / "state.json").write_text(json.dumps({"epoch": 1}))
    (logs / "PCA" / "lost").mkdir(parents=True)
    (logs / "PCA" / "lost" / "scores.csv").write_text("")
    return logs
