"""Work counted by hand, and rooflines over it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelib.devices import table, workload
from edgelib.devices.device import Device
from edgelib.devices.roofline import attainable, roofline
from edgelib.devices.shapes import Decoder, encoder
from edgelib.errors import EdgelibError

TINY = Decoder(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=16, vocab=32, tied=True)


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
    tower = encoder("clip-vit-base-patch32")
    wide, narrow = (workload.encode_work(tower, bits) for bits in (32, 4))
    assert wide.weight_bytes - narrow.weight_bytes == tower.body * 28 / 8 and wide.operations == narrow.operations


def test_the_roofline_is_the_slower_of_two_times():
    work = workload.Work(weight_bytes=40e6, other_bytes=10e6, operations=1e9, layers=1)
    device = Device("x", "X", "mine", bandwidth_gb_s=50, rates={"fp16": 0.25, "int8": 10})
    slow, fast = roofline(work, device, "fp16", "fp16"), roofline(work, device, "int8", "int8")
    assert (slow.memory_ms, slow.compute_ms, slow.ms, slow.binds) == (1, 4, 4, "compute")
    assert (fast.ms, fast.binds) == (1, "memory")
    assert attainable([2, 5, 20], 50, 0.25).tolist() == [0.1, 0.25, 0.25]


def test_an_unpublished_rate_matters_only_where_arithmetic_might_bind():
    work, phone = workload.Work(1e9, 0, 1e9, 1), table.devices()["snapdragon-8-gen-3"]
    assert math.isnan(roofline(work, phone, "int4", "fp16", strict=False).compute_ms)
    assert roofline(work, phone, "int4", "fp16", strict=False).binds == "memory"
    with pytest.raises(EdgelibError, match="'snapdragon-8-gen-3' has no published rate of 'fp16'"):
        roofline(work, phone, "int4", "fp16")


BAD = {
    "no context": (lambda: workload.decode_work(TINY, 4, context=0), "context must be above 0"),
    "no bits": (lambda: workload.encode_work(encoder("clip-vit-base-patch32"), 0), "weight_bits must be above 0"),
    "no roof": (lambda: attainable(1, 0, 1), "above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()
