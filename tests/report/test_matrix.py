"""The numbers that all formatters of a comparison share."""

import pytest

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.metrics import available_metrics
from anomaly_toolbox.report.summary import summary_of
from tests.report.test_comparison import make_ensemble, make_run, set_false_alarms


def test_a_matrix_has_values_means_and_prevalences():
    runs = [make_run("GANomaly", 2, paper=0.2), make_run("GANomaly", 10, paper=0.4), make_run("PCA", 10, paper=0.1)]
    matrix = Matrix.build(comparison.compare(runs), ["2", "10"])
    assert matrix.values == [[0.2, 0.4], [None, 0.1]]
    assert matrix.means == [pytest.approx(0.3), None]
    assert matrix.prevalences == [pytest.approx(0.1), pytest.approx(0.1)]
    assert matrix.mean_prevalence == pytest.approx(0.1)


def test_a_label_that_no_row_has_is_empty():
    matrix = Matrix.build(comparison.compare([make_run(label=2, paper=0.2)]), ["2", "10"])
    assert matrix.values == [[0.2, None]]
    assert matrix.prevalences == [pytest.approx(0.1), None]
    assert matrix.mean_prevalence is None


def test_metrics_that_no_run_has_are_not_available():
    run = make_run(paper=0.2)
    rows = comparison.compare([run])
    assert "pro" not in available_metrics(rows)
    run.results["test"]["pro"] = 0.6
    assert available_metrics(rows)[-1] == "pro"
    assert Matrix.build(rows, ["3"], "pro").values == [[0.6]]
    assert Matrix.build(rows, ["3"], "seeds").means == [1.0]


def test_the_chance_level_of_auroc_does_not_depend_on_the_prevalence():
    rows = comparison.compare([make_run(label=2, paper=0.2)])
    assert Matrix.build(rows, ["2", "10"], "auprc").chance_levels == [pytest.approx(0.1), None]
    assert Matrix.build(rows, ["2", "10"], "auroc").chance_levels == [0.5, 0.5]


def test_the_lines_of_an_ensembles_members_follow_its_row():
    """Members have AUPRC .2 and .5, and AUROC .9 and .6: the best member by AUPRC has the lower AUROC."""
    rows = comparison.compare([make_ensemble(label=2, mean=0.6), make_run("KNN", 2, epochs=0, paper=0.3)])
    lines = Matrix.build(rows, ["2", "10"]).lines
    assert [line.name for line in lines] == ["Ensemble of GANomaly + KNN", "mean member", "best member", "KNN"]
    assert [line.values for line in lines] == [[0.6, None], [0.35, None], [0.5, None], [0.3, None]]
    assert lines[2].full_name == "best member (chosen in hindsight, by test images)"
    assert [line.is_of_members for line in lines] == [False, True, True, False]
    assert [line.values for line in Matrix.build(rows, ["2"], "auroc").lines] == [[0.5], [0.75], [0.6], [0.5]]
    assert [line.is_of_members for line in Matrix.build(rows, ["2"], "prevalence").lines] == [False, False]


def test_means_over_the_members_of_several_seeds():
    """The second seed's members have AUPRC .4 and .6."""
    other = make_ensemble(seed=1, members=[("GANomaly", 0.4, 0.8), ("KNN", 0.6, 0.7)], mean=0.6)
    (row,) = comparison.compare([make_ensemble(mean=0.6), other])
    _, mean, best = Matrix.build([row], ["3"]).lines
    assert mean.values == [pytest.approx((0.35 + 0.5) / 2)]
    assert best.values == [pytest.approx((0.5 + 0.6) / 2)]


def test_members_that_were_not_measured_have_no_metrics():
    (row,) = comparison.compare([make_ensemble(members=[("GANomaly", None, None), ("KNN", None, None)], mean=0.6)])
    assert [line.values for line in Matrix.build([row], ["3"]).lines] == [[0.6], [None], [None]]


def test_the_summary_has_means_over_labels_and_no_metric_that_no_row_has():
    """Label 5 has too few validation images for a rate of 0.1%; KNN's run is of an old version."""
    runs = [make_run(label=3, paper=0.2), make_run(label=5, paper=0.4), make_run("KNN", 3, epochs=0, paper=0.3)]
    set_false_alarms(runs[0], {"0.001": (0.1, 0.0004), "0.01": (0.2, 0.02), "0.05": None})
    set_false_alarms(runs[1], {"0.001": None, "0.01": (0.4, 0.04), "0.05": None})
    rows = comparison.compare(runs)
    summary = summary_of(rows, ["3", "5"])
    rates = ["found at 0.1%", "false alarms at 0.1%", "found at 1%", "false alarms at 1%"]
    assert summary.headings == ["AUPRC", "AUROC", *rates]
    assert summary.lines == [("GANomaly", ["0.300", "0.500", "-", "-", "30.0%", "3.0%"]), ("KNN", ["-"] * 6)]
    assert summary_of(rows, ["3"]).lines[0][1][2:4] == ["10.0%", "0.04%"]
    assert summary.has_false_alarms
    of_old_run = summary_of(rows[1:], ["3"])
    assert of_old_run.headings == ["AUPRC", "AUROC"]
    assert not of_old_run.has_false_alarms
