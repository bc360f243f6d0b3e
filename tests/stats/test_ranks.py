"""Rank agreement against scipy, closed forms and brute force; the first place and the recommendation by their laws."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats import ranks as r
from edgelib.stats.paired import rng_for, tost
from edgelib.stats.recommend import hardest_tests, recommend
from edgelib.stats.runs import crossed_draws


def outcome_rows(rng, accuracy, seeds=3, n=200, run_sd=0.0):
    """0/1 rows of configs with given accuracies, {name: p}; all share the items' difficulty."""
    difficulty, rows = rng.uniform(size=n), []
    for seed, (config, p) in itertools.product(range(seeds), accuracy.items()):
        own = (difficulty + 0.05 * rng.normal(size=n)) % 1
        correct = own < p + run_sd * rng.normal()
        rows.append(pd.DataFrame(dict(config=config, seed=seed, item=np.arange(n), correct=correct.astype(int))))
    return pd.concat(rows, ignore_index=True)


scores = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), min_size=2, max_size=6)
)


@given(scores)
def test_tau_is_scipy_s(table):
    for (i, a), (j, b) in itertools.combinations(enumerate(table), 2):
        expected = stats.kendalltau(a, b).statistic
        assert r.tau_matrix(table)[i, j] == pytest.approx(expected, nan_ok=True)


@given(scores)
def test_w_is_friedman_s_statistic(table):
    # Friedman's chi-square with its tie correction is R (K - 1) W; scipy asks for three configs.
    if len(table[0]) < 3 or len(table) < 3 or all(len(set(row)) == 1 for row in table):
        return
    expected = stats.friedmanchisquare(*np.transpose(table)).statistic / (len(table) * (len(table[0]) - 1))
    assert r.kendall_w(table) == pytest.approx(expected)


def test_w_by_hand():
    # Rank sums of three judges over three objects: 3 + 2 + 3, 2 + 3 + 2, 1 + 1 + 1, deviations 2, 1, -3 from 6.
    assert r.kendall_w([[0.9, 0.8, 0.7], [0.8, 0.9, 0.7], [0.9, 0.8, 0.7]]) == pytest.approx(12 * 14 / (9 * 24))


@pytest.mark.parametrize(
    ("runs", "interval"), [(2, (-1, 1)), (5, (1, 1))], ids=["one pair tells no spread", "five runs"]
)
def test_equal_rankings_agree_fully(runs, interval):
    table = np.arange(4.0) + np.arange(runs)[:, None]
    found = r.rank_stability(table)
    assert (found.tau, found.w, found.interval) == (1, 1, interval) and (found.n_runs, found.n_configs) == (runs, 4)


def test_reversed_rankings_disagree():
    found = r.rank_stability([[1, 2, 3], [3, 2, 1]])
    assert found.tau == -1 and found.w == 0


def test_tau_is_the_mean_over_pairs_of_runs():
    table = np.random.default_rng(0).normal(size=(7, 5))
    pairs = [stats.kendalltau(a, b).statistic for a, b in itertools.combinations(table, 2)]
    assert r.rank_stability(table).tau == pytest.approx(np.mean(pairs))


def test_runs_that_tie_all_do_not_count():
    table = np.random.default_rng(1).normal(size=(5, 4))
    with_ties = r.rank_stability(np.vstack([table, np.ones((2, 4))]))
    assert with_ties == r.rank_stability(table) and with_ties.n_runs == 5
    alone = r.rank_stability(np.vstack([table[:1], np.ones((2, 4))]))
    assert alone.n_runs == 1 and np.isnan(alone.tau) and np.isnan(alone.w)
    nothing = r.rank_stability(np.ones((3, 4)))
    assert np.isnan(nothing.tau) and np.isnan(nothing.w) and nothing.interval == (-1, 1)


def test_unrelated_runs_are_not_called_stable():
    # Drawing a run twice must not count as agreement: over many data sets the draws stay around 0.
    rng, covered, middles = np.random.default_rng(2), 0, []
    for seed in range(100):
        low, high = r.rank_stability(rng.normal(size=(8, 6)), n_boot=300, seed=seed).interval
        covered, middles = covered + (low <= 0 <= high), [*middles, (low + high) / 2]
    assert covered >= 90 and abs(np.mean(middles)) < 0.05


def test_the_order_of_configs_does_not_matter():
    table = np.random.default_rng(3).normal(size=(6, 5))
    assert r.rank_stability(table) == r.rank_stability(table[:, ::-1])


