"""Tables of caches and of cases that were not measured: a row each, parts only of a loss that is shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgelib.report import tables
from edgelib.report.caches import loss_columns, loss_rows
from edgelib.report.devices import ratio_columns, skipped_cases
from edgelib.stats.ladder import attribute


def cells(lost: float, n: int = 60) -> dict[tuple[str, ...], np.ndarray]:
    keys = (np.arange(n) >= lost * n).astype(float)
    return {(): np.ones(n), ("keys",): keys, ("values",): np.ones(n), ("keys", "values"): keys}


def test_a_loss_has_its_parts_and_no_loss_has_its_power():
    found = {("plain", "part"): attribute(cells(0.0), ["keys", "values"], n_boot=100)}
    found |= {("key:8", "part"): attribute(cells(0.5), ["keys", "values"], n_boot=100)}
    found |= {("key:8", "other"): attribute(cells(0.5), ["keys", "values"], n_boot=100)}
    rows = loss_rows(found, {"part": "keys and values"})
    assert list(rows.twin) == ["plain", "key:8"] and set(rows.experiment) == {"keys and values"}
    assert list(rows.verdict) == ["no loss is shown", "lost"] and rows.parts[0] == ""
    assert rows.parts[1].startswith("keys 50.0 (") and "; values " in rows.parts[1]
    shown, _ = tables.selected(rows, loss_columns())
    assert shown["Lost, points"][1].startswith("50.0 (")


def test_cases_that_were_not_measured_say_why():
    rows = skipped_cases({"left_out": ["clip batch 8: its first run took 17 s"], "unsettled": ["clip batch 1"]})
    assert rows.to_numpy().tolist() == [
        ["clip batch 1 (stopped)", "its median was not settled"],
        ["clip batch 8", "its first run took 17 s"],
    ]
    assert skipped_cases({}).empty


@pytest.mark.parametrize(("measured", "said"), [(2.0, "inside"), (4.0, "outside")])
def test_measured_ratios_stand_inside_or_outside(measured, said):
    row = dict(model="m", weight="int4", device="Orin", measured=measured, projected=2.5, low=1.5, high=3.5)
    shown, _ = tables.selected(pd.DataFrame([row | {"calibrated": 2.4}]), ratio_columns())
    assert shown["Interval"][0] == said and shown["Projected"][0] == "2.50 (1.50 to 3.50)"
