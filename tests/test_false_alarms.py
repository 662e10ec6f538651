"""P-values and thresholds worked out by hand, and simulations of the promise that they make."""

import numpy as np
import pytest

from anomaly_toolbox import false_alarms
from anomaly_toolbox.errors import InputError

NORMAL_SCORES = np.array([3.0, 1.0, 2.0, 2.0], np.float32)

RATE, N_NORMAL, REPETITIONS = 0.1, 49, 4000  # 5 of 50 are the rate exactly, so continuous scores reach it
CONTINUOUS = {
    "normal": lambda generator, size: generator.normal(size=size),
    "heavy tail": lambda generator, size: generator.pareto(0.7, size),
    "two kinds": lambda generator, size: generator.normal(np.where(generator.uniform(size=size) < 0.05, 9, 0)),
    "negative": lambda generator, size: -generator.exponential(size=size),
}
WITH_TIES = {
    "whole numbers": lambda generator, size: generator.poisson(2.0, size),
    "almost constant": lambda generator, size: generator.uniform(size=size) < 0.02,
}


def test_p_values_worked_out_by_hand():
    scores = [[3.5, 3.0, 2.5], [2.0, 1.0, 0.0]]
    expected = [[1 / 5, 2 / 5, 2 / 5], [4 / 5, 5 / 5, 5 / 5]]
    p_values = false_alarms.p_values(NORMAL_SCORES, scores)
    assert p_values.dtype == np.float64
    np.testing.assert_array_equal(p_values, expected)


def test_p_values_of_scores_that_are_not_finite():
    """What is not a number is no reason to call an image anomalous."""
    p_values = false_alarms.p_values(NORMAL_SCORES, [np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(p_values, [1 / 5, 1, 1])


def test_thresholds_worked_out_by_hand():
    """A p-value of 1/5 takes a score above 3, one of 2/5 a score above the second 2, one of 4/5 a score above 1."""
    for rate, must_exceed in ((0.2, 3.0), (0.39, 3.0), (0.4, 2.0), (0.79, 2.0), (0.8, 1.0), (0.999, 1.0)):
        threshold = false_alarms.threshold_for(NORMAL_SCORES, rate)
        assert must_exceed < threshold <= np.nextafter(np.float32(must_exceed), np.float32(np.inf))


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("offset", [0.0, -5.0])
def test_the_threshold_decides_as_the_p_value_does(decimals, offset):
    """For every rate that a p-value can be equal to, also just below and above it, with ties and without."""
    generator = np.random.default_rng(decimals)
    for n in (1, 9, 99, 188):
        normal_scores = (np.round(generator.gamma(2, size=n), decimals) + offset).astype(np.float32)
        neighbours = [np.nextafter(normal_scores, np.float32(end)) for end in (-np.inf, np.inf)]
        scores = np.concatenate([normal_scores, *neighbours, [offset - 1, 99]]).astype(np.float32)
        p_values = false_alarms.p_values(normal_scores, scores)
        for possible in np.arange(1, n + 1) / (n + 1):
            for rate in {possible, np.nextafter(possible, 0), np.nextafter(possible, 1), possible + 0.3 / (n + 1)}:
                if n < false_alarms.n_needed(rate):
                    assert 1 / (n + 1) > rate
                    continue
                threshold = false_alarms.threshold_for(normal_scores, rate)
                np.testing.assert_array_equal(scores >= threshold, p_values <= rate)
                assert threshold > normal_scores.min()


def test_binary_rounding_of_the_rate_loses_no_image():
    """0.29 * 100 is less than 29 in binary floats; 28 of 99 normal scores may be at or above a score."""
    normal_scores = np.arange(99, dtype=np.float32)
    assert int(0.29 * 100) == 28
    assert 70 < false_alarms.threshold_for(normal_scores, 0.29) < 70.001
    np.testing.assert_array_equal(false_alarms.p_values(normal_scores, [70, 71]), [0.30, 0.29])


def test_scores_written_with_nine_digits_are_decided_alike():
    """`scores.csv` has nine digits; the lowest score that is called anomalous must not be lost by reading it."""
    for score in np.random.default_rng(0).lognormal(0, 3, 300).astype(np.float32):
        threshold = false_alarms.threshold_for(np.array([score]), 0.5)
        next_score = np.nextafter(score, np.float32(np.inf))
        assert next_score >= threshold
        assert float(f"{next_score:.9g}") >= threshold > float(f"{score:.9g}")


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.5, 1), (0.9, 1), (0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3), (1 / 49, 48), (1 / 3, 2)]
)
def test_the_number_of_validation_images_that_a_rate_takes(rate, needed):
    assert false_alarms.n_needed(rate) == needed
    assert false_alarms.threshold_for(np.arange(needed), rate) > needed - 1
    if needed > 1:
        message = f"takes {needed} normal validation images, and the run has {needed - 1}; ask for at least"
        with pytest.raises(InputError, match=message):
            false_alarms.threshold_for(np.arange(needed - 1), rate)


@pytest.mark.parametrize("n", [1, 40, 150, 998, 6000])
def test_the_rate_that_the_error_advises_is_possible(n):
    normal_scores = np.arange(n)
    with pytest.raises(InputError) as error:
        false_alarms.threshold_for(normal_scores, 1e-5)
    advised = float(str(error.value).partition("at least ")[2].partition(",")[0])
    assert false_alarms.threshold_for(normal_scores, advised) > n - 2
    assert advised < 1 / (n + 1) + 1e-4