def test_run_scores_are_means_per_run():
    rows = outcome_rows(np.random.default_rng(4), dict(a=0.9, b=0.5))
    table = r.run_scores(rows.sample(frac=1, random_state=0), "seed")
    expected = rows.groupby(["seed", "config"])["correct"].mean().unstack()
    assert np.allclose(table, expected) and list(table.columns) == ["a", "b"]


def test_first_places_add_up_and_ties_split():
    rows = outcome_rows(np.random.default_rng(5), dict(a=0.7, b=0.6, c=0.5))
    rows = pd.concat([rows, rows[rows["config"] == "a"].assign(config="a again")])
    table = r.rank_table(rows, "seed", n_boot=400).set_index("config")
    assert table["p_first"].sum() == pytest.approx(1) and table["p_first_once"].sum() == pytest.approx(1)
    assert table["p_first"]["a"] == pytest.approx(table["p_first"]["a again"])
    assert table["rank"]["a"] == table["rank"]["a again"] == 1.5


def test_a_clear_winner_is_always_first():
    table = r.rank_table(outcome_rows(np.random.default_rng(6), dict(good=0.9, bad=0.4)), "seed", n_boot=200)
    assert list(table["config"]) == ["good", "bad"] and table["p_first"].tolist() == [1, 0]
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_one_run_wins_less_surely_than_the_mean_of_runs():
    rng, n = np.random.default_rng(7), 500
    rows = [
        dict(config=c, seed=s, item=i, correct=float(i < n * p))
        for s in range(10)
        for c, p in dict(a=0.6 + 0.1 * rng.normal(), b=0.52 + 0.1 * rng.normal()).items()
        for i in range(n)
    ]
    scores = r.run_scores(pd.DataFrame(rows), "seed")
    table = r.rank_table(pd.DataFrame(rows), "seed").set_index("config")
    # Items of this world flip together, so the single run is decided by the run alone.
    won = (scores["a"] > scores["b"]).mean() + 0.5 * (scores["a"] == scores["b"]).mean()
    assert table["p_first_once"]["a"] == pytest.approx(won, abs=0.02)
    assert abs(table["p_first"]["a"] - 0.5) > abs(table["p_first_once"]["a"] - 0.5)


def test_the_chance_of_the_first_place_is_the_binomial_one():
    # One run, five discordant items that favour a, two that favour b: the multinomial bootstrap has a closed form.
    a, b, n = [1] * 5 + [0] * 2 + [1] * 3, [0] * 5 + [1] * 2 + [1] * 3, 10
    rows = pd.concat(pd.DataFrame(dict(config=c, seed=0, item=range(n), correct=x)) for c, x in (("a", a), ("b", b)))
    chance = 0.0
    for up in range(n + 1):
        for down in range(n + 1 - up):
            p = comb(n, up) * comb(n - up, down) * 0.5**up * 0.2**down * 0.3 ** (n - up - down)
            chance += p * (1.0 if up > down else 0.5 if up == down else 0.0)
    table = r.rank_table(rows, "seed", n_boot=4000).set_index("config")
    assert table["p_first"]["a"] == pytest.approx(chance, abs=3 * np.sqrt(chance * (1 - chance) / 4000))
    assert table["p_first_once"]["a"] == table["p_first"]["a"]


def test_clusters_are_drawn_together():
    rows = outcome_rows(np.random.default_rng(8), dict(a=0.6, b=0.5), n=60)
    repeated = pd.concat([rows.assign(image=rows["item"], item=rows["item"] + 60 * k) for k in range(3)])
    one, three = (r.rank_table(x, "seed", cluster=c) for x, c in ((rows, None), (repeated, "image")))
    pd.testing.assert_frame_equal(one.drop(columns="n_items"), three.drop(columns="n_items"))


def test_crossed_draws_have_the_variance_of_runs_and_items():
    rng = np.random.default_rng(9)
    run, item = rng.normal(size=(4, 1, 1)), rng.normal(size=(1, 1, 40))
    blocks = crossed_draws(run + item, np.ones(40), 4000, rng_for(0))
    draws = np.concatenate([(w[:, :, None] * m).sum(axis=1) for m, w in blocks])
    assert draws.var() == pytest.approx(run.var(ddof=1) / 4 + item.var() / 40, rel=0.1)


