"""Frontiers under resampling: hypervolume against random points, planted probabilities, runs that matter, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgelib.decide.frontier import drawn_means, hypervolume, uncertain_frontier
from edgelib.decide.pareto import frontier_regret, pareto_frontier
from edgelib.errors import EdgelibError


def table(rng, n, runs=1, **accuracy):
    columns = pd.MultiIndex.from_tuples([(name, run) for name in accuracy for run in range(runs)])
    hits = np.column_stack([rng.random(n) < p for p in accuracy.values() for _ in range(runs)])
    return pd.DataFrame(hits.astype(int), columns=columns)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_hypervolume_is_the_share_of_random_points_below_the_rows(d):
    rng = np.random.default_rng(d)
    rows, points = rng.random((7, d)), rng.random((200_000, d))
    below = np.zeros(len(points), dtype=bool)
    for row in rows:
        below |= (points <= row).all(axis=1)
    assert hypervolume(rows, np.zeros(d)) == pytest.approx(below.mean(), abs=0.005)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=7))
def test_hypervolume_counts_the_unit_boxes_below_the_rows(rows):
    boxes = {(x, y, z) for a, b, c in rows for x in range(a) for y in range(b) for z in range(c)}
    assert hypervolume(np.array(rows, dtype=float), np.zeros(3)) == pytest.approx(len(boxes))


def test_rows_below_the_reference_add_no_volume():
    assert hypervolume([[1, 1], [-1, 9], [0.5, 3]], [0, 2]) == pytest.approx(0.5)
    assert hypervolume(np.empty((0, 2)), [0, 0]) == 0


COSTS = pd.DataFrame(dict(bytes=[1.0, 2.0]), index=["cheap", "dear"])


def test_probability_is_that_of_beating_the_cheaper_config():
    outcomes = table(np.random.default_rng(0), 400, cheap=0.80, dear=0.82)
    found = uncertain_frontier({"accuracy": outcomes}, COSTS, n_boot=3000)
    difference = outcomes["dear"][0] - outcomes["cheap"][0]
    expected = stats.norm.sf(0.5 / 400, difference.mean(), difference.std() / 20)
    assert found.table.loc["cheap", "probability"] == 1
    assert found.table.loc["dear", "probability"] == pytest.approx(expected, abs=0.03)
    low, high = found.table.loc["dear", ["accuracy_low", "accuracy_high"]]
    assert low < outcomes["dear"][0].mean() < high and found.n_items == 400 and found.n_runs == 1


def test_frontier_and_regret_of_the_data_are_those_of_the_table():
    rng = np.random.default_rng(1)
    accuracy = dict(zip("abcde", (0.9, 0.88, 0.85, 0.7, 0.86), strict=True))
    clean, fog = table(rng, 150, **accuracy), table(rng, 150, **{k: v - 0.2 for k, v in accuracy.items()})
    costs = pd.DataFrame(dict(bytes=[5.0, 4, 3, 1, 3]), index=list("abcde"))
    found = uncertain_frontier(dict(clean=clean, fog=fog.sample(frac=1, random_state=0)), costs, n_boot=2000).table
    criteria = dict(maximize=("clean", "fog"), minimize="bytes")
    assert found.index[found["on_frontier"]].tolist() == pareto_frontier(found, **criteria).index.tolist()
    front = frontier_regret(found, **criteria)
    assert found.loc[front.index, "regret"].to_numpy() == pytest.approx(front["regret"].to_numpy())
    assert found["fog"].to_numpy() == pytest.approx(fog.mean().to_numpy()) and found["probability"].between(0, 1).all()
    assert found["knee"].sum() == pytest.approx(1) and (found["regret_low"] <= found["regret_high"]).all()


def test_configs_with_the_same_outcomes_and_costs_share_their_fate():
    outcomes = table(np.random.default_rng(3), 90, a=0.8, c=0.7)
    outcomes["b", 0] = outcomes["a", 0]
    costs = pd.DataFrame(dict(bytes=[2.0, 2, 1]), index=list("abc"))
    found = uncertain_frontier({"accuracy": outcomes / 3}, costs, n_boot=500).table
    assert found.loc["a", "probability"] == found.loc["b", "probability"] > 0.5


@pytest.mark.parametrize("runs", [2, 4])
def test_draws_of_runs_have_the_variance_of_their_mean(runs):
    rng = np.random.default_rng(9)
    columns = [("dear", str(run)) for run in range(runs)] + [("cheap", "once")]
    outcomes = pd.DataFrame(np.tile(rng.random(runs + 1), (20, 1)), columns=pd.MultiIndex.from_tuples(columns))
    draws = drawn_means([outcomes], COSTS.index, None, 4000, 0)[1:, :, 0]
    means = outcomes["dear"].iloc[0]
    assert draws[:, 1].mean() == pytest.approx(means.mean(), abs=0.02)
    assert draws[:, 1].var() == pytest.approx(means.var(ddof=1) / runs, rel=0.1) and draws[:, 0].var() < 1e-20


def test_a_lucky_run_makes_a_place_on_the_frontier_less_sure():
    outcomes = table(np.random.default_rng(2), 300, runs=4, cheap=0.8, dear=0.5)
    columns = outcomes.columns
    outcomes[columns[4]] = 1  # one calibration draw of the dear config is perfect, the other three are bad
    found = uncertain_frontier({"accuracy": outcomes}, COSTS, n_boot=2000)
    sure = uncertain_frontier({"accuracy": outcomes[[*columns[:4], columns[4]]]}, COSTS, n_boot=2000)
    assert sure.table.loc["dear", "probability"] == 1
    assert found.n_runs == 4 and 0.05 < found.table.loc["dear", "probability"] < 0.6
    assert found.table.loc["dear", "accuracy"] == pytest.approx(outcomes["dear"].to_numpy().mean())


def test_a_cost_that_is_projected_settles_less():
    outcomes = table(np.random.default_rng(3), 200, cheap=0.8, dear=0.8)
    costs = pd.DataFrame(dict(ms=[10.0, 11.0]), index=["cheap", "dear"])
    known = uncertain_frontier({"accuracy": outcomes * 0 + 1}, costs, n_boot=1000)
    vague = uncertain_frontier({"accuracy": outcomes * 0 + 1}, costs, cost_spread={"ms": 0.3}, n_boot=1000)
    assert known.table["probability"].tolist() == [1, 0]
    expected = stats.norm.sf(np.log(1.1), 0, 0.3 * np.sqrt(2))
    assert vague.table.loc["dear", "probability"] == pytest.approx(expected, abs=0.06)


def test_the_hypervolume_of_one_best_config_is_the_whole_box():
    outcomes = table(np.random.default_rng(4), 50, cheap=1.0, dear=0.0)
    found = uncertain_frontier({"accuracy": outcomes}, COSTS, n_boot=200)
    assert found.hypervolume == pytest.approx(1) and found.hypervolume_interval == pytest.approx((1, 1))


def test_a_shift_that_all_configs_share_does_not_move_the_hypervolume():
    outcomes = table(np.random.default_rng(8), 120, a=0.9, b=0.8, c=0.5)
    costs = pd.DataFrame(dict(bytes=[3.0, 2, 1]), index=list("abc"))
    found = uncertain_frontier({"accuracy": outcomes}, costs, n_boot=300)
    low, high = found.hypervolume_interval
    assert 0 < low <= found.hypervolume <= high <= 1
    again = uncertain_frontier({"accuracy": outcomes * 0.5 + 0.25}, costs * 7, n_boot=300)
    assert again.hypervolume == pytest.approx(found.hypervolume)


def test_regret_off_a_frontier_of_one_is_a_share_of_the_range_of_all():
    outcomes = table(np.random.default_rng(7), 40, cheap=1.0, dear=0.0)
    found = uncertain_frontier({"accuracy": outcomes}, COSTS * 1e9, n_boot=100).table
    assert found["regret"].tolist() == [0, 1] and found["regret_high"].max() <= 1


def test_answers_depend_on_neither_order_nor_names_of_images():
    outcomes = table(np.random.default_rng(5), 90, runs=2, cheap=0.7, dear=0.8)
    image = np.repeat(np.arange(30), 3)
    order = np.random.default_rng(0).permutation(90)
    found = uncertain_frontier({"accuracy": outcomes}, COSTS, cluster=image, n_boot=300)
    again = uncertain_frontier({"accuracy": outcomes.iloc[order, ::-1]}, COSTS, cluster=image[order], n_boot=300)
    assert found.n_items == 30 and again.table["accuracy"].equals(found.table["accuracy"])
    assert again.table["probability"].to_numpy() == pytest.approx(found.table["probability"].to_numpy(), abs=0.06)


OUT = table(np.random.default_rng(6), 10, cheap=0.5, dear=0.5)
BAD = {
    "NaN cost": (
        lambda: uncertain_frontier({"a": OUT}, COSTS.assign(bytes=[1, np.nan])),
        "missing .NaN. .* for 'dear'",
    ),
    "infinite cost": (lambda: uncertain_frontier({"a": OUT}, COSTS.assign(bytes=[np.inf, 1])), "infinite for 'cheap'"),
    "NaN outcome": (lambda: uncertain_frontier({"a": OUT.where(OUT > 2)}, COSTS), "outcomes of 'a'"),
    "no runs in columns": (lambda: uncertain_frontier({"a": OUT.droplevel(1, axis=1)}, COSTS), "pairs .config, run."),
    "configs differ": (lambda: uncertain_frontier({"a": OUT[["cheap"]]}, COSTS), "only one has dear"),
    "items differ": (lambda: uncertain_frontier({"a": OUT, "b": OUT[:4]}, COSTS), "same items"),
    "clash": (lambda: uncertain_frontier({"bytes": OUT}, COSTS), "both a criterion and a cost"),
    "no outcomes": (lambda: uncertain_frontier({}, COSTS), "dict {criterion"),
    "spread of what": (lambda: uncertain_frontier({"a": OUT}, COSTS, cost_spread={"ms": 1}), "cost of the table"),
    "negative spread": (lambda: uncertain_frontier({"a": OUT}, COSTS, cost_spread={"bytes": -1}), "at least 0"),
    "NaN volume": (lambda: hypervolume([[np.nan, 1]], [0, 0]), "hypervolume needs numbers"),
    "reference of another size": (lambda: hypervolume([[1, 1]], [0]), "hypervolume needs numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()
