"""Statistics of keys and values against brute force, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from kv_models import IMAGE, VISION, llama, prompts, qwen2_vl, qwen3_vl, rows_of

from edgelib.errors import EdgelibError
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import bias_share, calibrate_kv
from edgelib.kv.context import token_mean
from edgelib.kv.scheme import kv_scheme


@pytest.fixture(scope="module")
def qwen():
    model = qwen2_vl()
    inputs = prompts(model)
    return model, inputs, calibrate_kv(model, [inputs])


def tokens_of(model, inputs):
    """Exact states of layer 1 [tokens, H, D] of K and V, and which tokens are of an image."""
    cache = kv_cache(model, "fp32")()
    model(**inputs, past_key_values=cache, use_cache=True)
    kept = inputs["attention_mask"].bool()
    states = [side.read(cache.context).transpose(1, 2)[kept] for side in cache.layers[1].sides]
    return *states, (inputs["input_ids"] == IMAGE)[kept]


@pytest.mark.parametrize("part", [0, 1], ids=["keys", "values"])
def test_statistics_are_those_of_the_tokens_that_are_no_padding(qwen, part):
    model, inputs, statistics = qwen
    states, image = tokens_of(model, inputs)[part], tokens_of(model, inputs)[2]
    seen = statistics.states[1, "kv"[part], "none"]
    assert seen.tokens.tolist() == [int((~image).sum()), int(image.sum())]
    for row, mask in enumerate((~image, image)):
        assert torch.equal(seen.abs_max()[row], states[mask].abs().amax(0))
        assert torch.allclose(seen.spread()[row], states[mask].std(0, correction=0), atol=1e-4)
    assert torch.allclose(seen.mean, states.mean(0), atol=1e-5)
    assert torch.allclose(seen.abs_max(states.mean(0)).amax(0), (states - states.mean(0)).abs().amax(0), atol=1e-5)
    exact = states.abs().flatten().sort().values[int(states.numel() * 0.9)]
    assert seen.percentile(90) == pytest.approx(float(exact), rel=0.02)


def test_how_the_tokens_were_batched_changes_nothing(qwen):
    model, inputs, whole = qwen
    parts = calibrate_kv(model, [rows_of(inputs, [2]), rows_of(inputs, [0, 1])])
    for key, seen in whole.states.items():
        assert torch.allclose(parts.states[key].abs_max(), seen.abs_max(), atol=1e-4), key
        assert torch.equal(parts.states[key].tokens, seen.tokens)
        assert parts.states[key].counts.sum() == seen.counts.sum()


@pytest.mark.parametrize("name", ["e4m3-amax", "e4m3-head", "int8-channel", "int8-amax-mean", "e4m3-amax-tokenmean"])
def test_static_scales_cover_what_was_seen(qwen, name):
    model, inputs, statistics = qwen
    plan = kv_cache(model, name, statistics)
    keys, values, _ = tokens_of(model, inputs)
    scheme = kv_scheme(name)
    for part, states in (("k", keys), ("v", values)):
        if scheme.offset == "mean":
            states = states - states.mean(0)
        elif scheme.offset == "tokenmean" and part == "k":
            continue
        scale = plan.scale(1, part)
        bound = (states.abs().unsqueeze(-2) / scale).amax() / scheme.number.qmax
        assert bound == pytest.approx(1, rel=1e-4)


def test_scales_have_the_shape_of_their_policy(qwen):
    model, _, statistics = qwen
    shapes = {name: kv_cache(model, name, statistics).scale(0, "k").shape for name in ("e4m3-amax", "e4m3-head")}
    assert shapes == {"e4m3-amax": (1,), "e4m3-head": (2, 1, 1)}
    assert kv_cache(model, "int4-channel", statistics).scale(0, "v").shape == (2, 1, 16)
    assert kv_cache(model, "e4m3-floor", statistics).scale(0, "k") == 1.0
    one, smaller = (kv_cache(model, f"e4m3-{s}", statistics).scale(0, "k") for s in ("amax", "p90"))
    assert smaller < one


def test_nothing_stays_on_the_model(qwen):
    model, inputs, _ = qwen
    before = copy.deepcopy(model.state_dict())
    hooks = len(model._forward_pre_hooks)
    calibrate_kv(model, [inputs, inputs])
    assert len(model._forward_pre_hooks) == hooks
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("make", VISION.values(), ids=VISION)
def test_a_calibration_without_an_image_is_refused(make):
    model = make()
    with pytest.raises(EdgelibError, match="calibration never saw an image"):
        calibrate_kv(model, [prompts(model, image=False)])
    assert calibrate_kv(model, [prompts(model, image=False)], text_only=True).image_tokens == 0


def test_scales_of_another_model_are_refused(qwen):
    model, _, statistics = qwen
    other = copy.deepcopy(model)
    other.model.language_model.layers[1].self_attn.k_proj.bias.data += 1
    with pytest.raises(EdgelibError, match="statistics are of another model"):
        kv_cache(other, "e4m3-amax", statistics)
    with pytest.raises(EdgelibError, match="statistics are of another model"):
        kv_cache(llama(num_hidden_layers=1), "e4m3-amax", statistics)


def test_an_empty_calibration_is_refused(qwen):
    with pytest.raises(EdgelibError, match="saw no token"):
        calibrate_kv(qwen[0], [])
    with pytest.raises(EdgelibError, match="an iterable of keyword arguments"):
        calibrate_kv(qwen[0], qwen[1])


def test_numbers_that_are_none_are_named(qwen):
    model = copy.deepcopy(qwen[0])
    model.model.language_model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(EdgelibError, match="the values of layer 1 hold NaN or inf during calibration"):
        calibrate_kv(model, [qwen[1]])


@pytest.mark.parametrize("valid", [None, torch.ones(1, 100, dtype=torch.bool)], ids=["no mask", "mask"])
def test_a_mean_of_half_floats_does_not_overflow(valid):
    mean = token_mean(torch.full((1, 2, 100, 4), 1000.0, dtype=torch.float16), valid)
    assert mean.dtype == torch.float16 and (mean == 1000).all()


def test_the_share_of_the_bias_is_known_where_there_is_one():
    model = qwen2_vl()
    layer = model.model.language_model.layers[0].self_attn
    layer.k_proj.bias.data.zero_()
    model.model.language_model.layers[1].self_attn.k_proj.weight.data *= 1e-3
    share = bias_share(calibrate_kv(model, [prompts(model)]))
    assert share[0] == 0 and share[1] > 0.95
    with pytest.raises(EdgelibError, match="have no bias"):
        bias_share(calibrate_kv(qwen3_vl(), [prompts(qwen3_vl())]))
