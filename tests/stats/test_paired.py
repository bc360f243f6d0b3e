"""Intervals and tests against closed forms, brute force, other libraries, and their own promises in simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from edgelib.errors import EdgelibError
from edgelib.stats import paired as s


def paired_outcomes(rng, clusters, size, high, low, icc):
    """0/1 outcomes a, b of clusters * size items; a alone is right with probability high, b alone with low."""
    shared, own = rng.normal(size=(clusters, 1)), rng.normal(size=(clusters, size))
    u = special.ndtr(np.sqrt(icc) * shared + np.sqrt(1 - icc) * own).ravel()
    return (u < high).astype(float), (u > 1 - low).astype(float), np.repeat(np.arange(clusters), size)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_equals_statsmodels(level):
    n = np.array([1, 7, 100, 10_000])
    for right in (0 * n, n // 3, n):
        expected = proportion_confint(right, n, alpha=1 - level, method="wilson")
        assert np.allclose(s.wilson(right / n, n, level), expected, atol=1e-12)


@given(only_a=st.integers(0, 300), only_b=st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    discordant = only_a + only_b
    expected = stats.binomtest(only_a, discordant).pvalue if discordant else 1.0
    assert s.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (11, 0), (30, 12), (600, 480)])
def test_mcnemar_equals_statsmodels(only_a, only_b):
    assert s.mcnemar(only_a, only_b) == pytest.approx(statsmodels_mcnemar([[9, only_a], [only_b, 9]]).pvalue)


def test_unclustered_binary_p_is_mcnemar():
    a, b, _ = paired_outcomes(np.random.default_rng(0), 200, 1, 0.15, 0.05, 0)
    expected = s.mcnemar(int((a > b).sum()), int((b > a).sum()))
    assert s.paired_difference(a, b).p == pytest.approx(expected)


def brute_force_flips(d):
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([-1, 1], repeat=len(d))]
    return np.mean(np.array(sums) >= abs(np.sum(d)) - 1e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_whole_numbers_flip_exactly(d):
    assert s.sign_flip_p(d) == pytest.approx(brute_force_flips(d) if any(d) else 1.0)


def test_large_whole_numbers_flip_at_random_instead_of_filling_the_memory():
    d = [3, 1, 2, -1, 4]
    expected, p = s.sign_flip_p(d), s.sign_flip_p(10**12 * np.array(d))
    assert abs(p - expected) < 4 * np.sqrt(expected * (1 - expected) / s.FLIPS)


def test_graded_differences_flip_within_monte_carlo_error():
    d = np.random.default_rng(1).normal(0.3, 1, 11)
    expected = brute_force_flips(d)
    assert abs(s.sign_flip_p(d) - expected) < 4 * np.sqrt(expected * (1 - expected) / s.FLIPS)


def test_effect_is_mean_a_minus_mean_b():
    result = s.paired_difference([1, 1, 1, 0], [1, 0, 0, 0])
    assert (result.effect, result.n, result.n_clusters) == (0.5, 4, 4)
    assert result.interval[0] <= result.effect <= result.interval[1]


def test_swapping_a_and_b_changes_the_sign_only():
    a, b, image = paired_outcomes(np.random.default_rng(2), 60, 3, 0.2, 0.1, 0.3)
    one, two = s.paired_difference(a, b, cluster=image), s.paired_difference(b, a, cluster=image)
    assert (one.effect, one.p) == (-two.effect, pytest.approx(two.p))
    assert one.mde == pytest.approx(two.mde)
    assert np.allclose(one.interval, [-two.interval[1], -two.interval[0]], atol=0.02)


def test_order_of_items_and_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(3)
    a, b, image = paired_outcomes(rng, 50, 4, 0.2, 0.1, 0.3)
    mixed = rng.permutation(len(a))
    names = np.array([f"image {i}" for i in rng.permutation(50)])
    renamed = s.paired_difference(a[mixed], b[mixed], cluster=names[image[mixed]])
    assert renamed == s.paired_difference(a, b, cluster=image)


def test_same_seed_same_numbers_other_seed_close_ones():
    a, b, _ = paired_outcomes(np.random.default_rng(4), 300, 1, 0.2, 0.1, 0)
    one, again, other = (s.paired_difference(a, b, seed=seed) for seed in (1, 1, 2))
    assert one == again and one.interval == pytest.approx(other.interval, abs=0.01)


def test_binary_interval_is_close_to_bonett_and_price():
    a, b, _ = paired_outcomes(np.random.default_rng(5), 400, 1, 0.12, 0.06, 0)
    high, low = ((a > b).sum() + 1) / 402, ((b > a).sum() + 1) / 402
    half = 1.96 * np.sqrt((high + low - (high - low) ** 2) / 402)
    assert s.paired_difference(a, b).interval == pytest.approx((high - low - half, high - low + half), abs=0.005)


def test_mde_is_the_closed_form():
    a, b, _ = paired_outcomes(np.random.default_rng(6), 400, 1, 0.12, 0.06, 0)
    high, low = ((a > b).sum() + 1) / 402, ((b > a).sum() + 1) / 402
    se = np.sqrt((high + low - (high - low) ** 2) / 402)
    assert s.paired_difference(a, b).mde == pytest.approx(2.8016 * se, rel=1e-4)
    assert s.minimum_detectable_effect(0.01) == pytest.approx(0.028016, rel=1e-4)


def test_repeating_every_question_does_not_add_evidence():
    a, b, _ = paired_outcomes(np.random.default_rng(7), 200, 1, 0.2, 0.1, 0)
    image = np.repeat(np.arange(200), 5)
    once, five = s.paired_difference(a, b), s.paired_difference(np.repeat(a, 5), np.repeat(b, 5), cluster=image)
    assert (five.effect, five.interval) == (pytest.approx(once.effect), pytest.approx(once.interval))
    assert (five.p, five.mde) == (pytest.approx(once.p), pytest.approx(once.mde))


@pytest.mark.parametrize(
    ("clusters", "size", "icc"), [(30, 1, 0.0), (40, 5, 0.3), (60, 5, 0.9)], ids=["30 items", "40 x 5", "60 x 5 alike"]
)
def test_interval_covers_the_truth_and_a_a_tests_stay_quiet(clusters, size, icc):
    rng, runs, covered, rejected = np.random.default_rng(8), 200, 0, 0
    for run in range(runs):
        a, b, image = paired_outcomes(rng, clusters, size, 0.2, 0.1, icc)
        low, high = s.paired_difference(a, b, cluster=image, seed=run).interval
        covered += low <= 0.1 <= high
        a, b, image = paired_outcomes(rng, clusters, size, 0.15, 0.15, icc)
        rejected += s.paired_difference(a, b, cluster=image, seed=run).p < 0.05
    error = 2.6 * np.sqrt(0.05 * 0.95 / runs)  # 99 % of binomial sampling
    assert 0.94 - error <= covered / runs <= 0.985
    assert rejected / runs <= 0.05 + error


def test_agreement_on_every_item_is_not_certainty():
    result = s.paired_difference(np.ones(100), np.ones(100))
    assert (result.effect, result.p) == (0.0, 1.0)
    assert -0.04 <= result.interval[0] <= -0.02 and 0.02 <= result.interval[1] <= 0.04
    assert result.mde > 0.02


@pytest.mark.parametrize(
    ("a", "b"),
    [([1], [0]), ([1, 1, 1], [0, 0, 0]), ([0.3] * 4, [0.3] * 4), ([1], [1])],
    ids=["one", "all", "graded", "tie"],
)
def test_tiny_and_constant_data_do_not_crash(a, b):
    result = s.paired_difference(a, b)
    assert result.interval[0] <= result.effect <= result.interval[1] and 0 < result.p <= 1


def test_graded_answers_that_cancel_within_an_image_are_no_difference():
    result = s.paired_difference([0.3, 0.6, 0.1], [0.1, 0.3, 0.6], cluster=["x"] * 3)
    assert (result.effect, result.p) == (0.0, 1.0)


def test_one_cluster_has_no_spread_to_learn_from():
    assert s.paired_difference([1, 1, 0], [0, 0, 0], cluster=["x"] * 3).p == 1.0


def test_tost_agrees_with_the_paired_t_version():
    rng = np.random.default_rng(9)
    a = rng.normal(0.0, 1, 300)
    b = a + rng.normal(0.05, 0.5, 300)
    result, (expected, *_) = s.tost(a, b, 0.1), ttost_paired(a, b, -0.1, 0.1)
    assert result.p_equivalent == pytest.approx(expected, abs=0.02)
    assert s.tost(a, b, 0.5).p_equivalent < 0.01 < 0.5 < s.tost(a, b - 1, 0.1).p_equivalent


@pytest.mark.parametrize("seed", range(5))
def test_tost_agrees_with_its_interval(seed):
    a, b, image = paired_outcomes(np.random.default_rng(seed), 80, 3, 0.1, 0.1, 0.3)
    result = s.tost(a, b, 0.05, cluster=image)
    assert (result.p_equivalent < 0.05) == (max(np.abs(result.interval)) < 0.05)
    assert result.p_non_inferior <= result.p_equivalent


def test_holm_by_hand():
    assert np.allclose(s.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert np.allclose(s.holm([0.5]), [0.5])


def test_replicates_weigh_unequal_clusters_by_size():
    means, totals = s.replicates(np.array([[3.0], [0.0]]), np.array([3, 1]), 200, s.rng_for(0))
    assert means[0, 0] == 0.75 and totals[0] == 4
    assert set(zip(means[1:, 0], totals[1:], strict=True)) == {(1.0, 6.0), (0.75, 4.0), (0.0, 2.0)}


def test_undefined_replicates_widen_the_interval():
    draws = np.linspace(1, 2, 1000)
    assert s.percentile_interval(draws, 0.95, 10**6) == pytest.approx((1.025, 1.975), abs=2e-3)
    draws[::10] = np.nan
    assert s.percentile_interval(draws, 0.95, 10**6) == (-np.inf, np.inf)
    assert s.two_sided_p(draws, 10**6) > 0.19


BAD = {
    "NaN": (lambda: s.paired_difference([1, np.nan], [1, 0]), "NaN"),
    "lengths": (lambda: s.paired_difference([1, 0, 1], [1, 0]), "same items"),
    "empty": (lambda: s.paired_difference([], []), "non-empty"),
    "text": (lambda: s.paired_difference(["yes"], ["no"]), "numbers"),
    "matrix": (lambda: s.paired_difference([[1, 0]], [[1, 0]]), "shape"),
    "cluster length": (lambda: s.paired_difference([1, 0], [1, 0], cluster=[1]), "one image per item"),
    "cluster NaN": (lambda: s.paired_difference([1, 0], [1, 0], cluster=["x", np.nan]), "NaN for 1 of 2 items"),
    "cluster None": (lambda: s.paired_difference([1, 0], [1, 0], cluster=[None, "x"]), "NaN for 1 of 2 items"),
    "level as text": (lambda: s.paired_difference([1, 0], [1, 0], level="0.95"), "level .* got '0.95'"),
    "level of nothing": (lambda: s.wilson(0.5, 10, level=None), "level .* got None"),
    "level in percent": (lambda: s.paired_difference([1, 0], [1, 0], level=95), "level"),
    "seed": (lambda: s.paired_difference([1, 0], [1, 0], seed=-1), "seed"),
    "margin": (lambda: s.tost([1, 0], [1, 0], 0), "margin"),
    "p above one": (lambda: s.holm([0.1, 1.2]), "p_values"),
    "wilson in percent": (lambda: s.wilson(90, 100), r"\[0, 1\]"),
    "wilson of nothing": (lambda: s.wilson(0.5, 0), "at least 1"),
    "few replicates": (lambda: s.replicates(np.ones((2, 1)), np.ones(2), 10, s.rng_for(0)), "n_boot"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
