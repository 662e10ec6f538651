"""The numbers that all formatters of a comparison share."""

import pytest

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.matrix import Matrix, available_metrics
from tests.report.test_comparison import make_run


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
