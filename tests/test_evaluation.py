"""Metrics against values worked out by hand and scikit-learn's definitions."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from anomaly_toolbox import evaluation
from anomaly_toolbox.errors import ToolboxError

LABELS = np.array([0, 0, 1, 1])
SCORES = np.array([0.1, 0.4, 0.35, 0.8])


def test_metrics_worked_out_by_hand():
    # Ranked: 0.8 (1), 0.4 (0), 0.35 (1), 0.1 (0). The precision at the two anomalous images is 1/1 and 2/3.
    metrics = evaluation.metrics(LABELS, SCORES, threshold=0.35)
    assert metrics["auprc"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics["auroc"] == pytest.approx(3 / 4)  # of four pairs, (0.4, 0.35) is the wrong way round
    assert metrics["f1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert (metrics["prevalence"], metrics["n_normal"], metrics["n_anomalous"]) == (0.5, 2, 2)


def test_the_auprc_alone_is_that_of_the_metrics():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.6, 0.2])
    assert evaluation.auprc(labels, scores) == evaluation.metrics(labels, scores, threshold=0.0)["auprc"]
    with pytest.raises(ToolboxError, match="finite"):
        evaluation.auprc(labels, np.where(scores == 0.5, np.inf, scores))


def test_higher_means_more_anomalous():
    assert evaluation.metrics(LABELS, LABELS.astype(float), 0.5)["auprc"] == 1
    assert evaluation.metrics(LABELS, -LABELS.astype(float), 0.5)["auroc"] == 0


def test_constant_scores_reach_the_chance_level():
    labels = np.array([0] * 9 + [1])
    metrics = evaluation.metrics(labels, np.ones(10), 0.5)
    assert metrics["auprc"] == pytest.approx(0.1)
    assert metrics["auprc_at_0.357"] == pytest.approx(0.357)


def test_auprc_at_another_prevalence_worked_out_by_hand():
    # Among as many normal as anomalous images, each anomalous image counts as 0.357 / 0.643 normal ones.
    weight = 0.357 / 0.643
    expected = 0.5 * 1 + 0.5 * 2 * weight / (2 * weight + 1)
    assert evaluation.metrics(LABELS, SCORES, 0.35)["auprc_at_0.357"] == pytest.approx(expected)


def test_auprc_at_another_prevalence_is_that_of_more_anomalous_images():
    """51 anomalous images, seven times each, are 357 of 1,000."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [643, 51])
    scores = generator.normal(labels.astype(float))
    copies = np.where(labels == 1, 7, 1)
    with_copies = evaluation.metrics(np.repeat(labels, copies), np.repeat(scores, copies), 0.5)
    assert with_copies["prevalence"] == 0.357
    assert with_copies["auprc_at_0.357"] == with_copies["auprc"]
    assert evaluation.metrics(labels, scores, 0.5)["auprc_at_0.357"] == pytest.approx(with_copies["auprc"])


def test_best_threshold_is_a_score_that_counts_as_anomalous():
    threshold = evaluation.best_threshold(LABELS, SCORES)
    assert threshold == 0.35
    f1_of_each = [evaluation.metrics(LABELS, SCORES, score)["f1"] for score in SCORES]
    assert evaluation.metrics(LABELS, SCORES, threshold)["f1"] == max(f1_of_each)


def test_interval_contains_the_auprc_and_narrows_with_more_images():
    generator = np.random.default_rng(0)
    widths = []
    for n in (100, 1000):
        labels = np.arange(n) % 10 == 0
        scores = generator.normal(size=n) + 2 * labels
        low, high = evaluation.auprc_interval(labels.astype(int), scores, resamples=200)
        assert low < evaluation.metrics(labels.astype(int), scores, 0)["auprc"] < high
        widths.append(high - low)
    assert widths[1] < widths[0]


@pytest.mark.parametrize("decimals", [1, 3, 12])
def test_interval_is_that_of_scikit_learn_to_the_last_digit(decimals):
    generator = np.random.default_rng(decimals)
    labels = np.repeat([0, 1], [90, 20])
    scores = np.round(generator.normal(labels.astype(float)), decimals)  # with ties, with few ties, without ties
    resampler, auprcs = np.random.default_rng(0), []
    for _ in range(200):
        indices = [resampler.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in (0, 1)]
        resample = np.concatenate(indices)
        auprcs.append(average_precision_score(labels[resample], scores[resample]))
    assert evaluation.auprc_interval(labels, scores, 200) == list(np.percentile(auprcs, [2.5, 97.5]))


