"""Rotated caches: attention stays where nothing is rounded, and a channel that stands out costs less."""

from __future__ import annotations

import kv_models
import pytest
import torch

from edgelib.errors import EdgelibError
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.rotate import hadamard_block, turned
from edgelib.kv.scheme import kv_scheme

EXACT = ["e4m3-scaleonly-rotated", "int8-channel-mean-scaleonly-rotated", "e4m3-bias-scaleonly-rotated"]
STORED = ["int8-token", "int4-kivi", "nvfp4-amax", "int4-amax-bias", "int4-token-tokenmean", "int4-amax-konly"]


@pytest.fixture(scope="module")
def made():
    """A decoder with a bias and a channel of keys and values that stand out, its prompts and statistics."""
    model = kv_models.qwen2_vl()
    for layer in model.model.language_model.layers:
        layer.self_attn.k_proj.weight.data[5] *= 8
        layer.self_attn.v_proj.weight.data[7] *= 8
    prompts = kv_models.prompts(model)
    return model, prompts, calibrate_kv(model, [prompts])


def scores(model, prompts, cache=None):
    with torch.no_grad():
        return model(**prompts, **({} if cache is None else {"past_key_values": cache})).logits[:, -1]


@pytest.mark.parametrize("name", EXACT)
def test_attention_stays_where_nothing_is_rounded(made, name):
    model, prompts, statistics = made
    expected = scores(model, prompts)
    found = scores(model, prompts, kv_cache(model, name, statistics)())
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", STORED)
def test_what_is_read_is_what_was_stored_turned_back(made, name):
    model, _, statistics = made
    side, other = (kv_cache(model, n, statistics).side(0, "k") for n in (name, f"{name}-rotated"))
    assert not side.rotated and other.rotated
    x = torch.randn(2, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(turned(turned(x), back=True), x, atol=1e-6)
    assert torch.allclose(turned(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert kv_scheme(f"{name}-rotated").name == f"{name}-rotated"
    assert kv_scheme(f"{name}-rotated").bits_per_element(16) == kv_scheme(name).bits_per_element(16)


@pytest.mark.parametrize("name", ["int4-token", "int4-amax", "int4-head"])
def test_a_channel_that_stands_out_costs_less(made, name):
    model, prompts, statistics = made
    expected = scores(model, prompts)
    lost = [
        float((scores(model, prompts, kv_cache(model, n, statistics)()) - expected).square().mean())
        for n in (name, f"{name}-rotated")
    ]
    assert lost[1] < lost[0]


def test_static_scales_are_those_of_the_turned_states(made):
    model, prompts, statistics = made
    cache = kv_cache(model, "int8-channel-mean-rotated", statistics)
    exact = kv_cache(model, "fp32")()
    scores(model, prompts, exact)
    keys = exact.layers[0].sides[0].read(exact.context)
    stored = cache.side(0, "k").shifted(keys, exact.context)
    stored = stored.transpose(1, 2)[prompts["attention_mask"].bool()]  # [tokens, H, D]
    scale = cache.scale(0, "k")[:, 0]
    assert torch.allclose(stored.abs().amax(0), scale * 127, rtol=1e-3, atol=1e-5)


def test_a_cast_is_not_rotated():
    with pytest.raises(EdgelibError, match="cast, which takes no scale, offset, rotation or fault"):
        kv_scheme("bf16-rotated")


def sylvester(size):
    """The matrix that ggml_gen_hadamard fills: each quarter the one before, the last with the other sign."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


@pytest.mark.parametrize(("width", "part", "block"), [(64, "k", 64), (128, "k", 128), (128, "v", 64), (192, "k", 64)])
def test_llama_cpp_turns_by_the_plain_matrix(width, part, block):
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([piece @ sylvester(block) for piece in x.split(block, -1)], -1)
    assert hadamard_block(width, part) == block
    assert torch.allclose(turned(x, block=block), expected, atol=1e-6)
    assert torch.allclose(turned(turned(x, block=block), back=True, block=block), x, atol=1e-6)


def test_a_head_that_llama_cpp_does_not_turn_is_left():
    assert hadamard_block(96, "k") is None and hadamard_block(32, "v") is None
    model = kv_models.llama(head_dim=96)
    with pytest.raises(EdgelibError, match="these are 96 wide.*leave hadamard out"):
        kv_cache(model, "q4_0-hadamard")


def test_a_cache_of_llama_cpp_answers_as_attention_on_its_turned_states():
    """Keys of 128 channels are turned as one, values in halves; scores stay where the type loses next to nothing."""
    model = kv_models.llama(head_dim=128)
    prompts = kv_models.prompts(model)
    plan = kv_cache(model, "q8_0-hadamard")
    assert [plan.side(0, part).block for part in "kv"] == [128, 64]
    assert plan.bytes_per_token == 2 * 2 * 2 * 128 * 8.5 / 8
    expected = scores(model, prompts)
    found = scores(model, prompts, plan())
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()
