"""Timing and memory: arithmetic of percentiles and tokens, counts of calls, bytes by use; no test asserts a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from edgelib.devices import ceilings, profiling
from edgelib.errors import EdgelibError


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    return Qwen2ForCausalLM(Qwen2Config(**shape, intermediate_size=64, vocab_size=50)).eval()


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=40))
def test_percentiles_are_ordered_and_within_the_times(times):
    found = profiling.percentiles(times)
    assert min(times) <= found["p25"] <= found["p50"] <= found["p75"] <= found["p95"] <= max(times)
    assert found["n"] == len(times) and found["p50"] == pytest.approx(np.median(times))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=30))
def test_time_per_token_is_the_rest_of_the_run_by_the_rest_of_the_tokens(steps):
    marks = np.concatenate([[0], np.cumsum(steps)])
    first, later = profiling.token_times(marks)
    assert first == pytest.approx(steps[0])
    assert later.mean() == pytest.approx((marks[-1] - first) / (len(steps) - 1))


@pytest.mark.parametrize("cold", [False, True])
def test_every_counted_call_has_a_time(monkeypatch, cold):
    monkeypatch.setattr(profiling, "_CACHE_BYTES", 1024)
    calls = []
    times = profiling.times_ms(lambda: calls.append(1), warmup=2, repeats=5, cold=cold)
    assert len(calls) == 7 and times.shape == (5,) and (times >= 0).all()


def test_marks_start_at_zero_and_never_go_back():
    marks = profiling.Marks()
    for _ in range(4):
        marks.mark()
    assert marks.ms()[0] == 0 and (np.diff(marks.ms()) >= 0).all()


def test_generation_is_greedy_and_its_cache_has_the_bytes_of_its_tokens(decoder):
    generation = profiling.Generation(decoder, batch=2, prompt=7, seed=1)
    assert len(generation.run(5)) == 6
    # 3 layers, keys and values, 2 sequences, 2 heads of 8 values in 4 bytes; the last token is not read again
    assert generation.cache_bytes() == 3 * 2 * 2 * (7 + 4) * 2 * 8 * 4
    answer = decoder.generate(generation.prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert answer.shape[1] == 12


def test_a_profile_of_generation_has_every_number(decoder):
    generation = profiling.Generation(decoder, batch=3, prompt=4)
    found = profiling.token_statistics([generation.run(6) for _ in range(2)], batch=3)
    found |= profiling.memory_split(decoder, lambda: generation.run(2), generation.cache_bytes)
    assert found["ttft_n"] == 2 and found["tpot_n"] == 2 * 5
    assert found["tokens_per_s"] == pytest.approx(3e3 / found["tpot"])
    assert found["weights"] == sum(p.numel() * 4 for p in decoder.parameters()) + 4 * 4 * 2  # and two rotary buffers
    assert all(np.isfinite(value) and value >= 0 for value in found.values())


def test_the_peak_of_a_step_is_what_was_alive_at_once():
    x = torch.ones(1000, 1000)

    def step():
        a = x + 1
        b = a * 2
        del a
        return float((b + b).sum())

    assert profiling.allocated_peak(step) == pytest.approx(2 * 4e6, rel=0.01)


def test_shared_weights_count_once():
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    assert profiling.tensor_bytes(tied) == 8 * 8 * 4
    split = profiling.memory_split(tied, lambda: tied(torch.ones(4, 8)))
    assert split["weights"] == 256 and split["kv"] == 0 and split["activations"] >= 2 * 4 * 8 * 4


def test_a_tensor_made_of_tensors_has_the_bytes_of_its_parts():
    from torch.testing._internal.two_tensor import TwoTensor  # stands for torchao's kinds: codes and scales

    layer = nn.Linear(8, 4, bias=False)
    layer.weight = nn.Parameter(TwoTensor(torch.ones(4, 8), torch.ones(4, 8)), requires_grad=False)
    assert profiling.tensor_bytes(layer) == 2 * 4 * 8 * 4


def test_ceilings_are_positive_rates():
    found = ceilings.ceilings(formats=("fp32",), megabytes=1, size=32)
    assert set(found) == {"copy_gb_s", "read_gb_s", "fp32_tops"} and all(rate > 0 for rate in found.values())


BAD = {
    "no repeats": (lambda d: profiling.times_ms(print, repeats=0), "repeats must be a whole number of at least 1"),
    "negative warm-up": (lambda d: profiling.times_ms(print, warmup=-1), "warmup must be .* at least 0"),
    "no times": (lambda d: profiling.percentiles([]), "measured times above 0"),
    "NaN time": (lambda d: profiling.percentiles([1, np.nan]), "measured times above 0"),
    "one token": (lambda d: profiling.token_times(np.array([0.0, 1.0])), "at least 2 tokens, got 1"),
    "no batch": (lambda d: profiling.Generation(d, batch=0), "batch must be .* at least 1"),
    "no prompt": (lambda d: profiling.Generation(d, prompt=0), "prompt must be"),
    "no buffer": (lambda d: ceilings.copy_gb_s(megabytes=0), "at least 1, got 0"),
    "unknown format": (lambda d: ceilings.gemm_rate("fp33"), "did you mean 'fp32'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(decoder, case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run(decoder)