def test_interval_is_the_same_each_time():
    assert evaluation.auprc_interval(LABELS, SCORES, 50) == evaluation.auprc_interval(LABELS, SCORES, 50)


def test_rescale_is_equation_13_with_a_minus():
    np.testing.assert_allclose(evaluation.rescale([2.0, 3.0, 4.0], low=2.0, high=4.0), [0, 0.5, 1])


def test_rescale_clips_scores_outside_of_the_range_and_accepts_constant_scores():
    np.testing.assert_allclose(evaluation.rescale([-1.0, 9.0], low=0.0, high=1.0), [0, 1])
    np.testing.assert_allclose(evaluation.rescale([3.0], low=3.0, high=3.0), [0])


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ToolboxError, match="learning_rate"):
        evaluation.metrics(LABELS, np.array([0.1, np.nan, 0.2, 0.3]), 0.5)


def test_without_anomalies_there_is_a_threshold_but_no_metric():
    labels, scores = np.zeros(3), np.array([0.1, 0.3, 0.2])
    assert evaluation.best_threshold(labels, scores) == 0.3
    metrics = evaluation.metrics(labels, scores, 0.3)
    assert [metrics[name] for name in ("auprc", "auroc", "f1", "auprc_at_0.357")] == [None] * 4


def test_there_must_be_one_score_for_each_label():
    with pytest.raises(ValueError, match="one score for each label"):
        evaluation.metrics(LABELS, SCORES[:3], 0.5)


def test_without_anomalies_there_is_no_interval():
    assert evaluation.auprc_interval(np.zeros(5), np.arange(5)) is None


def test_pixel_metrics_of_a_small_map():
    """Two regions, of one and of four pixels, and ten normal pixels; the large region is found before the small one."""
    masks, maps = np.zeros((1, 3, 5), bool), np.zeros((1, 3, 5))
    masks[0, 0, 0] = True
    masks[0, 1:, 3:] = True
    maps[0] = [[0.5, 0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.8, 0.8], [0.1, 0.1, 0.1, 0.7, 0.7]]
    metrics = evaluation.pixel_metrics(masks, maps)
    assert metrics["pixel_auroc"] == pytest.approx(45 / 50)  # only the 0.9 of a normal pixel is above all five
    assert metrics["pixel_auprc"] == pytest.approx(2 / 5 * 2 / 3 + 2 / 5 * 4 / 5 + 1 / 5 * 5 / 6)
    assert metrics["pixel_prevalence"] == pytest.approx(1 / 3)
    # Overlap is 0 up to a share of 0.1 of normal pixels, where both regions are found, and 1 from there on.
    assert metrics["pro"] == pytest.approx(0.2 / 0.3)


def test_per_region_overlap_weighs_regions_alike():
    """A region of a single pixel is missed, which is half of the regions."""
    masks, maps = np.zeros((2, 8, 8), bool), np.zeros((2, 8, 8))
    masks[0, :4] = masks[1, 7, 7] = True
    maps[0, :4] = 1.0
    maps[1] = 0.5
    maps[1, 7, 7] = -1.0
    expected_at = np.array([0.0, 63 / 95, 1.0])  # shares of normal pixels; the single pixel comes last
    area = np.interp(0.3, expected_at, [0.5, 0.5, 1.0]) * 0.3
    assert evaluation.pixel_metrics(masks, maps)["pro"] == pytest.approx(area / 0.3)


def test_padding_does_not_count():
    masks = np.zeros((2, 6, 6), bool)
    masks[0, 2, 2] = masks[1, 3, 1:3] = True
    maps = np.random.default_rng(0).uniform(size=masks.shape)
    padding = np.zeros_like(masks)
    padding[:, :2] = padding[:, 5:] = True
    assert evaluation.pixel_metrics(masks, maps, padding) == evaluation.pixel_metrics(masks[:, 2:5], maps[:, 2:5])
    assert evaluation.pixel_metrics(masks, maps, padding)["pixel_prevalence"] == 3 / 36