@pytest.mark.parametrize("rate", [0, 1, -0.1, 5, np.nan, np.inf])
def test_rates_outside_of_0_to_1_are_refused(rate):
    with pytest.raises(InputError, match=rf"^false-alarm rate {rate:g}: expected a number between 0 and 1, such as"):
        false_alarms.threshold_for(NORMAL_SCORES, rate)


@pytest.mark.parametrize("rate", ["0.01", None, True])
def test_rates_that_are_no_numbers_are_refused(rate):
    with pytest.raises(InputError, match=rf"^false-alarm rate {rate!r}: expected a number between 0 and 1, such as"):
        false_alarms.threshold_for(NORMAL_SCORES, rate)


def test_only_finite_scores_of_normal_images_count():
    labels, scores = np.array([0, 1, 0, 0, 0]), np.array([0.5, 9.0, np.nan, np.inf, 0.25])
    of_normal_images = false_alarms.of_normal_images(labels, scores)
    assert (of_normal_images.tolist(), of_normal_images.dtype) == ([0.5, 0.25], np.float32)


def test_outcomes_at_each_rate_worked_out_by_hand():
    """Of 0 to 98, one must be exceeded for a rate of 0.01, and five for 0.05."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    scores = np.array([10.0, 20.0, 95.0, 98.0, 94.0, 99.0])
    outcomes = false_alarms.at_each_rate(np.arange(99), labels, scores)
    assert list(outcomes) == ["0.001", "0.01", "0.05"]
    assert outcomes["0.001"] is None  # it takes 999 images
    assert outcomes["0.01"] == {
        "threshold": pytest.approx(98, abs=1e-4),
        "detection_rate": 1 / 2,
        "false_alarm_rate": 0,
    }
    assert outcomes["0.05"] == {
        "threshold": pytest.approx(94, abs=1e-4),
        "detection_rate": 1 / 2,
        "false_alarm_rate": 2 / 4,
    }


def test_a_share_of_no_images_is_none():
    outcome = false_alarms.at_each_rate(np.arange(99), np.zeros(2), [1.0, 100.0])["0.01"]
    assert (outcome["detection_rate"], outcome["false_alarm_rate"]) == (None, 1 / 2)
    outcome = false_alarms.at_each_rate(np.arange(99), np.ones(2), [1.0, 100.0])["0.01"]
    assert (outcome["detection_rate"], outcome["false_alarm_rate"]) == (1 / 2, None)


def false_alarms_in_simulations(threshold_for, draw):
    """Chooses a threshold for RATE from normal scores and tests it on new ones, many times.

    Returns:
        The mean share of false alarms, and its standard error.
    """
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(REPETITIONS):
        threshold = threshold_for(draw(generator, N_NORMAL).astype(np.float32), RATE)
        shares.append((draw(generator, 200).astype(np.float32) >= threshold).mean())
    return np.mean(shares), np.std(shares) / np.sqrt(REPETITIONS)


@pytest.mark.parametrize("draw", CONTINUOUS.values(), ids=CONTINUOUS)
def test_false_alarms_of_continuous_scores_are_as_frequent_as_the_rate(draw):
    share, error = false_alarms_in_simulations(false_alarms.threshold_for, draw)
    assert abs(share - RATE) <= 3 * error


@pytest.mark.parametrize("draw", WITH_TIES.values(), ids=WITH_TIES)
def test_false_alarms_of_scores_with_ties_are_at_most_as_frequent_as_the_rate(draw):
    share, error = false_alarms_in_simulations(false_alarms.threshold_for, draw)
    assert 0 < share <= RATE + 3 * error


@pytest.mark.parametrize(
    "wrong",
    [
        lambda normal_scores, rate: np.quantile(normal_scores, 1 - rate),
        lambda normal_scores, rate: np.sort(normal_scores)[-int(rate * (len(normal_scores) + 1)) - 1],
        lambda normal_scores, rate: np.sort(normal_scores)[-int(rate * (len(normal_scores) + 1))],  # equal ones count
    ],
    ids=["the quantile", "one image less", "without ties in mind"],
)
def test_the_simulation_finds_wrong_formulas(wrong):
    exceeds_by = []
    for draw in (*CONTINUOUS.values(), *WITH_TIES.values()):
        share, error = false_alarms_in_simulations(wrong, draw)
        exceeds_by.append((share - RATE) / error)
    assert max(exceeds_by) > 10  # standard errors, where the promise allows 3


@pytest.mark.parametrize("draw", CONTINUOUS.values(), ids=CONTINUOUS)
def test_p_values_of_normal_images_are_uniform(draw):
    """Over many validation samples, each of the n + 1 p-values is equally frequent."""
    generator, counts = np.random.default_rng(1), np.zeros(10)
    for _ in range(20_000):
        scores = draw(generator, 10).astype(np.float32)
        counts[round(10 * false_alarms.p_values(scores[1:], scores[0])) - 1] += 1
    np.testing.assert_allclose(counts, 2000, atol=4.5 * np.sqrt(2000 * 0.9))
