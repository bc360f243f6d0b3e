"""A family of tests is its tests, corrected for how many they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.stats.family import Family, against, compare
from edgelib.stats.paired import holm, paired_difference, settled

RNG = np.random.default_rng(0)
REFERENCE = RNG.integers(0, 2, 300)
WORSE = np.where(RNG.random(300) < 0.2, 0, REFERENCE)
PAIRS = {("plain", "a"): (WORSE, REFERENCE), ("plain", "b"): (REFERENCE, REFERENCE), ("twin", "a"): (REFERENCE, WORSE)}
IMAGES = np.arange(300) // 2
FAMILY = compare(PAIRS, ("twin", "config"), cluster=IMAGES, seed=3)


def test_each_test_is_the_paired_difference_of_its_pair():
    for key, (a, b) in PAIRS.items():
        assert FAMILY[key] == paired_difference(a, b, cluster=IMAGES, seed=3)


def test_p_values_are_adjusted_over_the_family():
    assert list(FAMILY.adjusted.values()) == holm([FAMILY[key].p for key in PAIRS]).tolist()
    assert FAMILY.settled() == [key for key in PAIRS if settled(FAMILY[key], FAMILY.adjusted[key])]
    assert FAMILY.settled() == [("plain", "a"), ("twin", "a")]


def test_a_sign_that_one_test_settles_may_be_open_in_a_family():
    one = replace(FAMILY["plain", "a"], interval=(-0.2, -0.01), p=0.03)
    assert Family({"a": one}).settled() == ["a"] and Family({"a": one, "b": one}).settled() == []


def test_the_table_has_a_row_per_test_with_its_numbers():
    table = FAMILY.table()
    assert list(table) == ["twin", "config", "effect", "low", "high", "p", "p_holm", "mde"]
    row, test = table.iloc[0], FAMILY["plain", "a"]
    assert (row.twin, row.config, row.effect, (row.low, row.high)) == ("plain", "a", test.effect, test.interval)
    assert (row.p, row.p_holm, row.mde) == (test.p, FAMILY.adjusted["plain", "a"], test.mde)


def test_the_table_takes_columns_and_a_scale():
    table = FAMILY.table("images", "effect", "p", "n", scale=100)
    assert list(table) == ["twin", "config", "images", "effect", "p", "n"]
    assert table.effect[0] == 100 * FAMILY["plain", "a"].effect and table.p[0] == FAMILY["plain", "a"].p
    assert (table.n == 300).all() and (table.images == 150).all()
    with pytest.raises(EdgelibError, match="unknown column of a family 'power'"):
        FAMILY.table("power")


def test_a_pair_may_bring_its_own_clusters():
    own = compare({"a": (WORSE, REFERENCE, IMAGES)}, seed=3)
    assert own["a"] == FAMILY["plain", "a"] != compare({"a": (WORSE, REFERENCE)}, seed=3)["a"]


def test_renamed_tests_are_the_same_tests():
    named = FAMILY.named("{1} on {0}".format)
    assert list(named) == ["a on plain", "b on plain", "a on twin"]
    assert list(named.adjusted.values()) == list(FAMILY.adjusted.values())


def test_an_empty_family_is_a_family():
    empty = Family({}, ("twin", "config"))
    assert len(empty) == 0 and empty.adjusted == {} and empty.settled() == []
    assert list(empty.table("effect")) == ["twin", "config", "effect"]


@pytest.mark.parametrize(
    ("pairs", "names", "words"),
    [
        (
            {("plain", "a"): ([1.0], [1.0, 0.0])},
            ("twin", "config"),
            "^plain, a: a and b must be outcomes of the same items",
        ),
        ({"a": ([1.0], [1.0])}, ("twin", "config"), "has not one part for each of twin, config"),
    ],
    ids=["pair", "key"],
)
def test_a_bad_pair_is_named(pairs, names, words):
    with pytest.raises(EdgelibError, match=words):
        compare(pairs, names)
    with pytest.raises(EdgelibError, match="unknown test 'c'"):
        FAMILY["c"]


def test_pairs_of_rows_are_aligned_by_item():
    rows = pd.DataFrame({"config": ["w4", "w4", "fp32", "fp32"], "item": [2, 1, 1, 2], "correct": [0, 1, 5, 7]})
    first, second = against(rows, "fp32", ["w4"])["w4"]
    assert first.tolist() == [1, 0] and second.tolist() == [5, 7]
    with pytest.raises(EdgelibError, match="unknown reference config 'bf16'"):
        against(rows, "bf16", ["w4"])
