"""Excess scores and the combined score, compared with NumPy in float64."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox import load
from anomaly_toolbox.cli import main
from anomaly_toolbox.models.derived_scores import (
    DerivedScores,
    fit_statistics,
    is_derived,
    n_held_out,
)
from tests.conftest import tiny_detector

GENERATOR = np.random.default_rng(5)
COMPLEXITIES = GENERATOR.normal(size=(60, 2)) * [0.3, 0.6] + [4, 5]
NOISE = GENERATOR.normal(size=60) * 0.1
SCORES = np.exp(1 + 0.5 * COMPLEXITIES[:, 0] - 0.2 * COMPLEXITIES[:, 1] + NOISE)


def spread(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def by_numpy(scores, normal_scores, complexities, normal_complexities):
    """log A, A' of some images, and the u of both, from the equations alone; complexities are within the range."""
    design = np.column_stack([np.ones(len(normal_scores)), normal_complexities])
    coefficients = np.linalg.solve(design.T @ design, design.T @ np.log(normal_scores))
    normal_excess = np.log(normal_scores) - design @ coefficients
    excess = np.log(scores) - np.column_stack([np.ones(len(scores)), complexities]) @ coefficients
    u = (np.log(scores) - np.median(np.log(normal_scores))) / spread(np.log(normal_scores))
    u_of_excess = (excess - np.median(normal_excess)) / spread(normal_excess)
    return excess, (u + u_of_excess) / 2


def fitted(scores=None, complexities=COMPLEXITIES, combined_from=("paper",)):
    layer = DerivedScores(1, combined_from)
    layer.fit(scores or {"paper": SCORES}, complexities)
    return layer


def test_complexity_by_hand():
    """A white pixel on black has an ink of 1 and four neighbours that differ by 1."""
    image = -np.ones((1, 4, 4, 1), np.float32)
    image[0, 1, 1] = 1
    layer = DerivedScores(1, ())
    np.testing.assert_allclose(layer.complexity(image), np.log([[1 + 1, 1 + 4]]), rtol=1e-6)


def test_complexity_adds_up_channels():
    images = GENERATOR.uniform(-1, 1, (3, 5, 6, 3)).astype(np.float32)
    grey = np.array([0.1, 0.5, 0.8])
    layer = DerivedScores(3, ())
    layer.set_arrays(grey=grey)
    pixels = (images.astype(np.float64) + 1) / 2
    ink = np.abs(pixels - grey).sum(axis=(1, 2, 3))
    variation = np.abs(np.diff(pixels, axis=1)).sum(axis=(1, 2, 3)) + np.abs(np.diff(pixels, axis=2)).sum(
        axis=(1, 2, 3)
    )
    np.testing.assert_allclose(layer.complexity(images), np.log1p(np.stack([ink, variation], axis=1)), rtol=1e-5)


def test_dark_drawings_on_white_are_as_complex_as_white_ones_on_black():
    images = np.where(GENERATOR.uniform(size=(9, 8, 8, 1)) < 0.2, 1, -1).astype(np.float32)
    light, dark = DerivedScores(1, ()), DerivedScores(1, ())
    light.set_grey(images)
    dark.set_grey(-images)
    assert (light.arrays["grey"].numpy(), dark.arrays["grey"].numpy()) == (0, 1)
    np.testing.assert_allclose(light.complexity(images), dark.complexity(-images), rtol=1e-6)


def test_a_score_that_complexity_explains_has_no_excess():
    """log A = 2 + 3 log ink - log TV exactly, so b is (2, 3, -1)."""
    scores = np.exp(2 + 3 * COMPLEXITIES[:, 0] - COMPLEXITIES[:, 1])
    statistics = fit_statistics(scores, COMPLEXITIES)
    assert statistics[1:4] == pytest.approx((2, 3, -1))
    layer = fitted({"paper": scores})
    derived = layer({"paper": tf.constant(scores * np.e, tf.float32)}, tf.constant(COMPLEXITIES, tf.float32))
    np.testing.assert_allclose(derived["paper_excess"], 1, atol=1e-4)


def test_excess_and_combined_equal_numpy():
    inside = COMPLEXITIES[:20] * 0.5 + COMPLEXITIES.mean(axis=0) * 0.5
    scores = np.exp(GENERATOR.normal(size=20))
    excess, combined = by_numpy(scores, SCORES, inside, COMPLEXITIES)
    derived = fitted()({"paper": tf.constant(scores, tf.float32)}, tf.constant(inside, tf.float32))
    np.testing.assert_allclose(derived["paper_excess"], excess, atol=1e-4)
    np.testing.assert_allclose(derived["combined"], combined, rtol=1e-3, atol=1e-3)


def test_combined_is_the_mean_over_its_scores_and_their_excesses():
    others = np.exp(GENERATOR.normal(size=60))
    layer = fitted({"paper": SCORES, "residual": others, "pathway": others**2}, combined_from=("paper", "pathway", "x"))
    inputs = {"paper": SCORES, "residual": others, "pathway": others**2}
    derived = layer(
        {name: tf.constant(v, tf.float32) for name, v in inputs.items()}, tf.constant(COMPLEXITIES, tf.float32)
    )
    parts = [by_numpy(v, v, COMPLEXITIES, COMPLEXITIES)[1] for v in (SCORES, others**2)]
    np.testing.assert_allclose(derived["combined"], np.mean(parts, axis=0), rtol=1e-3, atol=1e-3)
    assert set(derived) == {"paper_excess", "residual_excess", "pathway_excess", "combined"}


