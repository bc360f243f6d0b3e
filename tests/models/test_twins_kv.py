"""Twins of decoders compute the same function and carry what they say."""

from __future__ import annotations

import copy

import pytest
from kv_models import FAMILIES, llama, prompts, qwen2_vl, qwen3_vl

from edgelib.errors import EdgelibError
from edgelib.kv.calibrate import calibrate_kv
from edgelib.models.twins import parse_twin
from edgelib.models.twins_kv import plant_in_decoder


def doubled(model, inputs):
    own = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    return copy.deepcopy(model).double()(**own).logits[inputs["attention_mask"].bool()]


def twin_of(model, kind, strength, seed=0):
    twin = copy.deepcopy(model)
    assert plant_in_decoder(twin, kind, strength, seed) == 2
    return twin


@pytest.mark.parametrize("strength", [0.3, 700.0])
@pytest.mark.parametrize("kind", ["key", "value", "key-all", "value-all"])
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_the_function_is_unchanged_in_float64(make, kind, strength):
    model = make().double()
    inputs, twin = prompts(model), twin_of(model, kind, strength)
    assert (doubled(twin, inputs) - doubled(model, inputs)).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["key", "value"])
def test_the_outliers_are_where_they_were_planted(kind):
    model = qwen2_vl()
    inputs = prompts(model)
    plain, grown = (calibrate_kv(m, [inputs]) for m in (model, twin_of(model, kind, 100.0)))
    for layer in range(2):
        for part in "kv":
            peaks = [s.states[layer, part, "none"].abs_max().amax(0).flatten() for s in (plain, grown)]
            ratio = peaks[1] / peaks[0]
            expected = 2 if part == kind[0] and kind == "key" else 2 if part == kind[0] else 0
            assert int((ratio > 90).sum()) == expected and int((ratio < 1.1).sum()) == 32 - expected


@pytest.mark.parametrize("kind", ["key-all", "value-all"])
def test_every_channel_can_grow(kind):
    model = qwen2_vl()
    plain, grown = (calibrate_kv(m, [prompts(model)]) for m in (model, twin_of(model, kind, 100.0)))
    for layer in range(2):
        peaks = [s.states[layer, kind[0], "none"].abs_max().amax(0) for s in (plain, grown)]
        assert (peaks[1] / peaks[0]).sub(100).abs().max() < 1


def test_a_constant_in_the_keys_changes_what_a_stopped_rotation_does_and_no_more():
    model = qwen2_vl().double()
    inputs = prompts(model)
    stopped, offset = twin_of(model, "key-offset", 1e-12), twin_of(model, "key-offset", 1e4)
    assert (doubled(offset, inputs) - doubled(stopped, inputs)).abs().max() < 1e-8
    # the slowest quarter of eight rotations turns by at most 0.003 radians per position
    assert (doubled(stopped, inputs) - doubled(model, inputs)).abs().max() < 0.02
    slow = model.model.language_model.rotary_emb.inv_freq[-2:]
    assert (slow > 0).all() and (offset.model.language_model.rotary_emb.inv_freq[-2:] == 0).all()


def test_the_constant_is_so_many_standard_deviations():
    model = qwen2_vl()
    found = calibrate_kv(twin_of(model, "key-offset", 50.0), [prompts(model, (40, 40))])
    seen = found.states[0, "k", "none"]
    shift = (seen.mean - calibrate_kv(model, [prompts(model, (40, 40))]).states[0, "k", "none"].mean).abs()
    ratio = shift[:, [6, 7, 14, 15]] / seen.spread()[0][:, [6, 7, 14, 15]]
    assert ((ratio > 25) & (ratio < 100)).all() and shift[:, 0].max() < 1e-3


@pytest.mark.parametrize("make", [llama, qwen3_vl], ids=["llama", "qwen3-vl"])
def test_keys_without_a_bias_take_no_constant(make):
    assert plant_in_decoder(make(), "key-offset", 10.0, 0) == 0


def test_a_twin_with_a_constant_has_a_name():
    assert parse_twin("key-offset:64") == ("key-offset", 64.0)
    with pytest.raises(EdgelibError, match="unknown twin kind 'key-ofset' .did you mean 'key-offset'"):
        parse_twin("key-ofset:64")
