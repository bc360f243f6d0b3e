"""The label-free predictor against brute force, and what it may and may not learn."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats import predictor as p


@pytest.fixture(autouse=True)
def cheap_garbage():
    """Holm's correction collects garbage at each call (statsmodels), which takes long over many modules."""
    gc.freeze()
    yield
    gc.unfreeze()


def runs_table(rng, groups=8, per_group=12, signal=1.0, group_sd=0.0, features=2):
    """Runs whose drop rises with x0, by a curve, plus a group effect; the other features are noise."""
    n = groups * per_group
    x = rng.normal(size=(n, features))
    group = np.repeat(np.arange(groups), per_group)
    drop = signal * np.exp(x[:, 0]) + group_sd * rng.normal(size=groups)[group] + 0.3 * rng.normal(size=n)
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(features)]).assign(
        config=[f"g{g}" for g in group], drop=drop
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=12))
def test_weighted_spearman_is_that_of_repeated_rows(rows):
    a, b, counts = np.array([*rows, (0, 0, 1)], dtype=float).T
    repeated = [np.repeat(x, counts.astype(int)) for x in (a, b)]
    known = counts.sum() > 1 and all(len(set(x)) > 1 for x in repeated)
    expected = stats.spearmanr(*repeated).statistic if known else np.nan
    assert p.spearman(a, b, counts[None])[0] == pytest.approx(expected, nan_ok=True)


def test_the_smoother_is_the_ridge_regression_of_the_other_groups():
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=(20, 3)), rng.normal(size=20), np.repeat(np.arange(4), 5)
    smoother = p.out_of_group_smoother(x, groups, ridge=0.2)
    for group in range(4):
        train, held = groups != group, groups == group
        share = np.array(
            [[(t < v).mean() + (t == v).mean() / 2 for t, v in zip(x[train].T, row, strict=True)] for row in x]
        )
        z = (share - share[train].mean(axis=0)) / share[train].std(axis=0)
        # Ridge as least squares with penalty rows, the mean outside of the penalty.
        padded = np.vstack([z[train], np.sqrt(0.2 * train.sum()) * np.eye(3)])
        slope = np.linalg.lstsq(padded, np.append(y[train] - y[train].mean(), np.zeros(3)), rcond=None)[0]
        assert smoother[held] @ y == pytest.approx(y[train].mean() + z[held] @ slope)


def test_no_outcome_reaches_the_prediction_of_its_own_group():
    table = runs_table(np.random.default_rng(1))
    groups = pd.factorize(table["config"])[0]
    smoother = p.out_of_group_smoother(table[["x0", "x1"]].to_numpy(), groups)
    assert (smoother[groups[:, None] == groups] == 0).all()
    assert smoother.sum(axis=1) == pytest.approx(np.ones(len(table)))


def test_a_planted_relation_is_found():
    found = p.drop_predictor(runs_table(np.random.default_rng(2)), ["x0", "x1"], n_permutations=499)
    assert found.spearman > 0.9 and found.interval[0] > 0.8 and found.p == pytest.approx(1 / 500)
    assert found.within > 0.85 and found.error < 0.6 * found.error_blind
    features = found.features.set_index("feature")
    assert features["spearman"]["x0"] > 0.9 and features["p_holm"]["x0"] < 0.01 < features["p"]["x1"]
    assert features["low"]["x0"] > 0.8 and features["low"]["x1"] < 0 < features["high"]["x1"]


def test_the_direction_of_a_feature_does_not_matter():
    table = runs_table(np.random.default_rng(3), features=1)
    one, other = (p.drop_predictor(t, "x0", n_permutations=199) for t in (table, table.assign(x0=-table["x0"])))
    assert other.spearman == pytest.approx(one.spearman)
    assert other.features["spearman"][0] == pytest.approx(-one.features["spearman"][0])


def test_any_monotone_scale_of_a_feature_gives_the_same_prediction():
    table = runs_table(np.random.default_rng(4))
    scaled = table.assign(x0=np.exp(5 * table["x0"]))
    one, other = (p.drop_predictor(t, ["x0", "x1"], n_permutations=199) for t in (table, scaled))
    assert np.allclose(one.runs["predicted"], other.runs["predicted"]) and one.spearman == other.spearman


@pytest.mark.parametrize("group_sd", [0.0, 2.0], ids=["equal groups", "groups differ"])
def test_noise_predicts_nothing(group_sd):
    rng, claimed, significant, tries = np.random.default_rng(5), 0, 0, 80
    for seed in range(tries):
        table = runs_table(rng, signal=0, group_sd=group_sd)
        found = p.drop_predictor(table, ["x0", "x1"], n_boot=300, n_permutations=199, seed=seed)
        claimed, significant = claimed + (found.interval[0] > 0), significant + (found.p <= 0.05)
    allowed = 0.05 * tries + 2.6 * np.sqrt(0.05 * 0.95 * tries)
    assert claimed <= allowed and significant <= allowed


