"""Metrics of the scores of a trial on its validation and test images, and the CSV files of the scores."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_toolbox import evaluation, false_alarms
from anomaly_toolbox.files import atomic_write

Scores = dict[str, np.ndarray]  # each score by its name, (n,)


@dataclass(frozen=True)
class Measurements:
    """The metrics of the scores of a trial; made by `measure`.

    Attributes:
        validation: `evaluation.metrics` of each score on the validation images, by the score's name.
        test: the same on the test images, with `auprc_interval` and with `false_alarms` as `false_alarms.at_each_rate`
            gives them.
        score_range: minimum and maximum of the selected score on the validation images.
        calibrated: the selected score of each test image by (13), (n,).
        p_values: of the selected score of each test image, (n,), see `false_alarms.p_values`.
    """

    validation: dict[str, dict[str, Any]]
    test: dict[str, dict[str, Any]]
    score_range: tuple[float, float]
    calibrated: np.ndarray
    p_values: np.ndarray


def measure(
    selected_score: str,
    validation_labels: np.ndarray,
    validation_scores: Scores,
    test_labels: np.ndarray,
    test_scores: Scores,
) -> Measurements:
    """Measures every score; thresholds, p-values and the range for (13) come from the validation images only.

    Args:
        selected_score: the name of the selected score.
        validation_labels, test_labels: 0 for normal and 1 for anomalous images.
        validation_scores, test_scores: every score by its name; both have the same names.

    Raises:
        ToolboxError: a score is not finite.
    """
    validation_metrics, test_metrics = {}, {}
    for name, scores in test_scores.items():
        threshold = evaluation.best_threshold(validation_labels, validation_scores[name])
        validation_metrics[name] = evaluation.metrics(validation_labels, validation_scores[name], threshold)
        test_metrics[name] = evaluation.metrics(test_labels, scores, threshold)
        test_metrics[name]["auprc_interval"] = evaluation.auprc_interval(test_labels, scores)
        normal_scores = false_alarms.of_normal_images(validation_labels, validation_scores[name])
        test_metrics[name]["false_alarms"] = false_alarms.at_each_rate(normal_scores, test_labels, scores)
    low, high = float(validation_scores[selected_score].min()), float(validation_scores[selected_score].max())
    calibrated = evaluation.rescale(test_scores[selected_score], low, high)
    normal_scores = false_alarms.of_normal_images(validation_labels, validation_scores[selected_score])
    p_values = false_alarms.p_values(normal_scores, test_scores[selected_score])
    return Measurements(validation_metrics, test_metrics, (low, high), calibrated, p_values)


def constant_scores(scores: Scores) -> list[str]:
    """The names of scores that are the same for every image, and therefore separate nothing."""
    return [name for name, values in scores.items() if np.ptp(values) == 0]


def write_scores(
    path: Path,
    files: Sequence[str] | None,
    labels: np.ndarray,
    columns: Scores,
    positions: np.ndarray | None = None,
) -> None:
    """Writes one row for each image.

    Args:
        path: the CSV file.
        files: the file name of each image; None: the column `index` has its position.
        labels: (n,), 0 or 1.
        columns: numbers by the names of their columns, (n,) each, written with nine digits, which restore a float32
            exactly.
        positions: (n,), of the images in their split, from 0; None: the images are the whole split.
    """
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["index" if files is None else "file", "label", *columns])
        names: Sequence[Any] | np.ndarray = np.arange(len(labels)) if positions is None else positions
        if files is not None:
            names = files
        for name, label, *values in zip(names, labels, *columns.values(), strict=True):
            writer.writerow([name, label, *(f"{value:.9g}" for value in values)])
