"""Complexity, excess scores and the combined score, compared with NumPy in float64 and with values by hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.derived_scores import DerivedScores, fit_statistics, is_derived, n_held_out
from anomaly_toolbox.training.outputs import describe_derived_scores
from tests.conftest import derived_scores_in_numpy

COMBINED_FROM = ("paper", "residual", "mahalanobis")  # no detector of these tests has the last one


def in_range(values):
    """Values in [0, 1], in the range of images, as one image (1, height, width, channels)."""
    return 2 * np.array(values, np.float32).reshape(1, len(values), -1, 1) - 1


def complexity_in_numpy(images, grey):
    """log ink and log TV of images in [-1, 1], (n, 2), pixel by pixel; `grey` has a value for each channel."""
    pixels = (images.astype(np.float64) + 1) / 2
    complexities = []
    for image in pixels:
        height, width, channels = image.shape
        ink, variation = 1.0, 1.0
        for row, column, channel in np.ndindex(height, width, channels):
            value = image[row, column, channel]
            ink += abs(value - grey[channel])
            if row + 1 < height:
                variation += abs(value - image[row + 1, column, channel])
            if column + 1 < width:
                variation += abs(value - image[row, column + 1, channel])
        complexities.append([np.log(ink), np.log(variation)])
    return np.array(complexities)


def least_squares(scores, complexities):
    """b0, b1 and b2 of log A, from the normal equations."""
    design = np.column_stack([np.ones(len(scores)), complexities])
    return np.linalg.solve(design.T @ design, design.T @ np.log(scores))


def median_and_mad(values):
    ordered = np.sort(values)
    median = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    deviations = np.sort(np.abs(values - median))
    return median, 1.4826 * (deviations[(len(values) - 1) // 2] + deviations[len(values) // 2]) / 2


def normal_images(n, seed=0):
    """Scores and complexities of n images; the scores grow with the complexity."""
    generator = np.random.default_rng(seed)
    complexities = generator.uniform([3, 4], [5, 7], (n, 2))
    paper = np.exp(0.7 * complexities[:, 0] + 0.2 * complexities[:, 1] + generator.normal(0, 0.3, n))
    residual = generator.gamma(3, 0.1, n)
    return {"paper": paper, "residual": residual}, complexities


@pytest.fixture
def fitted():
    """Derived scores that are fitted to 60 normal images."""
    layer = DerivedScores(1, COMBINED_FROM)
    layer.fit(*normal_images(60))
    return layer


def compute(layer, scores, complexities):
    tensors = {name: tf.constant(values, tf.float32) for name, values in scores.items()}
    return {name: values.numpy() for name, values in layer(tensors, tf.constant(complexities, tf.float32)).items()}


def test_complexity_by_hand():
    """Of four pixels, two are white: ink is 1 + 2, and every one of the four pairs of neighbours differs by 1."""
    layer = DerivedScores(1, ())
    np.testing.assert_allclose(layer.complexity(in_range([[0, 1], [1, 0]])), [[np.log(3), np.log(5)]], rtol=1e-6)
    # One row: |p - g| = 0, 0.5 and 0.25, and the differences are 0.5 and 0.25.
    np.testing.assert_allclose(layer.complexity(in_range([[0, 0.5, 0.25]])), [np.log([1.75, 1.75])], rtol=1e-6)
    np.testing.assert_array_equal(layer.complexity(in_range([[0, 0], [0, 0]])), [[0, 0]])


@pytest.mark.parametrize("channels", [1, 3])
def test_complexity_of_images_on_any_background(channels):
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (5, 6, 7, channels)).astype(np.float32)
    background = np.linspace(-0.8, 0.6, channels)
    images[:, :5] = background
    layer = DerivedScores(channels, ())
    layer.set_grey(images)
    grey = (background + 1) / 2
    np.testing.assert_allclose(layer.arrays["grey"], grey, rtol=1e-5)
    np.testing.assert_allclose(layer.complexity(images), complexity_in_numpy(images, grey), rtol=1e-5)


def test_dark_strokes_on_white_are_as_complex_as_white_strokes_on_black():
    images = np.full((9, 8, 8, 1), -1, np.float32)
    for width, image in enumerate(images):
        image[2:5, :width] = 0.7
    light_on_dark, dark_on_light = DerivedScores(1, ()), DerivedScores(1, ())
    light_on_dark.set_grey(images)
    dark_on_light.set_grey(-images)
    assert (float(light_on_dark.arrays["grey"][0]), float(dark_on_light.arrays["grey"][0])) == (0, 1)
    complexities = light_on_dark.complexity(images).numpy()
    np.testing.assert_allclose(dark_on_light.complexity(-images), complexities, rtol=1e-6, atol=1e-6)
    assert (np.diff(complexities[:, 0]) > 0).all()  # the more strokes, the more ink
    assert not np.allclose(light_on_dark.complexity(-images), complexities)  # with the grey of the other images


def test_statistics_by_hand():
    """log A is 1, 2, 5 and 10 at the corners of a square."""
    complexities = np.array([[0.0, 0], [0, 2], [2, 0], [2, 2]])
    fitted = fit_statistics(np.exp([1.0, 2, 5, 10]), complexities)
    # The means are 1.5 and 7.5 at ink 0 and 2, and 3 and 6 at TV 0 and 2; the mean of all, at (1, 1), is 4.5.
    assert (fitted.ink_slope, fitted.variation_slope) == pytest.approx((3, 1.5))
    assert fitted.intercept == pytest.approx(4.5 - 3 - 1.5, abs=1e-12)
    # The excesses are 1, -1, -1 and 1; log A deviates from its median 3.5 by 2.5, 1.5, 1.5 and 6.5.
    assert (fitted.excess_median, fitted.excess_spread) == pytest.approx((0, 1.4826), abs=1e-12)
    assert (fitted.median, fitted.spread) == pytest.approx((3.5, 2 * 1.4826))
    assert fitted.lowest == pytest.approx(1e-3 * (np.exp(2) + np.exp(5)) / 2)


def test_statistics_are_least_squares_and_robust_spreads():
    scores, complexities = normal_images(41)
    for values in scores.values():
        fitted = fit_statistics(values, complexities)
        expected = least_squares(values, complexities)
        np.testing.assert_allclose((fitted.intercept, fitted.ink_slope, fitted.variation_slope), expected, rtol=1e-9)
        excess = np.log(values) - expected[0] - complexities @ expected[1:]
        np.testing.assert_allclose((fitted.median, fitted.spread), median_and_mad(np.log(values)), rtol=1e-9)
        np.testing.assert_allclose(
            (fitted.excess_median, fitted.excess_spread), median_and_mad(excess), rtol=1e-9, atol=1e-12
        )


def test_excess_and_combined_scores_are_those_of_numpy(fitted):
    """Of images that nothing was fitted to, some of them more and less complex than any normal image."""
    scores, complexities = normal_images(50, seed=1)
    complexities[:6] *= [[0.1, 1], [1, 0.1], [0.1, 0.1], [9, 1], [1, 9], [9, 9]]
    expected = derived_scores_in_numpy(
        scores, complexities, describe_derived_scores(SimpleNamespace(derived_scores=fitted))
    )
    derived = compute(fitted, scores, complexities)
    assert set(derived) == set(expected) == {"paper_excess", "residual_excess", "combined"}
    for name, values in derived.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


def test_combined_is_the_mean_of_the_standardised_logarithms(fitted):
    """Computed from the definition and the images that it was fitted to, without the stored statistics."""
    normal_scores, normal_complexities = normal_images(60)
    scores, complexities = normal_images(1, seed=1)
    standardised = []
    for name, normal_values in normal_scores.items():
        b = least_squares(normal_values, normal_complexities)
        raw = np.log(normal_values), np.log(scores[name])
        excess = raw[0] - b[0] - normal_complexities @ b[1:], raw[1] - b[0] - complexities @ b[1:]
        for of_normal, of_image in (raw, excess):
            median, spread = median_and_mad(of_normal)
            standardised.append((of_image - median) / spread)
    assert len(standardised) == 4
    combined = compute(fitted, scores, complexities)["combined"]
    np.testing.assert_allclose(combined, np.mean(standardised, axis=0), rtol=1e-4)


def test_only_the_listed_scores_are_combined(fitted):
    only_residual = DerivedScores(1, ("residual",))
    only_residual.fit(*normal_images(60))
    scores, complexities = normal_images(9, seed=2)
    derived, of_residual = compute(fitted, scores, complexities), compute(only_residual, scores, complexities)
    np.testing.assert_allclose(of_residual["paper_excess"], derived["paper_excess"])
    assert not np.allclose(of_residual["combined"], derived["combined"])
    scores["paper"] = scores["paper"] * 7
    np.testing.assert_array_equal(compute(only_residual, scores, complexities)["combined"], of_residual["combined"])
    none = DerivedScores(1, ("mahalanobis",))
    none.fit(*normal_images(60))
    assert set(compute(none, scores, complexities)) == {"paper_excess", "residual_excess"}


def test_outside_the_normal_range_a_complexity_counts_as_its_end(fitted):
    _, complexities = normal_images(60)
    lowest, highest = complexities.min(axis=0), complexities.max(axis=0)
    at_ends = np.array([lowest, highest, [lowest[0], highest[1]]])
    beyond = at_ends + np.array([[-2, -50], [1, 30], [-0.01, 0.01]])
    scores = {"paper": np.array([2.0, 30.0, 5.0])}
    excess = compute(fitted, scores, at_ends)["paper_excess"]
    np.testing.assert_allclose(compute(fitted, scores, beyond)["paper_excess"], excess, rtol=1e-5)
    inside = at_ends + np.array([[0.1, 0], [-0.1, 0], [0.1, 0]])
    assert not np.isclose(compute(fitted, scores, inside)["paper_excess"], excess, rtol=1e-3).any()


def test_duplicates_of_training_images():
    """Distances that are exactly 0 count as a thousandth of the median."""
    scores, complexities = normal_images(40)
    scores["paper"][:5] = 0
    layer = DerivedScores(1, COMBINED_FROM)
    layer.fit(scores, complexities)
    lowest = np.median(scores["paper"]) / 1000
    assert layer.statistics()["paper"].lowest == pytest.approx(lowest)
    derived = compute(layer, {"paper": np.array([0.0, lowest, lowest / 5, 1.0])}, complexities[:1].repeat(4, axis=0))
    excess = derived["paper_excess"]
    assert np.isfinite(excess).all()
    np.testing.assert_allclose(excess[1:3], excess[0], rtol=1e-5)
    assert excess[3] > excess[0]


def test_scores_that_are_mostly_0_stay_finite():
    scores, complexities = normal_images(40)
    scores["paper"][:30] = 0
    layer = DerivedScores(1, COMBINED_FROM)
    layer.fit(scores, complexities)
    for values in compute(layer, scores, complexities).values():
        assert np.isfinite(values).all()


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
def test_a_constant_score_is_left_out_of_the_combined_score(value):
    scores, complexities = normal_images(40)
    constant, without = DerivedScores(1, ("paper", "residual")), DerivedScores(1, ("residual",))
    constant.fit({**scores, "paper": np.full(40, value)}, complexities)
    without.fit(scores, complexities)
    assert constant.statistics()["paper"].spread == constant.statistics()["paper"].excess_spread == np.inf
    others, complexities = normal_images(20, seed=1)
    derived = compute(constant, others, complexities)
    assert all(np.isfinite(values).all() for values in derived.values())
    expected = compute(without, others, complexities)["combined"]
    np.testing.assert_allclose(np.argsort(derived["combined"]), np.argsort(expected))
    described = describe_derived_scores(SimpleNamespace(derived_scores=constant))["statistics"]["paper"]
    assert described["spread"] is None  # JSON has no infinity


def test_a_score_that_is_half_constant_is_measured_by_its_standard_deviation():
    scores = np.exp(np.repeat([0.0, 1.0], [15, 5]))
    fitted = fit_statistics(scores, np.zeros((20, 2)))
    assert (fitted.median, fitted.spread) == pytest.approx((0, np.sqrt(0.25 * 0.75)))


@pytest.mark.parametrize("constant_columns", [[0], [1], [0, 1]])
def test_a_complexity_that_is_constant_explains_nothing(constant_columns):
    """The remaining complexity is still used."""
    scores, complexities = normal_images(40)
    complexities[:, constant_columns] = 2.5
    fitted = fit_statistics(scores["paper"], complexities)
    slopes = np.array([fitted.ink_slope, fitted.variation_slope])
    np.testing.assert_allclose(slopes[constant_columns], 0, atol=1e-12)
    for column in {0, 1} - set(constant_columns):
        expected = np.polyfit(complexities[:, column], np.log(scores["paper"]), 1)
        np.testing.assert_allclose((slopes[column], fitted.intercept), expected, rtol=1e-8)


def test_complexities_that_hardly_differ_have_small_slopes():
    """Ink and TV are almost multiples of each other, so least squares alone would have huge, opposite slopes."""
    generator = np.random.default_rng(0)
    ink = generator.uniform(3, 5, 40)
    complexities = np.column_stack([ink, 2 * ink + 1e-6 * generator.normal(size=40)])
    scores = np.exp(ink + generator.normal(0, 0.1, 40))
    assert np.abs(least_squares(scores, complexities)[1:]).max() > 100
    fitted = fit_statistics(scores, complexities)
    slope, _ = np.polyfit(ink, np.log(scores), 1)
    assert fitted.ink_slope + 2 * fitted.variation_slope == pytest.approx(slope, rel=1e-4)
    assert max(abs(fitted.ink_slope), abs(fitted.variation_slope)) < 1


def test_derived_scores_do_not_depend_on_the_other_images(fitted):
    scores, complexities = normal_images(30, seed=1)
    together = compute(fitted, scores, complexities)
    for i in (3, 0, 29):
        alone = compute(fitted, {name: values[i : i + 1] for name, values in scores.items()}, complexities[i : i + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][i], rtol=1e-5, atol=1e-6)


def test_what_was_fitted_is_saved_with_the_weights(fitted, tmp_path):
    def model_with(layer):
        model = keras.Sequential()
        model.layer = layer
        model.built = True
        return model

    fitted.set_grey(np.full((2, 3, 3, 1), 0.5, np.float32))
    other = DerivedScores(1, COMBINED_FROM)
    assert other.is_empty
    model_with(fitted).save_weights(tmp_path / "m.weights.h5")
    model_with(other).load_weights(tmp_path / "m.weights.h5")
    assert not other.is_empty
    scores, complexities = normal_images(9, seed=1)
    expected = compute(fitted, scores, complexities)
    for name, values in compute(other, scores, complexities).items():
        np.testing.assert_array_equal(values, expected[name])
    assert other.statistics() == fitted.statistics()
    np.testing.assert_array_equal(other.arrays["grey"], [0.75])


def test_before_a_fit_there_are_no_derived_scores():
    assert compute(DerivedScores(1, COMBINED_FROM), *normal_images(3)) == {}


@pytest.mark.parametrize(
    ("n_images", "expected"),
    [(2, 0), (99, 0), (100, 20), (209, 20), (210, 21), (9_999, 999), (10_000, 1000), (60_000, 1000)],
)
def test_how_many_images_are_held_out(n_images, expected):
    assert n_held_out(n_images) == expected


def test_names_of_derived_scores():
    names = ["paper", "paper_excess", "combined", "pathway", "latent_neighbours_excess"]
    assert [name for name in names if is_derived(name)] == ["paper_excess", "combined", "latent_neighbours_excess"]
