"""Attribution of a loss to factors against closed forms, and recovery against TOST itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.stats.ladder import attribute, attribution_table, recoveries, recovery_table
from edgelib.stats.paired import tost


def cells(rng, factors, effect, n=400):
    """Outcomes in which `effect(subset)` of the items are lost."""
    from itertools import combinations

    order = rng.permutation(n)
    subsets = [s for size in range(len(factors) + 1) for s in combinations(factors, size)]
    return {s: np.where(order < effect(s) * n, 0.0, 1.0) for s in subsets}


def test_two_factors_share_their_interaction():
    lost = {(): 0.0, ("a",): 0.2, ("b",): 0.1, ("a", "b"): 0.5}
    found = attribute(cells(np.random.default_rng(0), "ab", lost.get), "ab")
    assert found.total.effect == pytest.approx(0.5)
    assert found.parts["a"].effect == pytest.approx(0.2 + 0.1) and found.parts["b"].effect == pytest.approx(0.1 + 0.1)
    assert found.shares == pytest.approx({"a": 0.6, "b": 0.4})
    assert found.intervals["a"][0] < 0.6 < found.intervals["a"][1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_parts_add_up_to_the_loss(seed, k):
    rng, factors = np.random.default_rng(seed), "abcd"[:k]
    table = {s: rng.integers(0, 2, 50).astype(float) for s in cells(rng, factors, lambda s: 0)}
    found = attribute(table, factors, n_boot=100)
    assert sum(p.effect for p in found.parts.values()) == pytest.approx(found.total.effect, abs=1e-9)


def test_a_factor_that_does_nothing_has_no_part_and_twins_have_equal_parts():
    found = attribute(cells(np.random.default_rng(1), "abc", lambda s: 0.1 * (("a" in s) + ("b" in s))), "abc")
    assert found.parts["c"].effect == 0 and found.parts["c"].interval[0] < 0 < found.parts["c"].interval[1]
    assert found.parts["a"].effect == pytest.approx(found.parts["b"].effect)


def test_without_a_loss_there_is_no_share():
    same = np.ones(10)
    found = attribute({(): same, ("a",): same, ("b",): same, ("a", "b"): same}, ["a", "b"])
    assert found.total.effect == 0 and np.isnan(found.shares["a"]) and found.intervals["a"] == (-np.inf, np.inf)


def test_a_missing_cell_is_named():
    with pytest.raises(EdgelibError, match="no outcomes with a, b switched on"):
        attribute({(): [1.0], ("a",): [1.0], ("b",): [0.0]}, ["a", "b"])
    with pytest.raises(EdgelibError, match="of the same items"):
        attribute({(): [1.0], ("a",): [1.0, 0.0]}, ["a"])


def test_recovery_is_tost_with_holm():
    rng = np.random.default_rng(2)
    baseline = rng.integers(0, 2, 2000).astype(float)
    worse = np.where(rng.random(2000) < 0.1, 0, baseline)
    found = recoveries({"same": baseline, "worse": worse}, baseline, 0.01, seed=3)
    assert found["same"].non_inferior and not found["worse"].non_inferior
    assert found["worse"].test == tost(worse, baseline, 0.01, seed=3)
    assert found["same"].adjusted == pytest.approx(2 * found["same"].test.p_non_inferior)


def test_tables_have_a_row_per_part_and_per_setting():
    lost = {(): 0.0, ("a",): 0.2, ("b",): 0.1, ("a", "b"): 0.5}
    found = attribute(cells(np.random.default_rng(0), "ab", lost.get), "ab")
    table = attribution_table({("plain", "part"): found})
    assert list(table) == ["twin", "game", "factor", "effect", "low", "high", "p", "total", "share"]
    assert table["factor"].tolist() == ["part: a", "part: b"] and table["effect"].sum() == pytest.approx(
        table["total"][0]
    )
    baseline = np.ones(500)
    recovered = recoveries({"same": baseline}, baseline, 0.01)
    row = recovery_table({("plain", "same"): recovered["same"]}).iloc[0]
    assert (row.twin, row.cache, row.effect, row.non_inferior) == ("plain", "same", 0, True)
    assert row.p_holm == recovered["same"].adjusted and row.low <= 0 <= row.high
