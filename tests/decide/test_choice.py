"""Choices within tiers, gains kept apart, and the sentences and figures made of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from edgelib.decide.allocation import Allocation
from edgelib.decide.choice import choose_for_tier
from edgelib.devices import gains, projection
from edgelib.devices.device import legality
from edgelib.devices.table import devices
from edgelib.errors import EdgelibError
from edgelib.report import explorer
from edgelib.report.claims import devices as claims_edge
from edgelib.report.figures import devices as figures_edge
from edgelib.stats.paired import PairedDifference

TABLE = pd.DataFrame(
    dict(accuracy=[0.90, 0.895, 0.80], bytes=[577, 225, 166], latency_ms=[50.0, 20.0, 18.0]),
    index=["fp32", "w8a8-minmax", "w4a8-minmax"],
)
BOTH = dict(maximize="accuracy", minimize=("bytes", "latency_ms"))
LABELS = {"fp32": "FP32", "w8a8-minmax": "W8A8", "w4a8-minmax": "W4A8"}


def test_the_choice_has_the_least_regret_of_what_is_legal_and_fits():
    found = choose_for_tier(TABLE, dict(bytes=600, latency_ms=60), "board", **BOTH)
    assert found.choice == "w8a8-minmax" and found.n_feasible == 3 and found.binds is None
    assert set(found.others) == {"fp32", "w4a8-minmax"}
    barred = choose_for_tier(TABLE, dict(bytes=600), "board", illegal={"w8a8-minmax": "no int8"}, **BOTH)
    assert barred.choice != "w8a8-minmax" and barred.n_feasible == 2
    said = claims_edge.tier_claim(found, TABLE.assign(probability=0.97), LABELS, ["bytes", "latency_ms"])
    assert "W8A8 has the least regret" in said and "20 ms" in said and "probability 0.97" in said


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
    said = claims_edge.tier_claim(found, TABLE, LABELS, ["bytes"])
    assert f"that of {column}" in said and "no legal configuration" in said


def test_where_no_single_budget_suffices_the_nearest_configuration_names_the_one_it_exceeds():
    table = pd.DataFrame([(3, 2, 0.5), (0.5, 2, 1.5), (2, 0.5, 4)], index=list("xyz"), columns=list("abc"))
    found = choose_for_tier(table, dict(a=1, b=1, c=1), "board", maximize=(), minimize=list("abc"))
    assert found.binds == dict(column="b", budget=1, needed=2, short_by=1, alone=False)


def test_without_a_legal_configuration_the_reasons_are_named():
    found = choose_for_tier(TABLE, "mobile", "board", illegal=dict.fromkeys(TABLE.index, "no units"), **BOTH)
    assert found.choice is None and found.binds is None
    assert claims_edge.tier_claim(found, TABLE, LABELS, []).endswith("none of 3 configurations runs there (no units)")


def test_the_budget_named_admits_a_configuration():
    for case in ("one budget",):
        budgets, illegal, column, needed, _ = NOTHING[case]
        assert choose_for_tier(TABLE, budgets | {column: needed}, "board", illegal=illegal, **BOTH).choice


def timed():
    cases = [("fp32", 1, 50, 48, 52), ("int8", 1, 20, 19, 22), ("fp32", 8, 300, 290, 310), ("int8", 8, 310, 280, 330)]
    return pd.DataFrame(cases, columns=["config", "batch", "p50", "p25", "p75"]).assign(model="m")


def test_what_narrow_numbers_did_is_told_from_what_their_runtime_did():
    cases = [("torch", "torch-fp32", "fp32", 50), ("b", "b-fp32", "fp32", 30), ("b", "b-int8", "int8", 20)]
    cases.append(("c", "c-int8", "int8", 25))
    table = pd.DataFrame(cases, columns=["runtime", "config", "weight", "p50"])
    table = table.assign(model="m", batch=1, activation=table.weight)
    found = gains.quantization_gains(table, "p50").set_index("config")
    assert found.speedup.to_dict() == {"torch-fp32": 1, "b-fp32": 1, "b-int8": 1.5, "c-int8": 2}
    assert found.base.to_list() == ["torch-fp32", "b-fp32", "b-fp32", "torch-fp32"]


def test_speed_ups_compare_the_same_case_and_divide_opposite_quartiles():
    found = gains.speedup_table(timed(), "p50", "fp32").set_index(["config", "batch"])
    assert found.loc[("int8", 1), "speedup"] == 2.5
    assert found.loc[("int8", 1), ["low", "high"]].tolist() == pytest.approx([48 / 22, 52 / 19])
    assert found.loc[("fp32", 8), ["speedup", "low", "high"]].tolist() == [1, 1, 1]
    assert gains.speedup_table(timed().drop(columns=["p25", "p75"]), "p50", "fp32")["low"].notna().sum() == 2
    fast, open_ = (claims_edge.speedup_claim(found.loc[("int8", b)], "INT8", "FP32", "this machine") for b in (1, 8))
    assert "measured to be 2.50 times as fast as FP32 (2.18 to 2.74" in fast and "cannot be told apart" in open_


def test_the_gain_of_a_runtime_times_that_of_quantization_is_what_was_reported():
    table = gains.swift_vlm_flow()
    found = gains.separated_gains(table, ["ttft_speedup", "decode_speedup"], "TRT BF16")
    for gain in ("ttft_speedup", "decode_speedup"):
        assert (found[f"{gain}_runtime"] * found[f"{gain}_quantization"]).to_numpy() == pytest.approx(table[gain])
    quantized = found["decode_speedup_quantization"].round(2)
    assert quantized["TRT INT8 (W8A16)"] == 1.39 and quantized["TRT INT4 (W4A16)"] == 1.63
    assert quantized["TRT NVFP4"] == 1.65 and quantized["TRT BF16"] == 1


BAD = {
    "no baseline": (lambda: gains.speedup_table(timed(), "p50", "bf16"), "no case was measured in 'bf16'"),
    "baseline twice": (lambda: gains.speedup_table(pd.concat([timed()] * 2), "p50", "fp32"), "measured twice"),
    "unknown runtime": (
        lambda: gains.separated_gains(gains.swift_vlm_flow(), ["ttft_speedup"], "TRT"),
        "no config 'TRT'",
    ),
    "unknown gain": (lambda: gains.separated_gains(gains.swift_vlm_flow(), ["x"], "TRT BF16"), "no column 'x'"),
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


def test_a_mix_is_called_better_only_where_a_test_says_so():
    found = Allocation(pd.Series(["w4", "w8"]), loss=1.0, least_loss=0.9, bytes=2**20, budget=2**20)
    better = PairedDifference(0.03, (0.01, 0.05), 0.001, 300, 0.02, 300, 0.95)
    open_ = PairedDifference(0.01, (-0.01, 0.03), 0.4, 300, 0.02, 300, 0.95)
    worse = PairedDifference(-0.03, (-0.05, -0.01), 0.001, 300, 0.02, 300, 0.95)
    said = {
        k: claims_edge.allocation_claim(found, "W4A8", 2.0, {"accuracy": t})
        for k, t in {"beats W4A8": better, "is not shown to beat W4A8": open_, "is beaten by W4A8": worse}.items()
    }
    assert all(verdict in text and "50 % of it" in text for verdict, text in said.items())
    one_of_two = replace(better, p=0.03)
    both = claims_edge.allocation_claim(found, "W4A8", 2.0, {"clean": one_of_two, "corrupted": open_})
    assert "is not shown to beat W4A8" in both and "Holm-adjusted p = 0.060" in both


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


FRONT = TABLE.assign(accuracy_low=TABLE["accuracy"] - 0.02, accuracy_high=TABLE["accuracy"] + 0.02)


def test_the_step_frontier_skips_what_is_illegal_over_budget_or_dominated(ax):
    dominated = FRONT.iloc[[2]].rename(index={"w4a8-minmax": "w3a8-minmax"}).assign(bytes=500)
    table = pd.concat([FRONT, dominated]).assign(legal=[True, False, True, True])
    figures_edge.frontier(table, ax, "bytes", "accuracy", budget=560)
    step = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert step.get_xdata().tolist() == [166] and ax.patches
    with pytest.raises(EdgelibError, match="NaN for 'fp32'"):
        figures_edge.frontier(FRONT.assign(bytes=[np.nan, 1, 2]), ax, "bytes", "accuracy")


def test_the_step_passes_through_the_best_of_equal_cost(ax):
    table = pd.DataFrame(dict(bytes=[100.0, 100, 101], accuracy=[0.90, 0.95, 0.93]), index=list("abc"))
    table = table.assign(accuracy_low=table["accuracy"] - 0.02, accuracy_high=table["accuracy"] + 0.02)
    figures_edge.frontier(table, ax, "bytes", "accuracy")
    step = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    assert (step.get_xdata().tolist(), step.get_ydata().tolist()) == ([100], pytest.approx([95]))


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
        lambda: figures_edge.speedups(rows, ax, "x"),
        lambda: figures_edge.roofline(rows, device, ax),
        lambda: figures_edge.memory_split(rows, ax),
        lambda: figures_edge.projected_and_measured(points, ax, names),
        lambda: figures_edge.legality_grid(legal, ax, {device.key: "Orin"}, {"w8a8-minmax": "W8A8", "fp8": "FP8"}),
        lambda: figures_edge.bits_by_depth(pd.DataFrame(dict(format=["w4", "w8", "w4"])), ax, ["w4", "w8"]),
    ):
        ax.clear()
        assert draw() is ax
        ax.figure.canvas.draw()


ROWS = pd.DataFrame(dict(x=[1.0, 2], y=[3.0, 4], config=["a</script>", "b"], device=["d", "d"]))
AXES = dict(x="x", y="y", colour="config", choose="device", tooltip=["config", "x"])


def test_an_explorer_carries_its_rows_and_loads_nothing_from_elsewhere():
    html = explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)
    assert html.count("</script>") == 1 and not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    spec = json.loads(re.search(r'\[\["chart-a", (\{.*\})\]\]', html)[1].replace("<\\/", "</"))
    assert list(spec["datasets"].values())[0][0]["config"] == "a</script>"
    assert html == explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)


@pytest.mark.parametrize(
    ("rows", "name", "words"),
    [
        (ROWS.drop(columns="y"), "c", "no column 'y'"),
        (ROWS.assign(y=np.nan), "c", "NaN"),
        (ROWS, 'x" onload=', "is an id"),
    ],
    ids=["column", "NaN", "name"],
)
def test_a_bad_chart_is_named(rows, name, words):
    with pytest.raises(EdgelibError, match=words):
        explorer.scatter(rows, name, "label", **AXES)


def test_projected_costs_come_with_their_interval():
    own = TABLE.assign(latency_ms_low=1.5, latency_ms_high=1340.4)
    found = choose_for_tier(own, {"bytes": 1e12}, "board", **BOTH)
    said = claims_edge.tier_claim(found, own, LABELS, ["bytes", "latency_ms"])
    assert "projected " in said and "(1.5 to 1,340) ms" in said and "MiB" in said