def test_a_feature_that_names_its_group_cannot_cheat():
    rng, claimed, significant, tries = np.random.default_rng(6), 0, 0, 80
    for seed in range(tries):
        table = runs_table(rng, signal=0, group_sd=2.0)
        name = rng.permutation(8)[pd.factorize(table["config"])[0]].astype(float)
        found = p.drop_predictor(table.assign(name=name), "name", n_boot=300, n_permutations=199, seed=seed)
        claimed, significant = claimed + (found.interval[0] > 0), significant + (found.p <= 0.05)
        assert found.p > 1 / 200 or found.spearman > 0
    allowed = 0.05 * tries + 2.6 * np.sqrt(0.05 * 0.95 * tries)
    assert claimed <= allowed and significant <= allowed


def test_a_relation_between_groups_is_found():
    rng = np.random.default_rng(7)
    table = runs_table(rng, groups=12, signal=0, features=1)
    level = pd.factorize(table["config"])[0]
    found = p.drop_predictor(table.assign(x0=level + 0.1 * table["x0"], drop=table["drop"] + 2 * level), "x0")
    assert found.spearman > 0.8 and found.p < 0.01


def test_permutations_keep_groups_together():
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    shuffled = p._permutations(groups, 300, np.random.default_rng(8))
    assert (np.sort(shuffled, axis=1) == np.arange(8)).all()
    blocks = groups[shuffled]
    for block in (blocks[:, :3], blocks[:, 3:6], blocks[:, 6:]):
        assert (block == block[:, :1]).all()
    assert set(blocks[:, 0]) == {0, 1} and set(blocks[:, 6]) == {2}
    assert len(np.unique(shuffled, axis=0)) > 100


def test_the_interval_is_a_bootstrap_over_groups():
    table = runs_table(np.random.default_rng(9), groups=12, signal=0.4)
    found = p.drop_predictor(table, ["x0", "x1"], n_permutations=199, level=0.9)
    rng, draws = np.random.default_rng(0), []
    pairs = found.runs[["predicted", "observed"]]
    parts = [rows.to_numpy() for _, rows in pairs.groupby(found.runs["group"])]
    for _ in range(1500):
        some = np.concatenate([parts[i] for i in rng.integers(0, 12, 12)])
        draws.append(stats.spearmanr(some).statistic)
    low, high = np.quantile(draws, stats.norm.cdf(np.array([-1, 1]) * 1.796 * np.sqrt(12 / 11)))
    assert found.interval == pytest.approx((low, high), abs=0.02)


def test_the_order_of_rows_does_not_matter():
    table = runs_table(np.random.default_rng(10))
    one, two = (p.drop_predictor(t, ["x0", "x1"], n_permutations=199) for t in (table, table.sample(frac=1)))
    assert (one.spearman, one.interval, one.p, one.error) == (two.spearman, two.interval, two.p, two.error)
    pd.testing.assert_frame_equal(one.features, two.features)


def test_every_run_keeps_its_group_and_drop():
    table = runs_table(np.random.default_rng(11), groups=3, per_group=4)
    runs = p.drop_predictor(table, "x0", n_permutations=199, n_boot=100).runs
    left, right = (
        t.sort_values(list(t.columns), ignore_index=True)
        for t in (runs[["group", "observed"]], table[["config", "drop"]].set_axis(["group", "observed"], axis=1))
    )
    pd.testing.assert_frame_equal(left, right)


def test_equal_drops_and_constant_features_teach_nothing():
    flat = p.drop_predictor(TABLE.assign(drop=0.1), ["x0"], n_boot=100, n_permutations=100)
    assert np.isnan([flat.spearman, flat.within]).all() and flat.p == 1 and flat.error == pytest.approx(0)
    assert list(flat.features.iloc[0])[2:] == [-1, 1, 1, 1]  # low, high, p, p_holm
    alone, beside = (
        p.drop_predictor(TABLE.assign(still=1.0), names, n_boot=100, n_permutations=100)
        for names in ("x0", ["x0", "still"])
    )
    assert alone.spearman == pytest.approx(beside.spearman) and np.isnan(beside.features.spearman[1])


TABLE = runs_table(np.random.default_rng(12), groups=4, per_group=3)
BAD = {
    "unknown feature": (dict(features=["x9"]), "unknown column 'x9'"),
    "no feature": (dict(features=[]), "at least one"),
    "response as feature": (dict(features=["x0", "drop"]), "cannot be one of the features"),
    "NaN": (dict(table=TABLE.assign(x0=np.nan)), "'x0' has missing values"),
    "text": (dict(features="config", group="drop", response="x0"), "'config' must hold numbers"),
    "two groups": (dict(table=TABLE.query("config in ['g0', 'g1']")), "at least three"),
    "ridge": (dict(ridge=0), "ridge"),
    "level": (dict(level=95), "level"),
    "few permutations": (dict(n_permutations=9), "n_permutations"),
    "few replicates": (dict(n_boot=9), "n_boot"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    arguments, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        p.drop_predictor(**dict(table=TABLE, features=["x0"]) | arguments)
