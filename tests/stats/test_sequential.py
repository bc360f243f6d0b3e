"""Confidence sequences: wealth is a fair game, intervals hold at every item at once, verdicts err seldom enough."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats.sequential.betting import confidence_sequence, log_wealth, settled_after
from edgelib.stats.sequential.stopping import stopping_table


@pytest.mark.parametrize(
    "items", [[1, 0, 0, -1, 1], [0, 0, 0, 0, -1], [0.5, -0.25, 1.0, 0.0, 0.75]], ids=["mixed", "one lost", "graded"]
)
def test_bets_on_the_mean_of_a_population_are_a_fair_game_in_every_order(items):
    """Over all orders the mean wealth is 1 after every item."""
    orders = list(itertools.permutations(items))
    for side in (0, 1):
        wealth = [np.exp(log_wealth(order, [np.mean(items)], population=5)[side][:, 0]) for order in orders]
        assert np.mean(wealth, axis=0) == pytest.approx(np.ones(5))


@pytest.mark.parametrize("chances", [(0.1, 0.8, 0.1), (0.3, 0.65, 0.05)], ids=["no difference", "worse"])
def test_bets_on_the_mean_of_draws_are_a_fair_game(chances):
    mean, values = chances[2] - chances[0], (-1, 0, 1)
    for side in (0, 1):
        expected = np.zeros(4)
        for draws in itertools.product(range(3), repeat=4):
            weight = np.prod([chances[d] for d in draws])
            expected += weight * np.exp(log_wealth([values[d] for d in draws], [mean])[side][:, 0])
        assert expected == pytest.approx(np.ones(4))


def test_no_bet_sees_the_value_that_it_is_about():
    values = np.array([0.0, 1.0, -1.0, 0.0, 1.0])
    other = np.array([0.0, 1.0, -1.0, 1.0, -1.0])
    for one, two in zip(log_wealth(values, [0.2]), log_wealth(other, [0.2]), strict=True):
        np.testing.assert_array_equal(one[:3], two[:3])


def most(error: float, runs: int) -> int:
    """As many errors as a rate of `error` makes in all but one of a thousand simulations."""
    return int(stats.binom.ppf(0.999, runs, error))


@pytest.mark.parametrize("chances", [(0.02, 0.96, 0.02), (0.15, 0.8, 0.05), (0.45, 0.2, 0.35)])
def test_a_sequence_covers_at_every_item_at_once(chances):
    rng, mean, runs, missed = np.random.default_rng(0), chances[2] - chances[0], 200, 0
    for _ in range(runs):
        low, high = confidence_sequence(rng.choice([-1.0, 0.0, 1.0], 250, p=chances), level=0.9, step=0.02)
        missed += not ((low <= mean) & (mean <= high)).all()
    assert missed <= most(0.1, runs)


def test_a_sequence_of_a_population_covers_shrinks_and_ends_at_its_mean():
    rng, runs, missed = np.random.default_rng(1), 100, 0
    items = np.repeat([-1.0, 0.0, 1.0], [30, 160, 10])
    for _ in range(runs):
        low, high = confidence_sequence(rng.permutation(items), level=0.9, population=200, step=0.02)
        missed += not ((low <= -0.1 + 1e-9) & (-0.1 - 1e-9 <= high)).all()
        assert (np.diff(low) >= 0).all() and (np.diff(high) <= 0).all()
        assert high[-1] - low[-1] <= 0.0401
    assert missed <= most(0.1, runs)


@pytest.mark.parametrize("lost", [19, 21], ids=["just within", "just beyond"])
def test_a_verdict_close_to_the_margin_errs_as_seldom_as_it_says(lost):
    """The hardest populations: one outcome to either side of a margin of 0.1."""
    rng, runs, wrong = np.random.default_rng(2), 300, 0
    items = np.repeat([-1.0, 0.0], [lost, 200 - lost])
    for _ in range(runs):
        wrong += settled_after(rng.permutation(items), -0.1, level=0.9, population=200).above != (lost < 20)
    assert wrong <= most(0.1, runs)


def test_what_is_clear_is_settled_early_and_what_never_differs_after_the_rule_of_three():
    worse = np.tile([-1.0, -1.0, 0.0], 100)
    assert settled_after(worse, 0.0).above is False and settled_after(worse, 0.0).n < 12
    same = settled_after(np.zeros(1000), -0.05)
    assert same.above and 3 / 0.05 < same.n < 100
    assert settled_after(np.zeros(40), 0.0).above is None


def test_all_of_a_population_settle_what_is_left():
    assert settled_after([0.0] * 5, 0.0, population=5).above is True
    assert settled_after([-1.0, 0.0, 0.0, 0.0, 0.0], 0.0, population=5).above is False


def grid(losses: dict[str, float], n: int = 200, cells: int = 3) -> pd.DataFrame:
    """Outcomes that are right for the reference, and wrong for others at so many of the corrupted outcomes."""
    rows = []
    for config, loss in losses.items():
        wrong = np.arange(n * cells) < round(loss * n * cells)
        for cell in range(cells + 1):
            right = np.ones(n) if cell == 0 else 1.0 - wrong.reshape(n, cells)[:, cell - 1]
            marks = dict(config=config, corruption="fog" if cell else "clean", severity=cell)
            rows.append(pd.DataFrame(dict(item=np.arange(n), correct=right)).assign(**marks))
    return pd.concat(rows)


def test_the_table_of_a_grid_says_what_would_have_been_enough():
    table = stopping_table(grid({"fp32": 0, "near": 0.01, "far": 0.4}), "fp32", 0.05, orders=5).set_index("config")
    assert table.loss.to_dict() == pytest.approx({"near": 0.01, "far": 0.4})
    assert table.verdict.to_dict() == {"near": "keeps", "far": "breaks"}
    assert (table.n == 600).all() and (table.same == 1).all() and (table.share < 0.4).all()
    assert table.share.to_numpy() == pytest.approx(table.used.to_numpy() / 600)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: log_wealth([2.0], [0.0]), "values must be a list of numbers from -1 to 1"),
        (lambda: log_wealth([0.0], [float("nan")]), "means must be a list of numbers from -1 to 1"),
        (lambda: log_wealth([0.0, 1.0], [0.0], population=1), "at least the 2 values drawn from it, got 1"),
        (lambda: settled_after([0.0], 0.0, level=2), "level must lie strictly between 0 and 1"),
        (lambda: stopping_table(grid({"a": 0}), "a", 1.5), "margin must lie from 0 to below 1"),
        (lambda: stopping_table(grid({"a": 0}), "b", 0.1), "unknown reference config 'b'"),
    ],
    ids=["values", "means", "population", "level", "margin", "reference"],
)
def test_what_makes_no_sense_is_refused(call, text):
    with pytest.raises(EdgelibError, match=text):
        call()
