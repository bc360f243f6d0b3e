"""Instruments of quantized caches against brute force, and a doctor who finds what was done to the patient."""

from __future__ import annotations

import copy
import gc
import weakref
from threading import Thread

import pytest
import torch
from kv_models import FAMILIES, IMAGE, TEXT, llama, mistral, prompts, qwen2_vl
from transformers import Gemma2Config, Gemma2ForCausalLM, GptOssConfig, GptOssForCausalLM

from edgelib.errors import EdgelibError
from edgelib.formats.table import FORMATS
from edgelib.kv.attention import rounded_attention, watched_attention
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.doctor import doctor
from edgelib.kv.drift import kv_drift
from edgelib.kv.health import kv_health
from edgelib.models.twins_kv import plant_in_decoder


@pytest.fixture(scope="module")
def qwen():
    model = qwen2_vl()
    inputs = prompts(model)
    return model, inputs, calibrate_kv(model, [inputs])


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_written_out_attention_is_the_models_own(make):
    model = make()
    inputs = prompts(model)
    kept = inputs["attention_mask"].bool()
    plain, seen = model(**inputs).logits, []
    with watched_attention(model, lambda layer, *_: seen.append(layer)):
        written = model(**inputs).logits
    assert torch.allclose(written[kept], plain[kept], atol=1e-4) and seen == [0, 1]
    assert torch.equal(model(**inputs).logits, plain)


def test_capped_logits_are_those_of_the_model():
    torch.manual_seed(0)
    own = dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=8, attn_logit_softcapping=0.5)
    model = Gemma2ForCausalLM(Gemma2Config(**TEXT, **own, attn_implementation="eager")).eval().requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 100
    inputs, capped = prompts(model), []
    kept = inputs["attention_mask"].bool()
    plain = model(**inputs).logits
    with watched_attention(model, lambda layer, query, logits: capped.append(logits(query, query[:, :2]))):
        written = model(**inputs).logits
    assert torch.allclose(written[kept], plain[kept], atol=1e-4)
    assert all(0.4 < x[x.isfinite()].abs().max() <= 0.5 for x in capped)


def test_attention_with_sinks_is_refused():
    own = dict(head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=8)
    model = GptOssForCausalLM(GptOssConfig(**TEXT, **own, attn_implementation="eager")).eval()
    for block in (rounded_attention(model), watched_attention(model, lambda *_: None)):
        with pytest.raises(EdgelibError, match="GptOssAttention has attention sinks"), block:
            model(**prompts(model))


def test_nothing_keeps_a_watcher_or_a_hook(qwen):
    model, inputs, _ = qwen

    def watch(*_):
        pass

    gone = weakref.ref(watch)
    with watched_attention(model, watch):
        model(**inputs)
    del watch
    gc.collect()
    assert gone() is None
    hooks = len(model._forward_pre_hooks)
    kv_health(model, kv_cache(model, "int8-token"), [inputs])
    gc.collect()
    assert len(model._forward_pre_hooks) == hooks


def test_a_watcher_sees_its_own_model_in_its_own_thread():
    first, second = llama(), mistral()
    inputs, seen = prompts(first), {"first": [], "second": []}

    def elsewhere():
        with watched_attention(second, lambda layer, *_: seen["second"].append(layer)):
            second(**inputs)
        first(**inputs)

    with watched_attention(first, lambda layer, *_: seen["first"].append(layer)):
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        with rounded_attention(second):
            first(**inputs)
    assert seen == {"first": [0, 1], "second": [0, 1]}


def test_rounded_attention_rounds_each_row_by_itself(qwen):
    model, inputs, _ = qwen
    kept = inputs["attention_mask"].bool()
    plain = model(**inputs).logits[kept]
    errors = {}
    for name in ("fp8_e4m3", "int8", "fp8_e5m2"):
        with rounded_attention(model, name):
            rounded = model(**inputs).logits
            alone = {k: v[1:2] for k, v in inputs.items() if k not in ("pixel_values", "image_grid_thw")}
            alone |= {"pixel_values": inputs["pixel_values"][16:32], "image_grid_thw": inputs["image_grid_thw"][1:2]}
            assert torch.allclose(model(**alone).logits[0], rounded[1], atol=1e-5)
        errors[name] = float((rounded[kept] - plain).square().mean())
    assert 0 < errors["int8"] < errors["fp8_e4m3"] < errors["fp8_e5m2"]
    with pytest.raises(EdgelibError, match="bf16 is no low precision"), rounded_attention(model, "bf16"):
        pass


def test_the_instruments_of_a_channel_are_those_of_brute_force(qwen):
    model, inputs, statistics = qwen
    plan = kv_cache(model, "int8-p80-vonly", statistics)
    rows = kv_health(model, plan, [inputs]).channels
    cache = kv_cache(model, "fp32")()
    model(**inputs, past_key_values=cache, use_cache=True)
    values = cache.layers[1].sides[1].read(cache.context).transpose(1, 2)[inputs["input_ids"] == IMAGE]
    scale = plan.scale(1, "v")
    rounded = FORMATS["int8"].round_static(values, scale)
    beyond = values.abs() > 127 * scale
    assert beyond.any() and not beyond.all()
    own = rows.query("layer == 1 and part == 'v' and modality == 'image'").reset_index()
    flat = values.flatten(1)
    assert own.amplitude.to_numpy() == pytest.approx(flat.abs().amax(0).numpy(), rel=1e-5)
    assert own.saturation.to_numpy() == pytest.approx(beyond.flatten(1).float().mean(0).numpy(), abs=1e-6)
    assert own.spread.to_numpy() == pytest.approx(flat.std(0, correction=0).numpy(), rel=1e-3)
    error = (rounded - values).masked_fill(beyond, 0).flatten(1).double()
    step = (12 * error.square().sum(0) / (~beyond).flatten(1).sum(0).clamp(min=1)).sqrt()
    assert own.step.to_numpy() == pytest.approx(step.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("option", "exact"), [("image16", "image"), ("text16", "text")])
