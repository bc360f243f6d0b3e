"""Speed-ups and what they owe to the runtime, kept apart from what narrow numbers did."""

from __future__ import annotations

import pandas as pd
import pytest

from edgelib.devices import gains
from edgelib.errors import EdgelibError


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
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()
