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


def make_ensemble(label=3, seed=0, members=(("GANomaly", 0.2, 0.9), ("KNN", 0.5, 0.6)), names=(), **auprc):
    """A finished run of an ensemble.

    Args:
        label, seed: of the run.
        members: the method, test AUPRC and test AUROC of each member.
        names: `members` in the hyperparameters.
        auprc: the test AUPRC of each score of the ensemble, first of all the selected one, `mean`.
    """
    run = make_run("Ensemble", label, seed=seed, score="mean", epochs=0, **auprc)
    run.results["members"] = [
        {"experiment": method, "score": "paper", "seed": 0, "auprc": auprc, "auroc": auroc, "image_size": 32}
        for method, auprc, auroc in members
    ]
    return ComparedRun({"anomalous_label": label, "class_label": None, "members": list(names)}, run.results, None)


def set_false_alarms(run, outcomes, score="paper"):
    """Sets the detection rate and the false-alarm rate of a run on the test images, for each key of `false_alarms`."""
    run.results["test"]["scores"][score]["false_alarms"] = {
        rate: outcome and {"threshold": 0.5, "detection_rate": outcome[0], "false_alarm_rate": outcome[1]}
        for rate, outcome in outcomes.items()
    }


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


def test_labels_are_ordered_by_their_numbers_and_then_by_their_names():
    labels = ["wood", "10", "2", "cable", "normal 10", "normal 9", "grid2", "grid10"]
    ordered = ["2", "10", "cable", "grid2", "grid10", "normal 9", "normal 10", "wood"]
    runs = []
    for label in labels:
        run = make_run(label=None, paper=0.1)
        name = "normal_label" if label.startswith("normal") else "class_label"
        run.results[name] = label.removeprefix("normal ")
        runs.append(run)
    assert labels_of(runs) == ordered


def test_ensembles_are_between_trained_methods_and_baselines():
    runs = [make_run("KNN", epochs=0, paper=0.1), make_ensemble(mean=0.3), make_run("GANomaly", paper=0.2)]
    rows = comparison.compare(runs)
    ensemble = "Ensemble of GANomaly + KNN"
    assert [(row.name, row.is_baseline) for row in rows] == [("GANomaly", False), (ensemble, False), ("KNN", True)]


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([("GANomaly", "combined")] * 3, "Ensemble of 3 GANomaly (combined)"),
        ([("GANomaly", "paper"), ("KNN", "paper"), ("GANomaly", "paper")], "Ensemble of 2 GANomaly + KNN"),
        ([("GANomaly", "combined"), ("KNN", "paper")], "Ensemble of GANomaly + KNN"),
        ([], "Ensemble"),
    ],
)
def test_an_ensemble_is_named_by_its_members(members, name):
    run = make_ensemble(mean=0.3)
    run.results["members"] = [{"experiment": method, "score": score} for method, score in members]
    assert run.method == name
    (row,) = comparison.compare([run])
    assert row.name == name  # the selected score, `mean`, is not printed


def test_ensembles_share_a_cell_only_if_their_members_are_the_same_but_for_their_seeds():
    """In any order. The members of others differ in their width, so there is a choice, but no list of members."""
    of_three_seeds, of_others = [], []
    for label in (3, 5):
        for seed in (0, 10):
            names = [f"GANomaly,width=64,seed={seed}", f"EGBAD,width=64,seed={seed + 1}"]
            of_three_seeds.append(make_ensemble(label, seed, names=names[:: 1 if seed else -1], mean=0.4))
        of_others.append(make_ensemble(label, names=["GANomaly,width=32,seed=0", "EGBAD,seed=1"], mean=0.3))
    assert [row.choice for row in comparison.compare(of_three_seeds)] == [""]
    (compared,) = comparison.compare_datasets(of_three_seeds + of_others)
    assert [row.choice for row in compared.rows] == [EACH_LABEL, ONE_SETTING]
    assert [len(cell.runs) for row in compared.rows for cell in row.cells.values()] == [2, 2, 2, 2]
    assert compared.describe_setting(compared.rows[0], "3") == ""
    assert compared.chosen_settings == []


def test_scores_of_ensembles_are_not_among_those_of_detectors():
    runs = [make_run(paper=0.2, residual=0.3), make_ensemble(mean=0.6, fisher=0.5, maximum=0.4)]
    (compared,) = comparison.compare_datasets(runs)
    assert compared.score_names == ["paper", "residual"]
    assert [row.name for row in compared.every_score_rows] == ["GANomaly", "GANomaly (residual)"]
    other_rows = ["GANomaly (residual)", "Ensemble of GANomaly + KNN (fisher)"]
    assert [row.name for row in compared.other_score_rows] == other_rows


def test_an_ensemble_worse_than_a_baseline_is_remarked_also_if_it_contains_it():
    (line,) = remarks(comparison.compare([make_ensemble(mean=0.2), make_run("KNN", epochs=0, paper=0.3)]))
    assert line == (
        "Ensemble of GANomaly + KNN has a lower AUPRC than the baseline KNN on label 3 (0.200 against 0.300)"
    )


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
    assert each_label.mean_auprc == pytest.approx(0.2)
    assert one_setting.mean_auprc == pytest.approx(0.15)
    (compared,) = comparison.compare_datasets(runs)
    assert compared.chosen_settings == [
        "GANomaly, each label's setting (chosen by validation AUPRC): 3: width=32; 5: width=64",
        "GANomaly, one setting (chosen by validation AUPRC): width=32",
    ]


def test_nothing_is_chosen_without_validation_auprc():
    """The first setting that was run is taken, which is said, and no other score is called a method's best."""
    runs = [make_run(width=width, paper=paper, residual=0.9) for width, paper in ((64, 0.1), (32, 0.8))]
    for run in runs:
        for score in ("paper", "residual"):
            change_validation(run.results, score, auprc=None)
    (compared,) = comparison.compare_datasets(runs)
    assert [row.mean_auprc for row in compared.rows] == [0.1]
    reason = "the first in the list: without anomalous validation images, nothing could be chosen"
    assert compared.chosen_settings == [f"GANomaly, each label's setting ({reason}): 3: width=64"]
    assert compared.other_score_rows == []
    assert [row.score for row in compared.every_score_rows] == ["paper", "residual"]


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
    assert cell.auroc_range == (0.5, 0.5)
    single = comparison.compare(runs[:1])[0].cells["3"]
    assert single.interval == pytest.approx((0.19, 0.21))
    assert single.auroc_range is None


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
        "GANomaly is below chance level on the validation images of label 3 (AUROC 0.200), though not on the test"
    )


def test_a_setting_without_validation_auprc_is_chosen_last():
    measured = make_run(width=32, validation=0.1, paper=0.1)
    unmeasured = make_run(width=64, paper=0.9)
    unmeasured.results["validation"]["scores"]["paper"]["auprc"] = None
    assert comparison.compare([unmeasured, measured])[0].cells["3"].runs == [measured]