def test_complexities_outside_the_normal_range_count_as_its_ends():
    layer, score = fitted(), {"paper": tf.constant([2.0])}
    ends = COMPLEXITIES.max(axis=0, keepdims=True)
    outside = layer(score, tf.constant(ends + 3, tf.float32))
    np.testing.assert_allclose(outside["combined"], layer(score, tf.constant(ends, tf.float32))["combined"], rtol=1e-6)
    inside = layer(score, tf.constant(ends - 0.5, tf.float32))
    assert not np.allclose(outside["combined"], inside["combined"], rtol=1e-3)


def test_a_score_of_0_counts_as_a_thousandth_of_the_median():
    scores = SCORES.copy()
    scores[:3] = 0
    statistics = fit_statistics(scores, COMPLEXITIES)
    assert statistics.lowest == pytest.approx(np.median(scores) / 1000)
    derived = fitted({"paper": scores})({"paper": tf.constant([0.0])}, tf.constant(COMPLEXITIES[:1], tf.float32))
    assert np.isfinite(derived["paper_excess"]).all()


def test_a_constant_score_is_left_out_of_the_combined_score():
    layer = fitted({"paper": SCORES, "residual": np.full(60, 2.0)}, combined_from=("paper", "residual"))
    inputs = {"paper": tf.constant(SCORES, tf.float32), "residual": tf.constant(SCORES, tf.float32)}
    complexities = tf.constant(COMPLEXITIES, tf.float32)
    alone = fitted()({"paper": inputs["paper"]}, complexities)["combined"]
    np.testing.assert_allclose(layer(inputs, complexities)["combined"], alone / 2, atol=1e-5)


def test_complexities_that_do_not_vary_explain_nothing():
    statistics = fit_statistics(SCORES, np.ones((60, 2)))
    assert statistics[1:4] == pytest.approx((np.log(SCORES).mean(), 0, 0))


@pytest.mark.parametrize(
    ("n_images", "expected"), [(99, 0), (100, 20), (200, 20), (900, 90), (10_000, 1000), (60_000, 1000)]
)
def test_the_number_of_images_that_are_left_out_of_the_memory_banks(n_images, expected):
    assert n_held_out(n_images) == expected


@pytest.mark.parametrize(("score", "expected"), [("paper", False), ("combined", True), ("paper_excess", True)])
def test_derived_scores_are_recognised_by_their_names(score, expected):
    assert is_derived(score) is expected


def test_held_out_images_are_in_no_memory_bank():
    images = GENERATOR.uniform(-1, 1, (120, 16, 16, 1)).astype(np.float32)
    detector = tiny_detector("KNN", memory_size=1000)
    detector.fit_scores(images)
    assert detector.training_images.arrays["images"].shape[0] == 100
    distances = detector.training_images.nearest(images)[0][:, 0]
    assert (distances > 1).sum() == 20  # the others find themselves, up to the rounding to bytes


def test_too_few_images_all_go_to_the_memory_banks():
    images = GENERATOR.uniform(-1, 1, (99, 16, 16, 1)).astype(np.float32)
    detector = tiny_detector("PCA")
    detector.fit_scores(images)
    assert detector.derived_scores.is_empty
    assert set(detector.scores(images)) == {"paper", "residual"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """PCA on Digits with the combined score."""
    log_dir = tmp_path_factory.mktemp("logs")
    options = ["--experiment", "PCA", "--dataset", "Digits", "--set", "image_size=8", "--set", "score=combined"]
    main([*options, "--log-dir", str(log_dir)], standalone_mode=False)
    return next(log_dir.glob("PCA/Digits/*"))


def test_derived_scores_can_be_recomputed_from_the_run_folder(run):
    with open(run / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    recorded = json.loads((run / "results.json").read_text())["derived_scores"]
    complexities = np.stack([columns["log_ink"], columns["log_variation"]], axis=1)
    complexities = np.clip(complexities, recorded["lowest_complexity"], recorded["highest_complexity"])
    standardised = {}
    for name in ("paper", "residual"):
        fitted_values = recorded["statistics"][name]
        logarithms = np.log(np.maximum(columns[name], fitted_values["lowest"]))
        slopes = fitted_values["ink_slope"], fitted_values["variation_slope"]
        excess = logarithms - fitted_values["intercept"] - complexities @ slopes
        np.testing.assert_allclose(columns[f"{name}_excess"], excess, atol=1e-5)
        standardised[name] = [
            (logarithms - fitted_values["median"]) / fitted_values["spread"],
            (excess - fitted_values["excess_median"]) / fitted_values["excess_spread"],
        ]
    assert recorded["combined_from"] == ["paper"]
    np.testing.assert_allclose(columns["combined"], np.mean(standardised["paper"], axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(columns["score"], columns["combined"])


def test_a_loaded_detector_gives_the_derived_score_of_an_image_in_any_company(run):
    images = list(GENERATOR.uniform(0, 1, (5, 8, 8)).astype(np.float32))
    detector = load(run)
    together = detector.score_images(images)
    alone = np.concatenate([detector.score_images([image]) for image in reversed(images)])[::-1]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert len(np.unique(together)) == 5
