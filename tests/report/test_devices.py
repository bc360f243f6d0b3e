"""Sentences and figures of speed and devices."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from edgelib.devices import gains, projection
from edgelib.devices.device import legality
from edgelib.devices.table import devices
from edgelib.report.claims.devices import speedup_claim
from edgelib.report.figures import devices as figures


def test_a_speed_up_is_told_only_where_its_quartiles_agree():
    cases = [("fp32", 1, 50, 48, 52), ("int8", 1, 20, 19, 22), ("fp32", 8, 300, 290, 310), ("int8", 8, 310, 280, 330)]
    timed = pd.DataFrame(cases, columns=["config", "batch", "p50", "p25", "p75"]).assign(model="m")
    found = gains.speedup_table(timed, "p50", "fp32").set_index(["config", "batch"])
    fast, open_ = (speedup_claim(found.loc[("int8", b)], "INT8", "FP32", "this machine") for b in (1, 8))
    assert "measured to be 2.50 times as fast as FP32 (2.18 to 2.74" in fast and "cannot be told apart" in open_


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_every_figure_takes_its_rows(ax):
    table = devices()
    device = table["agx-orin-64gb"]
    names = {key: device.name for key, device in table.items()}
    rows = pd.DataFrame(
        dict(config=["fp32", "int8"], name=["a", "b"], speedup=[1, 2.5], intensity=[2, 30], tops=[0.1, 3])
    )
    rows = rows.assign(**{part: [1e6, 2e6] for part in ("weights", "kv", "activations", "workspace")})
    points = projection.published_points(table)[:6].assign(projected=20.0, low=10.0, high=40.0)
    legal = legality([device], {"w8a8-minmax": ("int8", "int8"), "fp8": ("fp8_e4m3", "fp8_e4m3")})
    for draw in (
        lambda: figures.speedups(rows, ax, "x"),
        lambda: figures.roofline(rows, device, ax),
        lambda: figures.memory_split(rows, ax),
        lambda: figures.projected_and_measured(points, ax, names),
        lambda: figures.legality_grid(legal, ax, {device.key: "Orin"}, {"w8a8-minmax": "W8A8", "fp8": "FP8"}),
    ):
        ax.clear()
        assert draw() is ax
        ax.figure.canvas.draw()