@pytest.mark.parametrize("run_sd", [0.0, 0.05], ids="runs differ by {}".format)
def test_the_interval_of_a_mean_covers_it(run_sd):
    rng, covered, tries = np.random.default_rng(21), 0, 60
    for _ in range(tries):
        p = np.clip(0.7 + run_sd * rng.normal(size=(5, 2, 1)), 0, 1)
        correct = (rng.uniform(size=(5, 2, 80)) < p).astype(int)
        seed, config, item = np.indices(correct.shape).reshape(3, -1)
        rows = pd.DataFrame(dict(seed=seed, config=config, item=item, correct=correct.ravel()))
        covered += r.rank_table(rows, "seed", n_boot=100).query("config == 0 and low <= 0.7 <= high").shape[0]
    assert covered / tries >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / tries)


# --- the recommendation


SIZES = dict(size=None, method=["minmax", "smoothquant", "awq"])


def settings_rows(rng, accuracy, seeds=3, n=400, noise=0.02):
    """Rows of settings {(size, method): p}; items share their difficulty, so that differences are paired."""
    difficulty, rows = rng.uniform(size=n), []
    for (size, method), p in accuracy.items():
        for seed in range(seeds):
            correct = (difficulty + noise * rng.normal(size=n) < p).astype(int)
            rows.append(pd.DataFrame(dict(size=size, method=method, seed=seed, item=np.arange(n), correct=correct)))
    return pd.concat(rows, ignore_index=True)


PLANTED = {(8, "minmax"): 0.6, (8, "awq"): 0.7, (32, "minmax"): 0.895, (32, "awq"): 0.9, (128, "smoothquant"): 0.9}


def test_the_cheapest_setting_that_is_good_enough_is_taken():
    found = recommend(settings_rows(np.random.default_rng(10), PLANTED), SIZES, margin=0.03)
    assert found.choice == dict(size=32, method="minmax") and found.adjusted < 0.05
    assert found.interval[0] <= found.effect <= found.interval[1] and found.interval[0] > -0.03
    assert (found.n, found.n_runs, found.n_settings) == (400, 3, 5)
    assert list(found.table["size"]) == [8, 8, 32, 32, 128]
    assert list(found.table["method"][:2]) == ["minmax", "awq"]


def test_the_order_of_cost_decides():
    rows = settings_rows(np.random.default_rng(11), PLANTED)
    by_method = dict(method=["smoothquant", "awq", "minmax"], size=None)
    assert recommend(rows, by_method, margin=0.03).choice == dict(method="smoothquant", size=128)


def test_columns_without_cost_are_chosen_by_mean():
    rows = settings_rows(np.random.default_rng(12), {(8, "dark"): 0.9, (8, "gray"): 0.88, (32, "dark"): 0.9})
    found = recommend(rows.rename(columns=dict(method="mix")), dict(size=None), also="mix", margin=0.05)
    assert found.choice == dict(size=8, mix="dark")


def test_a_small_margin_recommends_nothing():
    found = recommend(settings_rows(np.random.default_rng(13), PLANTED, n=100), SIZES, margin=0.001)
    assert found.choice is None and found.best["size"] >= 32 and not found.table["passes"].any()


def test_equal_settings_on_few_images_are_not_proven_equal():
    few = {(8, "minmax"): 0.9, (32, "minmax"): 0.9}
    small, large = (
        recommend(settings_rows(np.random.default_rng(14), few, n=n, noise=0), SIZES, margin=0.02) for n in (40, 1000)
    )
    assert small.choice is None and large.choice == dict(size=8, method="minmax")


def test_with_one_run_the_test_is_close_to_tost():
    rows = settings_rows(np.random.default_rng(15), {(8, "minmax"): 0.88, (32, "minmax"): 0.9}, seeds=1)
    found = recommend(rows, SIZES, margin=0.05)
    small, large = (rows.loc[rows["size"] == size, "correct"] for size in (8, 32))
    expected = tost(small, large, 0.05)
    row = found.table.iloc[0]
    assert row["rival_effect"] == pytest.approx(expected.effect)
    assert row["p"] == pytest.approx(expected.p_non_inferior, abs=0.02)
    assert found.interval == pytest.approx(expected.interval, abs=0.01)


@pytest.mark.parametrize("run_sd", [0.0, 0.01, 0.05], ids="runs differ by {}".format)
def test_a_setting_worse_than_the_margin_is_seldom_let_through(run_sd):
    rng, passed, tries, n, runs = np.random.default_rng(16), 0, 400, 300, 5
    for _ in range(tries):
        # The first setting is worse by exactly the margin.
        run, hard = 0.85 + 0.02 * rng.normal(size=(runs, 1, 1)), rng.uniform(size=n)
        own = run_sd * rng.normal(size=(runs, 2, 1))
        right = (hard + np.array([[0.05], [0.0]]) < run + own).astype(float)
        passed += hardest_tests(right, np.ones(n), 0.05, 0.05)[0]["p"] < 0.05
    assert passed <= 0.05 * tries + 2.6 * np.sqrt(0.05 * 0.95 * tries)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_a_setting_passes_where_its_interval_clears_the_margin(alpha):
    rng = np.random.default_rng(20)
    sums = (rng.uniform(size=150) < 0.8 + 0.03 * rng.normal(size=(4, 12, 1))).astype(float)
    for test in hardest_tests(sums, np.ones(150), 0.05, alpha):
        assert (test["interval"][0] > -0.05) == (test["p"] < alpha)


