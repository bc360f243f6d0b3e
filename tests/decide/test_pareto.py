"""Frontiers against brute force, regret and budgets against their definition."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgelib.decide import pareto
from edgelib.decide.dominance import non_dominated
from edgelib.errors import EdgelibError


def brute_force(values):
    """True where no row is at least as high everywhere and higher somewhere."""
    return [not any((b >= a).all() and (b > a).any() for b in values) for a in values]


few = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, 2.0, 3.0, np.inf])
arrays = st.integers(1, 5).flatmap(lambda d: st.lists(st.lists(few, min_size=d, max_size=d), min_size=1, max_size=40))


@given(arrays)
def test_non_dominated_rows_equal_brute_force(rows):
    values = np.array(rows)
    assert non_dominated(values).tolist() == brute_force(values)


SHAPES = {
    "spread": lambda rng, d: rng.random((700, d)),
    "many ties": lambda rng, d: rng.integers(0, 6, (700, d)),
    "most on the frontier": lambda rng, d: np.abs(
        (x := rng.normal(size=(700, d))) / np.linalg.norm(x, axis=1)[:, None]
    ),
    "one column constant": lambda rng, d: np.column_stack([np.ones(700), rng.random((700, d - 1))]),
    "infinite": lambda rng, d: np.where(rng.random((700, d)) < 0.2, -np.inf, rng.integers(0, 30, (700, d))),
}


@pytest.mark.parametrize("d", [2, 3, 4, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_arrays_are_halved_without_loss(shape, d):
    values = SHAPES[shape](np.random.default_rng(d), d).astype(float)
    assert non_dominated(values).tolist() == brute_force(values)


def test_a_hundred_thousand_rows_in_three_criteria():
    values = np.random.default_rng(0).random((100_000, 3))
    front = non_dominated(values)
    assert 10 < front.sum() < 500
    best = values[front]
    assert all((best >= row).all(axis=1).any() for row in values[~front][:: 1 + len(values) // 500])


TABLE = pd.DataFrame(
    dict(
        config=["fp32", "w8a8", "w8a8-again", "w4a8", "w4a8-bad"],
        accuracy=[0.90, 0.90, 0.90, 0.80, 0.70],
        bytes=[577, 225, 225, 166, 166],
        latency_ms=[15.0, 9.0, 9.0, 8.0, 7.0],
    ),
    index=[10, 3, 7, 1, 5],
)


def test_frontier_keeps_ties_duplicates_order_and_index():
    front = pareto.pareto_frontier(TABLE, maximize="accuracy", minimize=["bytes"])
    assert front["config"].tolist() == ["w8a8", "w8a8-again", "w4a8"] and front.index.tolist() == [3, 7, 1]
    pd.testing.assert_frame_equal(front, TABLE.loc[[3, 7, 1]])
    three = pareto.pareto_frontier(TABLE, maximize=("accuracy",), minimize=("bytes", "latency_ms"))
    assert three["config"].tolist() == ["w8a8", "w8a8-again", "w4a8", "w4a8-bad"]


def test_one_criterion_keeps_its_best_rows():
    assert pareto.pareto_frontier(TABLE, maximize=("accuracy",)).index.tolist() == [10, 3, 7]
    assert pareto.pareto_frontier(TABLE, minimize="bytes").index.tolist() == [1, 5]


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=25), st.randoms())
def test_frontier_is_the_same_set_in_any_order_of_rows_and_criteria(rows, rng):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"], dtype=float)
    front = pareto.pareto_frontier(frame, maximize=("a", "b"), minimize="c")
    order = rng.sample(range(len(frame)), len(frame))
    again = pareto.pareto_frontier(frame.iloc[order], maximize=("b", "a"), minimize=["c"])
    assert sorted(again.index) == front.index.tolist()
    assert again.index.tolist() == [i for i in order if i in set(front.index)]
    flipped = pareto.pareto_frontier(frame.assign(c=-frame["c"]), maximize=("a", "b", "c"))
    assert flipped.index.tolist() == front.index.tolist()


def test_nullable_and_boolean_columns_are_numbers():
    frame = pd.DataFrame(dict(fits=[True, False], bytes=pd.array([3, 2], dtype="Int64")))
    assert len(pareto.pareto_frontier(frame, maximize="fits", minimize="bytes")) == 2


def test_an_empty_table_has_an_empty_frontier():
    empty = pareto.frontier_regret(TABLE[:0], maximize="accuracy", minimize="bytes")
    assert len(empty) == 0 and list(empty.columns) == [*TABLE.columns, "regret"]
    assert len(pareto.pareto_frontier(pd.DataFrame(columns=["a"]), maximize="a")) == 0


def test_regret_is_the_largest_loss_under_any_weights():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((200, 3)), columns=["accuracy", "bytes", "ms"])
    front = pareto.frontier_regret(frame, maximize="accuracy", minimize=("bytes", "ms"))
    utility = front[["accuracy", "bytes", "ms"]].to_numpy() * [1, -1, -1]
    utility = (utility - utility.min(axis=0)) / np.ptp(utility, axis=0)
    weights = np.vstack([np.eye(3), stats.dirichlet.rvs([1, 1, 1], size=2000, random_state=0)])
    sums = utility @ weights.T
    assert (sums.max(axis=0) - sums).max(axis=1) == pytest.approx(front["regret"].to_numpy())


def test_the_least_regret_is_at_the_corner_of_the_frontier_and_ties_stay():
    frame = pd.DataFrame(dict(accuracy=[0.5, 0.89, 0.9, 0.89], bytes=[1, 2, 11, 2]))
    front = pareto.frontier_regret(frame, maximize="accuracy", minimize="bytes")
    assert front["regret"].to_dict() == pytest.approx({0: 1, 1: 0.1, 2: 1, 3: 0.1})
    assert pareto.frontier_regret(frame[:1], maximize="accuracy", minimize="bytes")["regret"].tolist() == [0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=20), st.integers(1, 9), st.integers(1, 9))
def test_feasible_rows_and_binding_budgets_equal_their_definition(rows, most, longest):
    frame = pd.DataFrame(rows, columns=["bytes", "latency_ms"], dtype=float)
    tier = dict(bytes=most, latency_ms=longest)
    inside = [b <= most and ms <= longest for b, ms in rows]
    fits = pareto.feasible(frame, tier)
    assert fits.index.tolist() == [i for i, fit in enumerate(inside) if fit] and list(fits.columns) == list(
        frame.columns
    )
    bound = pareto.binding(frame, tier).set_index("column")
    for column, other in itertools.permutations(tier):
        row, met = bound.loc[column], frame[frame[other] <= tier[other]]
        assert row["over"] == (frame[column] > tier[column]).sum()
        assert row["over_alone"] == (met[column] > tier[column]).sum()
        if len(met):
            # The budget named as needed admits a row, and nothing below it does.
            assert len(pareto.feasible(frame, tier | {column: row["needed"]}))
            assert not len(pareto.feasible(frame, tier | {column: row["needed"] - 0.5}))
            assert row["short_by"] == max(0, row["needed"] - tier[column])
        else:
            assert np.isnan(row["needed"]) and np.isnan(row["short_by"])
        assert row["lowest"] == frame[column].min() or not rows


def test_a_tier_without_a_feasible_row_says_which_budget_binds():
    assert pareto.feasible(TABLE, dict(bytes=600, latency_ms=5)).equals(TABLE[:0])
    bound = pareto.binding(TABLE, dict(bytes=600, latency_ms=5)).set_index("column")
    assert bound.loc["latency_ms", ["needed", "short_by", "over_alone"]].tolist() == [7, 2, 5]
    assert bound.loc["bytes", ["over", "over_alone"]].tolist() == [0, 0] and np.isnan(bound.loc["bytes", "needed"])


def test_preset_tiers_are_those_of_edgevlm_bench():
    published = {"embedded": (4, 150), "mobile": (8, 80), "edge-server": (16, 30)}
    budgets = {name: (tier.budgets["bytes"] / 2**30, tier.budgets["latency_ms"]) for name, tier in pareto.TIERS.items()}
    assert budgets == published and all(tier.note and tier.platform for tier in pareto.TIERS.values())


@pytest.mark.parametrize("name", ["edge-server", "Edge Server", "edge_server", pareto.TIERS["edge-server"]], ids=str)
def test_tiers_go_by_name_or_value(name):
    frame = pd.DataFrame(dict(bytes=[16 * 2**30, 1, 1], latency_ms=[30, 30.1, 1]))
    assert pareto.feasible(frame, name).index.tolist() == [0, 2]


UP = dict(maximize="accuracy", minimize="bytes")
BAD = {
    "no criterion": (lambda: pareto.pareto_frontier(TABLE), "at least one criterion"),
    "misspelt column": (lambda: pareto.pareto_frontier(TABLE, maximize="accuracies"), "did you mean 'accuracy'"),
    "NaN": (lambda: pareto.pareto_frontier(TABLE.assign(bytes=[1, 2, np.nan, 4, 5]), **UP), "'bytes' .* row '7'"),
    "text": (lambda: pareto.pareto_frontier(TABLE, maximize="config"), "must hold numbers, got 'fp32'"),
    "both directions": (lambda: pareto.pareto_frontier(TABLE, maximize="bytes", minimize="bytes"), "named twice"),
    "named twice": (lambda: pareto.pareto_frontier(TABLE, maximize=("bytes", "bytes")), "named twice"),
    "column repeated": (lambda: pareto.pareto_frontier(TABLE.iloc[:, [1, 1]], maximize="accuracy"), "repeated column"),
    "column list in a list": (lambda: pareto.pareto_frontier(TABLE, maximize=[["bytes"]]), "unknown column"),
    "number as a column": (lambda: pareto.pareto_frontier(TABLE, maximize=3), "column or several"),
    "not a table": (lambda: pareto.pareto_frontier([[1, 2]], maximize="a"), "must be a table"),
    "infinite regret": (lambda: pareto.frontier_regret(TABLE.assign(accuracy=np.inf), maximize="accuracy"), "finite"),
    "misspelt tier": (lambda: pareto.feasible(TABLE, "embed"), "did you mean 'embedded'"),
    "no budgets": (lambda: pareto.feasible(TABLE, {}), "dict of budgets"),
    "tier of another kind": (lambda: pareto.feasible(TABLE, 4), "dict of budgets"),
    "budget of zero": (lambda: pareto.feasible(TABLE, dict(bytes=0)), "'bytes' must be a number above 0, got 0"),
    "negative budget": (lambda: pareto.binding(TABLE, dict(bytes=-1)), "got -1"),
    "NaN budget": (lambda: pareto.feasible(TABLE, dict(bytes=np.nan)), "got nan"),
    "text as a budget": (lambda: pareto.feasible(TABLE, dict(bytes="4 GB")), "got '4 GB'"),
    "budget of a lacking column": (lambda: pareto.feasible(TABLE, dict(latency=3)), "did you mean 'latency_ms'"),
    "NaN in a budget column": (lambda: pareto.feasible(TABLE.assign(bytes=np.nan), dict(bytes=3)), "row '10'"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
