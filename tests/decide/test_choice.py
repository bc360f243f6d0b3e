"""Choices within tiers: the least regret of what is legal and fits, or the budget that binds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgelib.decide.choice import choose_for_tier
from edgelib.errors import EdgelibError

TABLE = pd.DataFrame(
    dict(accuracy=[0.90, 0.895, 0.80], bytes=[577, 225, 166], latency_ms=[50.0, 20.0, 18.0]),
    index=["fp32", "w8a8-minmax", "w4a8-minmax"],
)
BOTH = dict(maximize="accuracy", minimize=("bytes", "latency_ms"))


def test_the_choice_has_the_least_regret_of_what_is_legal_and_fits():
    found = choose_for_tier(TABLE, dict(bytes=600, latency_ms=60), "board", **BOTH)
    assert found.choice == "w8a8-minmax" and found.n_feasible == 3 and found.binds is None
    assert set(found.others) == {"fp32", "w4a8-minmax"}
    barred = choose_for_tier(TABLE, dict(bytes=600), "board", illegal={"w8a8-minmax": "no int8"}, **BOTH)
    assert barred.choice != "w8a8-minmax" and barred.n_feasible == 2


NOTHING = {
    "one budget": (dict(bytes=600, latency_ms=10), {}, "latency_ms", 18, True),
    "the nearer of two legal ones": (dict(bytes=200, latency_ms=19), {"w4a8-minmax": "no"}, "bytes", 225, False),
    "both": (dict(bytes=100, latency_ms=1), {}, "latency_ms", 18, False),
}


@pytest.mark.parametrize("case", NOTHING)
def test_without_a_choice_the_budget_that_binds_is_named_with_its_amount(case):
    budgets, illegal, column, needed, alone = NOTHING[case]
    found = choose_for_tier(TABLE, budgets, "board", illegal=illegal, name="tiny", **BOTH)
    assert found.choice is None and found.binds["column"] == column and found.binds["needed"] == needed
    assert found.binds["short_by"] == needed - budgets[column] and found.binds["alone"] == alone


def test_where_no_single_budget_suffices_the_nearest_configuration_names_the_one_it_exceeds():
    table = pd.DataFrame([(3, 2, 0.5), (0.5, 2, 1.5), (2, 0.5, 4)], index=list("xyz"), columns=list("abc"))
    found = choose_for_tier(table, dict(a=1, b=1, c=1), "board", maximize=(), minimize=list("abc"))
    assert found.binds == dict(column="b", budget=1, needed=2, short_by=1, alone=False)


def test_without_a_legal_configuration_the_reasons_are_named():
    found = choose_for_tier(TABLE, "mobile", "board", illegal=dict.fromkeys(TABLE.index, "no units"), **BOTH)
    assert found.choice is None and found.binds is None and set(found.illegal.values()) == {"no units"}


def test_the_budget_named_admits_a_configuration():
    budgets, illegal, column, needed, _ = NOTHING["one budget"]
    assert choose_for_tier(TABLE, budgets | {column: needed}, "board", illegal=illegal, **BOTH).choice


BAD = {
    "nothing to choose": (lambda: choose_for_tier(TABLE[:0], "mobile", "x", **BOTH), "no configuration to choose"),
    "unknown illegal": (lambda: choose_for_tier(TABLE, "mobile", "x", illegal={"a": ""}, **BOTH), "illegal names 'a'"),
    "zero budget": (lambda: choose_for_tier(TABLE, dict(bytes=0), "x", **BOTH), "above 0, got 0"),
    "negative budget": (lambda: choose_for_tier(TABLE, dict(bytes=-2), "x", **BOTH), "got -2"),
    "NaN cost": (lambda: choose_for_tier(TABLE.assign(bytes=np.nan), dict(bytes=2), "x", **BOTH), "NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()