def test_the_order_of_rows_does_not_matter():
    rows = settings_rows(np.random.default_rng(17), PLANTED, n=100)
    one, two = (recommend(x, SIZES, margin=0.03) for x in (rows, rows.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(one.table, two.table)
    assert (one.choice, one.effect, one.interval, one.p) == (two.choice, two.effect, two.interval, two.p)


ROWS = outcome_rows(np.random.default_rng(18), dict(a=0.9, b=0.5), n=5)
SOME = settings_rows(np.random.default_rng(19), PLANTED, n=5)
BAD = {
    "one run": (lambda: r.rank_stability([[1, 2, 3]]), "at least two runs"),
    "one config": (lambda: r.kendall_w([[1], [2]]), "at least two runs"),
    "NaN": (lambda: r.kendall_w([[1, np.nan], [2, 3]]), "complete"),
    "text": (lambda: r.kendall_w([["a", "b"], ["c", "d"]]), "numbers"),
    "level": (lambda: r.rank_stability([[1, 2], [2, 1]], level=95), "level"),
    "few replicates": (lambda: r.rank_stability([[1, 2], [2, 1]], n_boot=5), "n_boot"),
    "unfinished": (lambda: r.run_scores(ROWS.query("config == 'a' or seed > 0"), "seed"), "'b' was not run at seed 0"),
    "missing item": (lambda: r.rank_table(ROWS[1:], "seed"), "item 0 occurs 0 times"),
    "runs not told apart": (lambda: r.rank_table(ROWS.assign(seed=0), "seed"), "tells runs apart"),
    "column": (lambda: r.rank_table(ROWS, "sed"), "did you mean 'seed'"),
    "margin": (lambda: recommend(SOME, SIZES, margin=0), "margin"),
    "alpha": (lambda: recommend(SOME, SIZES, alpha=0.95), "alpha"),
    "no cost": (lambda: recommend(SOME, {}), "cost"),
    "method without a place": (lambda: recommend(SOME, dict(method=["minmax", "awq"], size=None)), "'smoothquant'"),
    "cost of text": (lambda: recommend(SOME, dict(method=None, size=None)), "'method' must hold numbers"),
    "one setting": (lambda: recommend(SOME.query("size == 128"), SIZES), "one setting"),
    "seeds differ": (lambda: recommend(SOME.query("size > 8 or seed > 0"), SIZES), "every setting needs the same 3"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()


def test_a_ranking_agrees_with_itself_and_opposes_its_reverse():
    table = np.tile(np.arange(6.0), (4, 1))
    same, reverse = (r.rank_agreement(table, other, list("aabbcc"), n_boot=200) for other in (2 * table, -table))
    assert (same.rho, same.tau, same.within, same.n_pairs) == pytest.approx((1, 1, 1, 3))
    assert same.rho_interval == pytest.approx((1, 1)) and same.within_interval == (1, 1)
    assert (reverse.rho, reverse.tau, reverse.within) == pytest.approx((-1, -1, 0))


def test_agreement_is_scipy_s_and_pairs_across_groups_do_not_count():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 8)), rng.normal(size=(7, 8))
    found = r.rank_agreement(one, other, list("aaaabbbb"), n_boot=100)
    a, b = one.mean(0), other.mean(0)
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.tau == pytest.approx(stats.kendalltau(a, b).statistic)
    alike = [(a[i] < a[j]) == (b[i] < b[j]) for i, j in itertools.combinations(range(8), 2) if (i < 4) == (j < 4)]
    assert found.within == pytest.approx(np.mean(alike)) and found.n_pairs == 12
    assert found.rho_interval[0] < found.rho < found.rho_interval[1]


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(EdgelibError, match="one column per config"):
        r.rank_agreement(np.ones((3, 4)), np.ones((3, 5)), list("aabb"))
    with pytest.raises(EdgelibError, match="finite"):
        r.rank_agreement(np.full((3, 2), np.nan), np.ones((3, 2)), list("ab"))
