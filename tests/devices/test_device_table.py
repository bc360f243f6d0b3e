"""The device table, what runs on a device and why not, memory, rooflines, and work counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgelib.devices import table as edge
from edgelib.devices import workload
from edgelib.devices.roofline import attainable, roofline
from edgelib.errors import EdgelibError

TABLE = edge.devices()
ROW = {"name": "My board", "family": "mine", "bandwidth_gb_s": 50, "rates": {"fp16": 2.0, "int8": 4}}


def own_table(tmp_path, **rows):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"devices": rows}))
    return path


@pytest.mark.parametrize("device", TABLE.values(), ids=list(TABLE))
def test_every_row_names_its_sources_and_what_no_source_confirms(device):
    assert device.sources and device.bandwidth_gb_s and device.usable_gib < device.memory_gib
    assert set(device.unverified) <= {"usable_gib", "rates", "power_w", "bandwidth_gb_s"}
    assert not set(device.lacks) & set(device.rates), "a rate that is listed is not lacking"


def test_narrower_numbers_are_not_slower():
    for device in TABLE.values():
        order = [rate for unit in ("fp32", "fp16", "int8") if (rate := device.rates.get(unit))]
        assert order == sorted(order), device.key


LEGAL = {
    "FP8 on Ampere": ("agx-orin-64gb", "fp8_e4m3", "fp8_e4m3", "No FP8 on Ampere".lower()),
    "NVFP4 below Blackwell": ("h100-sxm", "nvfp4", "nvfp4", "before blackwell"),
    "INT8 on a Nano": ("jetson-nano", "int8", "int8", "no integer dot products"),
    "bf16 on a Nano": ("jetson-nano", "bf16", "bf16", "before ampere"),
    "MX on Ada": ("rtx-4090", "mxfp8", "mxfp8", "before blackwell"),
    "fp16 on x86": ("rtx-4090", "fp16", "fp16", None),
    "INT8 on Orin": ("agx-orin-64gb", "int8", "int8", None),
    "4-bit weights decoded anywhere": ("jetson-nano", "int4", "fp16", None),
    "NVFP4 weights decoded on Orin": ("agx-orin-64gb", "nvfp4", "fp16", None),
    "NVFP4 on Thor": ("agx-thor", "nvfp4", "nvfp4", None),
    "NVFP4 weights with FP8": ("rtx-4090", "nvfp4", "fp8_e4m3", None),
    "INT4 weights with INT8": ("raspberry-pi-5", "int4", "int8", None),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_runs_and_why_not(case):
    key, weight, activation, words = LEGAL[case]
    reason = edge.reason_against(TABLE[key], weight, activation)
    assert reason is None if words is None else words in reason.lower()
    row = edge.legality([TABLE[key]], {"it": (weight, activation)}).iloc[0]
    assert row["legal"] == (words is None) and row["reason"] == (reason or "")


def test_a_device_of_ones_own_is_one_row_and_wins(tmp_path):
    table = edge.devices(own_table(tmp_path, mine=ROW, **{"jetson-nano": ROW | {"name": "Faster"}}))
    assert list(table)[-1] == "mine" and len(table) == len(TABLE) + 1
    assert table["mine"].rate("int8") == 4 and table["jetson-nano"].name == "Faster"
    assert "lists no rate of fp8" in edge.reason_against(table["mine"], "fp8_e4m3", "fp8_e4m3")


def test_memory_that_is_missing_is_named_by_its_amount():
    table = edge.memory_table([TABLE["orin-nano-8gb"]], {"4-bit": 4.2 * 2**30, "16-bit": 15 * 2**30})
    assert table["fits"].tolist() == [True, False]
    assert table["free_gib"].tolist() == pytest.approx([1.0, -9.8])


def test_parameters_are_those_of_the_published_models():
    """Totals as the model cards give them, norms and biases left out."""
    published = {
        "llama-2-7b": 6.738,
        "llama-2-13b": 13.016,
        "llama-3-8b": 8.030,
        "llama-3.2-3b": 3.213,
        "qwen2-0.5b": 0.494,
        "qwen2-1.5b": 1.544,
        "qwen2-7b": 7.616,
        "qwen3-0.6b": 0.596,
        "qwen3-1.7b": 1.721,
        "qwen3-4b": 4.022,
    }
    for name, billions in published.items():
        model = workload.decoder(name)
        assert (model.body + model.head + model.embedding) / 1e9 == pytest.approx(billions, rel=1e-3), name
    tower = workload.encoder("clip-vit-b32")
    assert tower.tokens == 50 and (tower.body + tower.stem) / 1e6 == pytest.approx(87.8, rel=2e-3)


TINY = workload.Decoder(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=16, vocab=32, tied=True)


def test_work_of_one_token_is_counted_by_hand():
    # q and o: 8 x 8 each, k and v: 8 x 4 each; three MLP matrices of 8 x 16; a head of 8 x 32
    body, head = 2 * (2 * 64 + 2 * 32 + 3 * 128), 256
    step = workload.decode_work(TINY, 4, context=10, batch=3)
    assert step.weight_bytes == body * 4 / 8 + head * 2
    assert step.other_bytes == 3 * 10 * 2 * (2 * 4 * 2)  # 3 sequences, 10 tokens, 2 layers, K and V of 4 values, fp16
    assert step.operations == 3 * (2 * (body + head) + 2 * 4 * 8 * 10)  # scores and values: 2 ops x 8 channels, twice


@given(st.integers(1, 40), st.integers(1, 8))
def test_a_prompt_is_the_sum_of_its_tokens_but_for_weights_read_once_and_one_head(prompt, batch):
    whole = workload.prefill_work(TINY, 8, prompt=prompt, batch=batch)
    tokens = [workload.decode_work(TINY, 8, context=i + 1, batch=batch) for i in range(prompt)]
    assert whole.operations == sum(t.operations for t in tokens) - (prompt - 1) * batch * 2 * TINY.head
    assert whole.weight_bytes == tokens[0].weight_bytes and whole.intensity > 0


def test_fewer_bits_move_fewer_bytes_and_compute_the_same():
    tower = workload.encoder("clip-vit-b32")
    wide, narrow = (workload.encode_work(tower, bits) for bits in (32, 4))
    assert wide.weight_bytes - narrow.weight_bytes == tower.body * 28 / 8 and wide.operations == narrow.operations


def test_the_roofline_is_the_slower_of_two_times():
    work = workload.Work(weight_bytes=40e6, other_bytes=10e6, operations=1e9, layers=1)
    device = edge.Device("x", "X", "mine", bandwidth_gb_s=50, rates={"fp16": 0.25, "int8": 10})
    slow, fast = roofline(work, device, "fp16", "fp16"), roofline(work, device, "int8", "int8")
    assert (slow.memory_ms, slow.compute_ms, slow.ms, slow.binds) == (1, 4, 4, "compute")
    assert (fast.ms, fast.binds) == (1, "memory")
    assert attainable([2, 5, 20], 50, 0.25).tolist() == [0.1, 0.25, 0.25]


def test_an_unpublished_rate_matters_only_where_arithmetic_might_bind():
    work, phone = workload.Work(1e9, 0, 1e9, 1), TABLE["snapdragon-8-gen-3"]
    assert math.isnan(roofline(work, phone, "int4", "fp16", strict=False).compute_ms)
    assert roofline(work, phone, "int4", "fp16", strict=False).binds == "memory"
    with pytest.raises(EdgelibError, match="'snapdragon-8-gen-3' has no published rate of 'fp16'"):
        roofline(work, phone, "int4", "fp16")


def row(**changes):
    return {key: value for key, value in (ROW | changes).items() if value is not None}


BAD_ROWS = {
    "misspelt fact": (row(bandwith_gb_s=3), "did you mean 'bandwidth_gb_s'"),
    "slipped unit": (row(bandwidth_gb_s=1792e9), "must be a number from 1 to 20000, got 1792"),
    "negative rate": (row(rates={"fp16": -1}), "rates must be a number from"),
    "text as a number": (row(memory_gib="8 GB"), "memory_gib must be a number"),
    "no rates": (row(rates=None), "no fact 'rates'"),
    "unknown unit": (row(rates={"int5": 1}), "arithmetic unit"),
    "more usable than fitted": (row(memory_gib=8, usable_gib=9), "9 GiB usable of 8"),
    "not a row": ([1], "row of facts"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, case):
    facts, words = BAD_ROWS[case]
    with pytest.raises(EdgelibError, match=words) as error:
        edge.devices(own_table(tmp_path, mine=facts))
    assert "'mine'" in str(error.value)


BAD = {
    "no bandwidth": (lambda: edge.Device("x", "X", "f", rates={"fp16": 1}).fact("bandwidth_gb_s"), "'x' has no fact"),
    "no memory": (lambda: edge.memory_table([edge.Device("x", "X", "f")], {"a": 1}), "no fact 'usable_gib'"),
    "zero need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": 0}), "above 0 bytes, got 0"),
    "negative need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": -1}), "got -1"),
    "NaN need": (lambda: edge.memory_table([TABLE["rtx-4090"]], {"a": np.nan}), "got nan"),
    "illegal format": (lambda: TABLE["agx-orin-64gb"].rate("fp8"), "No FP8 on Ampere".replace("No", "no")),
    "unknown format": (lambda: edge.unit_of("int9", "int8"), "unknown weight format"),
    "unknown device": (lambda: edge.select(TABLE, ["orin-nan-8gb"]), "did you mean 'orin-nano-8gb'"),
    "unknown model": (lambda: workload.decoder("llama-3-9b"), "did you mean 'llama-3-8b'"),
    "no context": (lambda: workload.decode_work(TINY, 4, context=0), "context must be above 0"),
    "no bits": (lambda: workload.encode_work(workload.encoder("clip-vit-b32"), 0), "weight_bits must be above 0"),
    "no file": (lambda: edge.devices("nowhere.yaml"), "cannot read the device table nowhere.yaml"),
    "no roof": (lambda: attainable(1, 0, 1), "above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()


def test_a_table_may_lie_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    own_table(tmp_path, mine=ROW)
    assert "mine" in edge.devices("~/mine.yaml")


@pytest.mark.parametrize("text", ["[1, 2]", "devices: 3", "{"], ids=["list", "no rows", "broken"])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(EdgelibError, match="mine.yaml"):
        edge.devices(path)