def test_tokens_that_are_not_rounded_do_not_saturate(qwen, option, exact):
    model, inputs, statistics = qwen
    rows = kv_health(model, kv_cache(model, f"int8-p80-{option}", statistics), [inputs]).channels
    saturated = rows.groupby("modality").saturation.max()
    assert saturated.pop(exact) == 0 and saturated.item() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("names", [("input_ids",), ("input_ids", "attention_mask")], ids=["no mask", "mask"])
def test_health_on_a_gpu_is_that_on_the_cpu(names):
    model = llama()
    inputs = {name: prompts(model)[name] for name in names}
    here = kv_health(model, kv_cache(model, "int8-token"), [inputs])
    model, inputs = model.cuda(), {name: x.cuda() for name, x in inputs.items()}
    there = kv_health(model, kv_cache(model, "int8-token"), [inputs])
    assert there.channels.amplitude.to_numpy() == pytest.approx(here.channels.amplitude.to_numpy(), rel=1e-3)
    assert there.layers.gain.to_numpy() == pytest.approx(here.layers.gain.to_numpy(), rel=1e-3)


@pytest.mark.parametrize("instrument", [kv_health, kv_drift])
def test_instruments_need_a_prompt(qwen, instrument):
    with pytest.raises(EdgelibError, match="the data set is empty"):
        instrument(qwen[0], kv_cache(qwen[0], "fp32"), [])


def test_exact_caches_are_in_perfect_health(qwen):
    model, inputs, _ = qwen
    health = kv_health(model, kv_cache(model, "fp32"), [inputs])
    assert (health.channels[["saturation", "step", "resolution"]] == 0).all(axis=None)
    assert health.layers.gain.to_numpy() == pytest.approx(1) and health.layers.logit_error.max() == 0
    drift = kv_drift(model, kv_cache(model, "fp32"), [inputs])
    assert drift.kl.max() < 1e-6 and not drift.flip.any() and set(drift["item"]) == {0, 1, 2}


def test_a_constant_in_every_key_is_no_error_of_the_logits():
    model = llama()
    inputs = prompts(model)
    health = {}
    for strength in (1.0, 300.0):
        twin = copy.deepcopy(model)
        plant_in_decoder(twin, "key", strength, 0)
        plan = kv_cache(twin, "e4m3-channel", calibrate_kv(twin, [inputs]))
        health[strength] = kv_health(twin, plan, [inputs]).layers
    # scales per channel take a planted outlier away again
    assert health[1.0].logit_error.to_numpy() == pytest.approx(health[300.0].logit_error, rel=0.05, nan_ok=True)


def test_error_does_not_grow_with_what_is_decoded(qwen):
    model, inputs, _ = qwen
    drift = kv_drift(model, kv_cache(model, "int8-token"), [inputs], steps=40)
    by_step = drift.groupby("step").kl.mean()
    assert by_step.iloc[-10:].mean() < 5 * by_step.iloc[:10].mean() + 1e-6


PATIENTS = {
    "healthy": ("e4m3-amax", None, None, "healthy"),
    "not delivered": ("e4m3-undelivered", None, None, "delivery"),
    "beyond the range": ("e4m3-one", "key", 30000.0, "range"),
    "too coarse": ("int4-amax", "key", 3000.0, "resolution"),
}


@pytest.mark.parametrize("case", PATIENTS)
def test_the_doctor_finds_what_was_done(case):
    scheme, kind, strength, cause = PATIENTS[case]
    model = qwen2_vl()
    for layer in model.model.language_model.layers:  # attention that decides what is said
        layer.self_attn.q_proj.weight.data *= 30
        layer.self_attn.o_proj.weight.data *= 30
    if kind is not None:
        plant_in_decoder(model, kind, strength, 0)
    inputs = [prompts(model, (9, 12, 7, 10), seed=seed) for seed in range(2)]
    found = doctor(model, scheme, inputs, calibrate_kv(model, inputs), flips=0.2, kl=0.0028)
    assert found.cause == cause, found.line
    assert found.trials.scheme.iloc[0] == found.line.split()[0]
    if cause == "healthy":
        assert found.remedy is None and "is healthy" in found.line
    else:
        assert found.part == "k" or cause == "delivery"
        assert found.remedy is not None and f"{found.remedy} mends it" in found.line
        last = found.trials.iloc[-1]
        assert last.scheme == found.remedy and last.flips <= 0.2 and last.kl <= 0.0028


def test_the_doctor_says_when_nothing_helps(qwen):
    model, inputs, statistics = qwen
    found = doctor(model, "int4-amax", [inputs], statistics, remedies=["int4-head"], flips=0, kl=0)
    assert found.remedy is None and found.line.endswith("none of 1 remedies mends it")
