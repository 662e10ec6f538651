"""Measurements of scores against values worked out by hand; nothing is trained."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.training.results import constant_scores, measure, write_scores

VALIDATION_LABELS = np.array([0, 0, 1, 1])
VALIDATION_SCORES = {"paper": np.array([2.0, 3.0, 5.0, 6.0]), "residual": np.array([0.4, 0.1, 0.3, 0.2])}
TEST_LABELS = np.array([0, 1, 0, 1])
TEST_SCORES = {"paper": np.array([1.0, 4.0, 5.0, 7.0]), "residual": np.array([0.1, 0.2, 0.3, 0.4])}


@pytest.fixture(scope="module")
def measured():
    return measure("paper", VALIDATION_LABELS, VALIDATION_SCORES, TEST_LABELS, TEST_SCORES)


def test_validation_metrics_of_every_score(measured):
    paper, residual = measured.validation["paper"], measured.validation["residual"]
    assert (paper["auprc"], paper["auroc"], paper["f1"]) == (1, 1, 1)
    # Ranked: 0.4 (0), 0.3 (1), 0.2 (1), 0.1 (0). The precision at the two anomalous images is 1/2 and 2/3.
    assert residual["auprc"] == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 2 / 3)
    assert residual["auroc"] == pytest.approx(2 / 4)
    assert residual["f1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_thresholds_come_from_the_validation_images(measured):
    assert measured.validation["paper"]["threshold"] == measured.test["paper"]["threshold"] == 5
    assert measured.validation["residual"]["threshold"] == measured.test["residual"]["threshold"] == 0.2


def test_test_metrics_of_every_score(measured):
    paper, residual = measured.test["paper"], measured.test["residual"]
    # Ranked: 7 (1), 5 (0), 4 (1), 1 (0). Above the threshold 5 are one anomalous and one normal image.
    assert paper["auprc"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert paper["auroc"] == pytest.approx(3 / 4)
    assert paper["f1"] == pytest.approx(1 / 2)
    assert (paper["prevalence"], paper["n_normal"], paper["n_anomalous"]) == (0.5, 2, 2)
    assert residual["f1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_only_test_metrics_have_an_interval(measured):
    low, high = measured.test["paper"]["auprc_interval"]
    assert 0.5 <= low <= high == 1
    assert "auprc_interval" not in measured.validation["paper"]


def test_p_values_compare_with_the_normal_validation_images(measured):
    # Two normal validation images score 2 and 3. The test images score 1, 4, 5 and 7.
    np.testing.assert_allclose(measured.p_values, [3 / 3, 1 / 3, 1 / 3, 1 / 3])
    other = measure("residual", VALIDATION_LABELS, VALIDATION_SCORES, TEST_LABELS, TEST_SCORES)
    np.testing.assert_allclose(other.p_values, [3 / 3, 2 / 3, 2 / 3, 2 / 3])  # 0.1 and 0.4, with ties


def test_false_alarms_of_every_score_at_rates_that_the_validation_images_are_enough_for():
    validation_labels = np.repeat([0, 1], [99, 20])
    validation_scores = {"paper": np.arange(119.0), "residual": np.repeat([-5.0, -4.0, 9.0], [95, 4, 20])}
    test_scores = {"paper": np.array([97.0, 94.0, 98.5, 99.0]), "residual": np.array([-4.5, -4.5, -3.5, -3.5])}
    measured = measure("paper", validation_labels, validation_scores, TEST_LABELS, test_scores)
    paper, residual = measured.test["paper"]["false_alarms"], measured.test["residual"]["false_alarms"]
    assert paper["0.001"] is residual["0.001"] is None
    # Normal validation images score up to 98 in `paper`; at 5% up to 94 without an alarm, and the fifth highest of
    # `residual` is -5. Normal test images score 97 and 98.5, and -4.5 and -3.5.
    assert (paper["0.01"]["false_alarm_rate"], paper["0.01"]["detection_rate"]) == (1 / 2, 1 / 2)
    assert (paper["0.05"]["false_alarm_rate"], paper["0.05"]["detection_rate"]) == (1, 1 / 2)
    assert (residual["0.01"]["false_alarm_rate"], residual["0.01"]["detection_rate"]) == (1 / 2, 1 / 2)
    assert (residual["0.05"]["false_alarm_rate"], residual["0.05"]["detection_rate"]) == (1, 1)
    assert residual["0.05"]["threshold"] == pytest.approx(-5)
    assert "false_alarms" not in measured.validation["paper"]


def test_calibrated_scores_use_the_range_of_the_validation_scores(measured):
    assert measured.score_range == (2, 6)
    np.testing.assert_allclose(measured.calibrated, [0, 1 / 2, 3 / 4, 1])  # 1 and 7 are outside of the range


def test_the_selected_score_is_calibrated():
    other = measure("residual", VALIDATION_LABELS, VALIDATION_SCORES, TEST_LABELS, TEST_SCORES)
    assert other.score_range == (0.1, 0.4)
    np.testing.assert_allclose(other.calibrated, [0, 1 / 3, 2 / 3, 1])


def test_without_anomalous_images_there_are_thresholds_but_no_metrics():
    normal_labels = np.zeros(4, int)
    measured = measure("paper", normal_labels, VALIDATION_SCORES, normal_labels, TEST_SCORES)
    assert measured.test["paper"]["threshold"] == 6  # the highest score of a normal validation image
    assert measured.test["paper"]["auprc"] is None
    assert measured.test["paper"]["auprc_interval"] is None
    assert measured.validation["residual"]["auroc"] is None


def test_scores_that_are_not_finite_are_refused():
    scores = {"paper": np.array([1.0, np.inf, 5.0, 7.0])}
    with pytest.raises(ToolboxError, match="training diverged"):
        measure("paper", VALIDATION_LABELS, VALIDATION_SCORES, TEST_LABELS, scores)


def test_constant_scores_are_named():
    assert constant_scores(TEST_SCORES) == []
    assert constant_scores({**TEST_SCORES, "mahalanobis": np.full(4, 0.7)}) == ["mahalanobis"]


def test_scores_are_written_with_file_names(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores(path, ["a/ü.png", "b,1.png"], np.array([0, 1]), {"score": np.array([0.5, 123456789.25])})
    assert path.read_text(encoding="utf-8") == 'file,label,score\na/ü.png,0,0.5\n"b,1.png",1,123456789\n'


def test_scores_are_written_with_numbers_if_there_are_no_files(tmp_path):
    scores = np.random.default_rng(0).uniform(0, 1e-3, 50).astype(np.float32)
    write_scores(tmp_path / "scores.csv", None, np.zeros(50, int), {"score": scores, "calibrated": scores * 2})
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "label", "score", "calibrated"]
    assert [row["index"] for row in rows] == [str(number) for number in range(50)]
    restored = np.array([row["score"] for row in rows], np.float32)
    np.testing.assert_array_equal(restored, scores)  # nine digits restore a float32 exactly


def test_a_column_of_another_length_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_scores(tmp_path / "scores.csv", None, np.zeros(3, int), {"score": np.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_measuring_imports_no_tensorflow():
    program = "import sys, anomaly_toolbox.training.results\nassert not {'tensorflow', 'keras'} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
