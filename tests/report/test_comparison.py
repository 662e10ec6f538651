"""How settings and scores are chosen, and which remarks the comparison leads to."""

import pytest

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.remarks import remarks
from anomaly_toolbox.report.rows import EACH_LABEL, ONE_SETTING, ComparedRun, labels_of
from tests.conftest import made_up_results


def make_run(method="GANomaly", label=3, width=32, seed=0, validation=None, score="paper", epochs=2, **auprc):
    """A finished run.

    Args:
        method, label, width, seed, score, epochs: of the run.
        validation: the validation AUPRC of the selected score, or that of several scores by name; None: as in the test.
        auprc: the test AUPRC of each score.
    """
    results = made_up_results(method, label, auprc, score, seed, epochs)
    validation_auprc = validation if isinstance(validation, dict) else {score: validation}
    for name, value in validation_auprc.items():
        if value is not None:
            change_validation(results, name, auprc=value)
    return ComparedRun({"anomalous_label": label, "class_label": None, "width": width}, results, None)


def change_validation(results, score, **metrics):
    """Changes validation metrics of a score; made-up results share them with the test metrics, so they are copied."""
    validation = results["validation"]
    scores = {**validation["scores"], score: {**validation["scores"][score], **metrics}}
    results["validation"] = {**validation, "scores": scores}


def test_rows_are_methods_with_baselines_last_and_columns_are_labels():
    runs = [
        make_run("PCA", 10, epochs=0, paper=0.1),
        make_run("GANomaly", 2, paper=0.2),
        make_run("GANomaly", 10, paper=0.4),
    ]
    rows = comparison.compare(runs)
    assert labels_of(runs) == ["2", "10"]
    assert [(row.name, list(row.cells)) for row in rows] == [("GANomaly", ["2", "10"]), ("PCA", ["10"])]
    assert [row.is_baseline for row in rows] == [False, True]
    assert rows[0].mean_auprc == pytest.approx(0.3)


def test_settings_are_chosen_by_validation_for_each_label_and_over_labels():
    """By validation AUPRC, label 3 needs width 32, label 5 width 64, and both together 32; the test AUPRC disagrees."""
    runs = [
        make_run(label=3, width=32, validation=0.9, paper=0.1),
        make_run(label=3, width=64, validation=0.5, paper=0.8),
        make_run(label=5, width=32, validation=0.6, paper=0.2),
        make_run(label=5, width=64, validation=0.7, paper=0.3),
    ]
    each_label, one_setting = comparison.compare(runs)
    assert (each_label.choice, one_setting.choice) == (EACH_LABEL, ONE_SETTING)
    assert [comparison.describe(cell, ["width"]) for cell in each_label.cells.values()] == ["width=32", "width=64"]
    assert [comparison.describe(cell, ["width"]) for cell in one_setting.cells.values()] == ["width=32", "width=32"]
    assert each_label.mean_auprc == pytest.approx(0.2)
    assert one_setting.mean_auprc == pytest.approx(0.15)
    assert comparison.settings_that_vary(runs) == ["width"]
    (compared,) = comparison.compare_datasets(runs)
    assert compared.chosen_settings == [
        "GANomaly, each label's setting: 3: width=32; 5: width=64",
        "GANomaly, one setting: width=32",
    ]


def test_no_row_for_one_setting_if_no_setting_was_run_on_every_label():
    rows = comparison.compare([make_run(label=3, width=32, paper=0.1), make_run(label=5, width=64, paper=0.2)])
    assert [row.choice for row in rows] == [EACH_LABEL]


def test_seeds_share_a_cell_with_their_mean_and_range():
    runs = [make_run(seed=seed, paper=auprc) for seed, auprc in ((1, 0.2), (0, 0.4), (2, 0.3))]
    (row,) = comparison.compare(runs)
    cell = row.cells["3"]
    assert cell.auprc == pytest.approx(0.3)
    assert cell.interval == (0.2, 0.4)
    assert [run.results["seed"] for run in cell.runs] == [0, 1, 2]
    assert comparison.compare(runs[:1])[0].cells["3"].interval == pytest.approx((0.19, 0.21))


def test_the_best_other_score_is_chosen_over_labels_by_validation():
    runs = [
        make_run(label=3, paper=0.9, residual=0.1, mahalanobis=0.8, validation={"residual": 0.9, "mahalanobis": 0.5}),
        make_run(label=5, paper=0.9, residual=0.2, mahalanobis=0.8, validation={"residual": 0.3, "mahalanobis": 0.6}),
        make_run("KNN", 3, epochs=0, paper=0.5),
    ]
    (row,) = comparison.compare_other_scores(runs)  # mean 0.6 against 0.55; KNN has no other score here
    assert row.name == "GANomaly (residual)"


def test_every_selected_score_has_a_row_of_its_own():
    runs = [make_run(paper=0.2, residual=0.3), make_run(paper=0.2, residual=0.3, score="residual")]
    assert [row.name for row in comparison.compare(runs)] == ["GANomaly", "GANomaly (residual)"]


def test_a_method_worse_than_a_baseline_is_remarked():
    runs = [make_run(label=3, paper=0.2), make_run(label=5, paper=0.9)]
    runs += [make_run("KNN", 3, epochs=0, paper=0.3), make_run("KNN", 5, epochs=0, paper=0.3)]
    (line,) = remarks(comparison.compare(runs))
    assert line == "GANomaly has a lower AUPRC than the baseline KNN on 1 of 2 labels (mean 0.550 against 0.300)"


@pytest.mark.parametrize(("auroc", "auprc", "is_below"), [(0.49, 0.5, True), (0.5, 0.09, True), (0.5, 0.1, False)])
def test_test_metrics_below_chance_level_are_remarked(auroc, auprc, is_below):
    run = make_run(paper=auprc)
    run.results["test"]["scores"]["paper"]["auroc"] = auroc
    lines = remarks(comparison.compare([run]))
    assert bool(lines) == is_below
    if is_below:
        assert lines[0].startswith(
            f"GANomaly is below chance level on label 3 (AUROC {auroc:.3f}, AUPRC {auprc:.3f}, prevalence 0.100): "
            "are normal and anomalous images swapped?"
        )


def test_validation_metrics_below_chance_level_are_remarked():
    run = make_run(paper=0.9)
    change_validation(run.results, "paper", auroc=0.2)
    (line,) = remarks(comparison.compare([run]))
    assert line.startswith(
        "GANomaly is below chance level on the validation images, but not on the test images, of label 3 (AUROC 0.200)"
    )


def test_a_setting_without_validation_auprc_is_chosen_last():
    measured = make_run(width=32, validation=0.1, paper=0.1)
    unmeasured = make_run(width=64, paper=0.9)
    unmeasured.results["validation"]["scores"]["paper"]["auprc"] = None
    assert comparison.compare([unmeasured, measured])[0].cells["3"].runs == [measured]
