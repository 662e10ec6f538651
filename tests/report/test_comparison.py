"""What is chosen, by which figures, and what the tables of a comparison hold."""

import pytest

from anomaly_toolbox.report import comparison
from anomaly_toolbox.report.comparison import EACH_LABEL, ONE_SETTING, Finished
from tests.conftest import made_up_results


def run(method="GANomaly", label=3, width=32, seed=0, validation=None, score="paper", epochs=2, **auprc):
    results = made_up_results(method, label, auprc, score, seed, epochs)
    chosen_by = validation if isinstance(validation, dict) else {score: validation}
    for name, value in chosen_by.items():
        if value is not None:
            figures = {**results["validation"]["scores"][name], "auprc": value}
            scores = {**results["validation"]["scores"], name: figures}
            results["validation"] = {**results["validation"], "scores": scores}
    return Finished({"anomalous_label": label, "class_label": None, "width": width}, results, None)


def test_rows_are_methods_baselines_last_and_columns_labels():
    runs = [run("PCA", 10, epochs=0, paper=0.1), run("GANomaly", 2, paper=0.2), run("GANomaly", 10, paper=0.4)]
    rows = comparison.compare(runs)
    assert comparison.labels_of(runs) == ["2", "10"]
    assert [(row.name, list(row.cells)) for row in rows] == [("GANomaly", ["2", "10"]), ("PCA", ["10"])]
    assert rows[0].mean_auprc == pytest.approx(0.3)


def test_settings_are_chosen_by_validation_for_each_label_and_over_labels():
    """Validation says 32 for label 3, 64 for label 5, and 32 over both; the test figures say the opposite."""
    runs = [
        run(label=3, width=32, validation=0.9, paper=0.1),
        run(label=3, width=64, validation=0.5, paper=0.8),
        run(label=5, width=32, validation=0.6, paper=0.2),
        run(label=5, width=64, validation=0.7, paper=0.3),
    ]
    each, one = comparison.compare(runs)
    assert (each.choice, one.choice) == (EACH_LABEL, ONE_SETTING)
    assert [comparison.describe(cell, ["width"]) for cell in each.cells.values()] == ["width=32", "width=64"]
    assert [comparison.describe(cell, ["width"]) for cell in one.cells.values()] == ["width=32", "width=32"]
    assert (each.mean_auprc, one.mean_auprc) == (pytest.approx(0.2), pytest.approx(0.15))
    assert comparison.settings_that_vary(runs) == ["width"]


def test_without_a_setting_that_every_label_had_there_is_no_row_for_it():
    rows = comparison.compare([run(label=3, width=32, paper=0.1), run(label=5, width=64, paper=0.2)])
    assert [row.choice for row in rows] == [EACH_LABEL]


def test_seeds_are_one_cell_with_a_spread():
    runs = [run(seed=seed, paper=auprc) for seed, auprc in ((1, 0.2), (0, 0.4), (2, 0.3))]
    (row,) = comparison.compare(runs)
    cell = row.cells["3"]
    assert cell.auprc == pytest.approx(0.3)
    assert cell.interval == (0.2, 0.4)
    assert [run.results["seed"] for run in cell.runs] == [0, 1, 2]
    assert comparison.compare(runs[:1])[0].cells["3"].interval == pytest.approx((0.19, 0.21))


def test_the_best_other_score_is_chosen_over_labels_by_validation():
    runs = [
        run(label=3, paper=0.9, residual=0.1, mahalanobis=0.8, validation={"residual": 0.9, "mahalanobis": 0.5}),
        run(label=5, paper=0.9, residual=0.2, mahalanobis=0.8, validation={"residual": 0.3, "mahalanobis": 0.6}),
        run("KNN", 3, epochs=0, paper=0.5),
    ]
    (row,) = comparison.compare_other_scores(runs)  # 0.6 against 0.55; KNN has no other here
    assert row.name == "GANomaly (residual)"


def test_a_score_that_decides_has_a_row_of_its_own():
    runs = [run(paper=0.2, residual=0.3), run(paper=0.2, residual=0.3, score="residual")]
    assert [row.name for row in comparison.compare(runs)] == ["GANomaly", "GANomaly (residual)"]


def test_who_loses_to_a_baseline():
    runs = [run(label=3, paper=0.2), run(label=5, paper=0.9)]
    runs += [run("KNN", 3, epochs=0, paper=0.3), run("KNN", 5, epochs=0, paper=0.3)]
    (line,) = comparison.remarks(comparison.compare(runs))
    assert line == (
        "GANomaly loses to KNN, a baseline that knows pixels only, on 1 of 2 labels, means: 0.550 against 0.300"
    )


@pytest.mark.parametrize(("auroc", "auprc", "is_worse"), [(0.49, 0.5, True), (0.5, 0.09, True), (0.5, 0.1, False)])
def test_what_ranks_worse_than_chance_is_remarked(auroc, auprc, is_worse):
    poor = run(paper=auprc)
    poor.results["test"]["scores"]["paper"]["auroc"] = auroc
    lines = comparison.remarks(comparison.compare([poor]))
    assert bool(lines) == is_worse
    if is_worse:
        assert lines[0].startswith(
            f"GANomaly ranks worse than chance on anomaly 3 (AUROC {auroc:.3f}, AUPRC {auprc:.3f}, prevalence 0.100): "
            "are the normal and the anomalous label or folder the right way round?"
        )


def test_validation_images_that_rank_worse_than_chance_are_remarked():
    odd = run(paper=0.9)
    scores = {"paper": {**odd.results["validation"]["scores"]["paper"], "auroc": 0.2}}
    odd.results["validation"] = {**odd.results["validation"], "scores": scores}
    (line,) = comparison.remarks(comparison.compare([odd]))
    assert line.startswith("GANomaly ranks worse than chance on the validation images alone, anomaly 3 (AUROC 0.200)")


def test_without_validation_figures_the_last_is_chosen_last():
    known, unknown = run(width=32, validation=0.1, paper=0.1), run(width=64, paper=0.9)
    unknown.results["validation"]["scores"]["paper"]["auprc"] = None
    assert comparison.compare([unknown, known])[0].cells["3"].runs == [known]
