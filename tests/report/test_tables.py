"""Tables show their columns in the words and units of a reader, and nothing of a data set's markup."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgelib.report.figures.kv import cache_label
from edgelib.report.tables import (
    between,
    cross,
    escaped,
    interval,
    marked,
    moved_answers,
    myst_table,
    named,
    number,
    projected,
    selected,
    spread,
    verdicts,
    with_interval,
)
from edgelib.stats.family import compare


def test_numbers_keep_their_intervals():
    assert with_interval(0.931, 0.92, 0.941) == "93.1 (92.0 to 94.1)" and with_interval(np.nan, 0, 1) == "not defined"


def test_tables_escape_what_data_sets_bring():
    text = myst_table(
        pd.DataFrame({"name": ["<script>|*x*", "a"], "n": [1, 2]}), "Cap", "tab-x", {"n": "{:.0f}".format}
    )
    assert "<script>" not in text and "\\|" in text and "| 2 |" in text and ":name: tab-x" in text
    assert "| :--- | ---: |" in text


def test_reasons_stay_whole_and_a_name_without_end_is_cut():
    reasons = "; ".join(f"configuration {i}: {'why it is not taken ' * 4}" for i in range(20))
    assert escaped(reasons) == " ".join(reasons.split())
    assert len(escaped("x" * 10**6)) < 10**4 and escaped("x" * 10**6).endswith("…")


ROWS = pd.DataFrame(
    {
        "config": ["fp32", "w8a8-minmax"],
        "effect": [0.1, np.nan],
        "low": [0.05, np.nan],
        "high": [0.2, np.nan],
        "clean": [0.9, 0.8],
        "clean_low": [0.85, 0.7],
        "clean_high": [0.95, 0.9],
        "ok": [True, False],
    }
)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (named(), ["FP32", "W8A8 min-max"]),
        (named("config", {"fp32": "whole"}), ["whole", "W8A8 min-max"]),
        (interval("clean"), ["90.0 (85.0 to 95.0)", "80.0 (70.0 to 90.0)"]),
        (interval(scale=1, digits=2, missing="reference"), ["0.10 (0.05 to 0.20)", "reference"]),
        (interval(), ["10.0 (5.0 to 20.0)", "not defined"]),
        (number("effect", "{:.0f}", 100), ["10", ""]),
        (number("effect", "{:.1f}x", missing="other"), ["0.1x", "other"]),
        (between("clean_low", "clean_high", "{:.2f}"), ["0.85 to 0.95", "0.70 to 0.90"]),
        (projected("effect"), ["0.1 (0.05 to 0.2)", "no"]),
        (marked(number("clean"), "ok"), ["✓ 0.9", "0.8"]),
    ],
    ids=["label", "name", "interval", "missing", "undefined", "number", "no number", "between", "projected", "marked"],
)
def test_a_column_writes_its_cells(column, cells):
    assert list(column.cells(ROWS)) == cells


def test_shown_columns_keep_their_order_and_say_which_are_numbers():
    shown, numeric = selected(ROWS, {"Configuration": named(), "Right": "ok", "Clean": interval("clean")})
    assert list(shown) == ["Configuration", "Right", "Clean"] and numeric == ["Clean"]
    with pytest.raises(KeyError, match="wrong"):
        selected(ROWS, {"x": "wrong"})


def test_a_cross_table_keeps_the_order_of_its_rows():
    rows = pd.DataFrame({"config": ["w8a8-minmax", "fp32"] * 2, "twin": ["b", "b", "a", "a"], "n": [1.0, 2, 3, 4]})
    table = cross(rows, "config", "twin", number("n", "{:.0f}"), "Configuration")
    assert list(table) == ["Configuration", "b", "a"] and list(table["Configuration"]) == ["W8A8 min-max", "FP32"]
    assert table[["b", "a"]].to_numpy().tolist() == [["1", "3"], ["2", "4"]]


def test_a_cross_table_of_caches_calls_them_caches():
    rows = pd.DataFrame({"cache": ["q8_0", "exact"], "twin": "plain", "x": [1.0, 2.0]})
    named = cross(rows, "cache", "twin", number("x", "{:g}"), "Cache", name=cache_label)
    assert list(named["Cache"]) == ["Q8_0", "exact cache"]


def test_a_family_becomes_a_table_with_verdicts():
    right = np.ones(200)
    lost = (np.arange(200) >= 40).astype(float)
    family = compare({"w4a16": (lost, right), "w8a16": (right, right)}, seed=0)
    rows, columns = verdicts(family, {"Configuration": named()}, less="worse")
    shown, numeric = selected(rows, columns)
    assert list(shown["Verdict"]) == ["worse", "open"] and "Verdict" not in numeric
    assert shown["Difference, points"][0].startswith("-20.0 (") and shown["Configuration"][1].startswith("W8A16")
    told, columns = verdicts(
        family, {"Configuration": named()}, pairs={"w4a16": (lost, right), "w8a16": (right, right)}
    )
    assert selected(told, columns)[0]["Answers that differ"].tolist() == ["40", "0"]


def test_rows_are_spread_over_columns_in_their_order():
    rows = pd.DataFrame({"c": ["b", "b", "a", "a"], "s": [5, 1, 5, 1], "x": [1.0, 2, 3, 4], "low": 0.0, "high": 9.0})
    wide = spread(rows, "s", "x")
    assert list(wide.c) == ["b", "a"] and list(wide.x_1) == [2, 4] and list(wide.x_5_high) == [9, 9]


WRONG = {("w4", 0): {1}, ("w4", 3): {0, 2}}


def test_answers_that_carry_a_gap_are_counted_clean_and_corrupted():
    rows = pd.DataFrame(
        [
            (config, item, corruption, severity, float(item not in WRONG.get((config, severity), ())))
            for config in ("fp32", "w4")
            for corruption, severity in (("clean", 0), ("fog", 3), ("snow", 3))
            for item in range(4)
        ],
        columns=["config", "item", "corruption", "severity", "correct"],
    )
    counted = moved_answers(rows, "fp32")
    clean, corrupted = "Clean answers that differ, of 4", "Corrupted answers that differ, of 8"
    assert counted == {clean: {"w4": 1}, corrupted: {"w4": 4}}
    family = compare({"w4": ([1.0, 0.0], [1.0, 1.0])})
    shown, _ = selected(*verdicts(family, {"Configuration": named()}, counts=counted))
    assert shown[corrupted][0] == "4" and shown[clean][0] == "1"
