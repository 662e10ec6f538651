"""The formula of ensembles, compared with NumPy in float64 and with numbers by hand."""

import numpy as np
import pytest

from anomaly_toolbox import false_alarms
from anomaly_toolbox.ensembles.combination import Standardisation, combine, standardisation

GENERATOR = np.random.default_rng(8)


def spread(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def test_positive_scores_are_standardised_as_logarithms():
    normal_scores = np.exp(GENERATOR.normal(3, 2, 50)).astype(np.float32)
    scores = np.array([0.5, 20, 4000], np.float32)
    logarithms = np.log(normal_scores.astype(np.float64))
    expected = (np.log(scores) - np.median(logarithms)) / spread(logarithms)
    np.testing.assert_allclose(standardisation(normal_scores).of(scores), expected, rtol=1e-6)


def test_scores_that_can_be_negative_are_standardised_as_they_are():
    """The median of -2, -1, 0, 1, 2 is 0 and their MAD is 1."""
    fitted = standardisation(np.array([-2, -1, 0, 1, 2], np.float32))
    assert fitted == (None, 0, 1.4826)
    np.testing.assert_allclose(fitted.of(np.array([14.826, -1.4826])), [10, -1])


def test_a_score_of_0_counts_as_a_thousandth_of_the_median():
    fitted = standardisation(np.array([0, 1, 2, 4, 8], np.float32))
    assert fitted.lowest == pytest.approx(2e-3)
    np.testing.assert_allclose(fitted.of(np.array([0.0])), fitted.of(np.array([2e-3])))


def test_normal_scores_alone_decide_whether_logarithms_are_taken():
    """A new score below 0 counts as the lowest one; a single negative normal score, and there are no logarithms."""
    fitted = standardisation(np.array([1, np.e, np.e**2, np.e**3, np.e**4], np.float32))
    assert fitted.median == pytest.approx(2)
    expected = np.array([np.log(1e-3 * np.e**2) - 2, 5 - 2]) / 1.4826
    np.testing.assert_allclose(fitted.of(np.array([-7, np.e**5], np.float32)), expected, rtol=1e-6)
    assert standardisation(np.array([-0.1, 1, 2, 3, 4], np.float32)).lowest is None


def test_if_half_of_the_images_have_the_same_score_the_standard_deviation_is_the_spread():
    values = np.array([-1, 5, 5, 5, 5, 7], np.float64)
    assert standardisation(values).spread == pytest.approx(values.std())


#: Their logarithms have a standard deviation that is 0 for some and a rounding error for others.
EQUAL_SCORES = [(9, 3.0), (9, 0.0), (20, 0.0), (20, 0.3), (323, 0.001), (20, -2.7)]


@pytest.mark.parametrize(
    ("normal_scores", "message"),
    [
        *((np.full(n, value), "all normal validation images have the same score") for n, value in EQUAL_SCORES),
        (np.array([1, 1 + 1e-7, 1, 1 + 1e-7]), "all normal validation images have the same score"),
        (np.zeros(0), "there are no normal validation images that all members have scored"),
    ],
)
def test_scores_without_a_spread_are_refused(normal_scores, message):
    with pytest.raises(ValueError, match=message):
        standardisation(normal_scores.astype(np.float32))


def test_the_three_combinations_by_hand():
    """Both members have median 0 and spread 1.4826; their p-values are (1 + the number at or above) / 6."""
    normal_scores = np.array([-2, -1, 0, 1, 2], np.float32)
    members = [standardisation(normal_scores)] * 2
    scores = [np.array([1.4826, -5.0]), np.array([3 * 1.4826, 5.0])]
    combined = combine(members, [normal_scores] * 2, scores)
    np.testing.assert_allclose(combined["mean"], [2, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(combined["maximum"], [3, 5 / 1.4826], rtol=1e-6)
    expected = [-(np.log(2 / 6) + np.log(1 / 6)) / 2, -(np.log(6 / 6) + np.log(1 / 6)) / 2]
    np.testing.assert_allclose(combined["fisher"], expected, rtol=1e-6)
    assert all(values.dtype == np.float32 for values in combined.values())
    of_normal = combine(members, [normal_scores] * 2, [normal_scores] * 2, np.ones(5, bool))
    np.testing.assert_allclose(of_normal["fisher"], -np.log(np.array([5, 4, 3, 2, 1]) / 6), rtol=1e-6)


def share_of_false_alarms(name, are_counted_once):
    """The share of new normal images with a p-value of at most 0.01, over 2,000 draws of 99 validation images."""
    generator, shares = np.random.default_rng(5), []
    for _ in range(2000):
        shared, own = generator.normal(size=300), generator.normal(size=(3, 300))
        validation, new = np.split((shared + own).astype(np.float32), [99], axis=1)
        members = [standardisation(scores) for scores in validation]
        is_among_normal = np.ones(99, bool) if are_counted_once else None
        normal_scores = combine(members, validation, validation, is_among_normal)[name]
        shares.append(np.mean(false_alarms.p_values(normal_scores, combine(members, validation, new)[name]) <= 0.01))
    return np.mean(shares)


def test_new_normal_images_keep_to_the_false_alarm_rate():
    """The standard error is 0.0002. Counted twice in their own p-values, normal images would have too low scores."""
    assert share_of_false_alarms("mean", are_counted_once=True) == pytest.approx(0.01, abs=0.0006)
    assert share_of_false_alarms("maximum", are_counted_once=True) == pytest.approx(0.01, abs=0.0006)
    assert 0.005 < share_of_false_alarms("fisher", are_counted_once=True) <= 0.0106
    assert share_of_false_alarms("fisher", are_counted_once=False) > 0.014


def test_combinations_equal_those_in_float64():
    """Three members: two with positive scores, one with scores of both signs, as excess scores have."""
    normal_scores = [np.exp(GENERATOR.normal(2, 1, 81)), GENERATOR.uniform(0, 9, 81), GENERATOR.normal(-1, 3, 81)]
    scores = [np.exp(GENERATOR.normal(3, 1, 20)), GENERATOR.uniform(0, 20, 20), GENERATOR.normal(1, 5, 20)]
    as_float32 = lambda arrays: [array.astype(np.float32) for array in arrays]  # noqa: E731
    members = [standardisation(normal) for normal in as_float32(normal_scores)]
    combined = combine(members, as_float32(normal_scores), as_float32(scores))
    standardised, logarithms = [], []
    for number, (normal, values) in enumerate(zip(normal_scores, scores, strict=True)):
        n_at_or_above = [sum(other >= value for other in normal) for value in values]
        logarithms.append(-np.log((1 + np.array(n_at_or_above)) / 82))
        if number < 2:
            lowest = np.median(normal) / 1000
            normal, values = np.log(normal.clip(lowest)), np.log(values.clip(lowest))
        standardised.append((values - np.median(normal)) / spread(normal))
    np.testing.assert_allclose(combined["mean"], np.mean(standardised, axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(combined["maximum"], np.max(standardised, axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(combined["fisher"], np.mean(logarithms, axis=0), rtol=1e-5)


def test_a_score_does_not_depend_on_the_other_images():
    members = [Standardisation(0.01, 0.5, 2.0), Standardisation(None, 1.0, 3.0)]
    normal_scores = [GENERATOR.uniform(0, 2, 30).astype(np.float32)] * 2
    scores = [GENERATOR.uniform(0, 4, 9).astype(np.float32) for _ in members]
    together = combine(members, normal_scores, scores)
    alone = combine(members, normal_scores, [values[4:5] for values in scores])
    for name, values in together.items():
        np.testing.assert_array_equal(alone[name], values[4:5])
