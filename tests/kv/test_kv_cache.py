"""Laws of quantized caches on tiny decoders of several families."""

from __future__ import annotations

import gc

import pytest
import torch
from kv_models import FAMILIES, IMAGE, VISION, llama, mistral, prompts, qwen2_vl, qwen3_vl, rows_of

from edgelib.errors import EdgelibError
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv

SCHEMES = (
    "e4m3-amax",
    "e5m2-head",
    "int8-channel-mean",
    "int8-tokenmean",
    "int4-token-g8",
    "int4-kivi-r3",
    "nvfp4",
    "e4m3-bias",
    "e4m3-amax-image16",
    "int8-token-text16-konly",
    "e4m3-p99-layers1",
)
NEW = 6


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def family(request):
    model = FAMILIES[request.param]()
    return model, calibrate_kv(model, [prompts(model, seed=5)])


@pytest.fixture(scope="module")
def qwen():
    model = qwen2_vl()
    return model, calibrate_kv(model, [prompts(model, seed=5)])


def written(model, inputs, cache, n=NEW, **options):
    """Scores of n new tokens [n, B, vocabulary] and the tokens."""
    out = model.generate(
        **inputs,
        past_key_values=cache,
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return torch.stack(out.logits), out.sequences[:, -n:]


def test_the_models_own_dtype_is_the_baseline(family):
    model, _ = family
    inputs = prompts(model)
    expected, tokens = written(model, inputs, None, n=24)
    found, own = written(model, inputs, kv_cache(model, "fp32")(), n=24)
    assert torch.equal(found, expected) and torch.equal(own, tokens)


def test_sixteen_bits_are_the_baseline_of_a_16_bit_model():
    model = qwen2_vl().bfloat16()
    inputs = prompts(model)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert torch.equal(written(model, inputs, kv_cache(model, "bf16")())[0], written(model, inputs, None)[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_do_not_see_each_other(qwen, scheme):
    model, statistics = qwen
    plan, inputs = kv_cache(model, scheme, statistics), prompts(model)
    whole, tokens = written(model, inputs, plan())
    swapped, _ = written(model, rows_of(inputs, [2, 0, 1]), plan())
    assert torch.allclose(swapped, whole[:, [2, 0, 1]], atol=1e-5)
    for row in range(3):
        kept = inputs["attention_mask"][row].bool()
        alone = rows_of(inputs, [row])
        alone |= {k: alone[k][:, kept] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
        assert torch.allclose(written(model, alone, plan())[0][:, 0], whole[:, row], atol=1e-5), row


def forward(model, inputs, cache, pieces):
    """Scores of a text fed in pieces."""
    ids, mask, scores, start = inputs["input_ids"], inputs["attention_mask"], [], 0
    for n in pieces:
        stop = start + n
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, start:stop]
        out = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        scores.append(out.logits)
        start = stop
    return torch.cat(scores, 1)


@pytest.mark.parametrize("scheme", ["e4m3-amax", "int8-channel-mean", "int4-token", "nvfp4", "e4m3-bias"])
@pytest.mark.parametrize("make", [qwen2_vl, mistral], ids=["qwen2-vl", "mistral"])
def test_a_text_in_pieces_gives_the_scores_of_the_whole(make, scheme):
    model = make()
    if scheme == "e4m3-bias" and make is mistral:
        pytest.skip("its keys have no bias")
    statistics = calibrate_kv(model, [prompts(model, (30, 24), image=False)], text_only=True)
    plan, inputs = kv_cache(model, scheme, statistics), prompts(model, (30, 24), image=False)
    whole = forward(model, inputs, plan(), [30])
    for pieces in ([1] * 30, [10, 1, 1, 18], [29, 1]):
        seen = inputs["attention_mask"].bool()
        assert torch.allclose(forward(model, inputs, plan(), pieces)[seen], whole[seen], atol=1e-4), pieces


@pytest.mark.parametrize("scheme", ["e4m3-amax", "int4-token", "nvfp4", "e4m3-amax-image16", "int8-tokenmean"])
def test_codes_never_change_once_written(qwen, scheme):
    model, statistics = qwen
    cache = kv_cache(model, scheme, statistics)()
    seen = []

    def note(module, args, kwargs, output):
        seen.append([side.read(cache.context) for layer in cache.layers for side in layer.sides])

    hook = model.register_forward_hook(note, with_kwargs=True)
    written(model, prompts(model), cache, n=12)
    hook.remove()
    for earlier, later in zip(seen, seen[1:], strict=False):
        for a, b in zip(earlier, later, strict=True):
            assert torch.equal(b[..., : a.shape[-2], :], a)


def test_kivi_rounds_a_token_once_when_it_leaves_the_window(qwen):
    model, _ = qwen
    cache = kv_cache(model, "int4-kivi-r4")()
    exact = kv_cache(model, "fp32")()
    inputs = prompts(model, (40, 33), image=False)
    forward(model, inputs, cache, [40])
    forward(model, inputs, exact, [40])
    side, reference = cache.layers[0].sides[0], exact.layers[0].sides[0]
    found, expected = side.read(cache.context), reference.read(exact.context)
    assert torch.equal(found[..., -4:, :], expected[..., -4:, :])
    assert not torch.equal(found[..., :-4, :], expected[..., :-4, :])
    assert side.store.recent.length == 4 and side.length == 40


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("scheme", ["fp32", "int8-channel", "int4-kivi-r2", "nvfp4"])
def test_a_sliding_window_holds_no_more_than_it_shows(window, scheme):
    model = mistral(window)
    statistics = calibrate_kv(model, [prompts(model)])
    cache = kv_cache(model, scheme, statistics)()
    scores, _ = written(model, prompts(model, (20, 15)), cache, n=20)
    assert [side.length for layer in cache.layers for side in layer.sides] == [window - 1] * 4
    if scheme == "fp32":
        assert torch.equal(scores, written(model, prompts(model, (20, 15)), None, n=20)[0])


@pytest.mark.parametrize("scheme", ["fp32", *SCHEMES])
def test_beams_follow_their_rows(qwen, scheme):
    model, statistics = qwen
    plan, inputs = kv_cache(model, scheme, statistics), prompts(model)
    beams = dict(num_beams=3, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW)
    found = model.generate(**inputs, past_key_values=plan(), **beams)
    if scheme == "fp32":
        assert torch.equal(found, model.generate(**inputs, **beams))
    cache = plan()
    written(model, inputs, cache, n=3)
    before = [side.read(cache.context) for layer in cache.layers for side in layer.sides]
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    after = [side.read(cache.context) for layer in cache.layers for side in layer.sides]
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a[[2, 2, 0]], b, atol=1e-6)


@pytest.mark.parametrize(
    "scheme", ["bf16", "e4m3-amax", "e5m2", "int8-head", "int8-token", "int4-channel-mean", "int4-token-g8", "nvfp4"]
)
def test_memory_is_that_of_the_format(family, scheme):
    model, statistics = family
    plan = kv_cache(model, scheme, statistics)
    cache = plan()
    inputs = prompts(model)
    written(model, inputs, cache)
    tokens = cache.layers[0].sides[0].length
    assert cache.nbytes == pytest.approx(3 * tokens * plan.bytes_per_token, rel=1e-9)
    head = plan.decoder.kv_heads * plan.decoder.head_dim * 2 * 2
    assert plan.bytes_per_token == head * plan.scheme.bits_per_element(16) / 8


def test_memory_of_chosen_tokens_is_that_of_both_parts(qwen):
    model, statistics = qwen
    inputs, cache = prompts(model), kv_cache(model, "e4m3-amax-image16", statistics)()
    written(model, inputs, cache)
    table = 4 * 4 * 3 * cache.get_seq_length()
    image = int((inputs["input_ids"] == IMAGE).sum())
    rounded = 3 * cache.get_seq_length() - image
    assert cache.nbytes == table + 128 * rounded + 512 * image


@pytest.mark.parametrize(
    ("scheme", "exact"),
    [("int8-konly", "v"), ("int8-vonly", "k"), ("int8-layers0", 1), ("int8-image16", "image"), ("int8-text16", "text")],
)
def test_what_a_scheme_leaves_out_is_exact(qwen, scheme, exact):
    model, statistics = qwen
    inputs = prompts(model)
    rounded, plain = kv_cache(model, scheme, statistics)(), kv_cache(model, "fp32")()
    for cache in (rounded, plain):
        model(**inputs, past_key_values=cache, use_cache=True)
    image = inputs["input_ids"] == IMAGE
    # layer 0 alone: what the second layer is given has gone through the first
    for part, a, b in zip("kv", rounded.layers[0].sides, plain.layers[0].sides, strict=True):
        found, states = a.read(rounded.context).transpose(1, 2), b.read(plain.context).transpose(1, 2)
        kept = {"image": image, "text": ~image}.get(exact, torch.full_like(image, exact == part))
        assert torch.equal(found[kept], states[kept])
        assert kept.all() or not torch.equal(found[~kept], states[~kept])
    if exact == 1:
        assert type(rounded.layers[1].sides[0].store.codec).__name__ == "Exact"


def test_an_unrounded_prompt_reads_itself_exactly(qwen):
    model, statistics = qwen
    inputs = prompts(model)
    found, _ = written(model, inputs, kv_cache(model, "int4-amax-exactprefill", statistics)())
    expected, _ = written(model, inputs, None)
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[1], expected[1])


def test_the_rotated_bias_is_what_the_bias_adds_to_the_keys(qwen):
    model, _ = qwen
    inputs = prompts(model)
    kept = [a.self_attn.k_proj.bias.data.clone() for a in model.model.language_model.layers]
    with_bias, without = kv_cache(model, "fp32")(), kv_cache(model, "fp32")()
    split = kv_cache(model, "e4m3-bias", calibrate_kv(model, [inputs]))()
    for cache in (with_bias, split):
        model(**inputs, past_key_values=cache, use_cache=True)
    model.model.language_model.layers[0].self_attn.k_proj.bias.data.zero_()
    model(**inputs, past_key_values=without, use_cache=True)
    for layer, bias in zip(model.model.language_model.layers, kept, strict=True):
        layer.self_attn.k_proj.bias.data.copy_(bias)
    difference = with_bias.layers[0].sides[0].read(with_bias.context) - without.layers[0].sides[0].read(None)
    rotated = split.layers[0].sides[0].offset_of(difference.shape[-2], difference, split.context)
    assert torch.allclose(rotated, difference, atol=1e-5)


def test_hooks_go_with_the_cache(qwen):
    model, statistics = qwen
    before = len(model._forward_pre_hooks), len(model.model.language_model.rotary_emb._forward_hooks)
    cache = kv_cache(model, "e4m3-bias", statistics)()
    written(model, prompts(model), cache)
    del cache
    gc.collect()
    assert (len(model._forward_pre_hooks), len(model.model.language_model.rotary_emb._forward_hooks)) == before


def test_two_caches_of_a_model_do_not_mix(qwen):
    model, statistics = qwen
    plan, inputs = kv_cache(model, "e4m3-bias", statistics), prompts(model, (8, 6), image=False)
    alone = forward(model, inputs, plan(), [8])
    first, second = plan(), plan()
    part = rows_of(inputs, [1, 0])
    forward(model, inputs | {"input_ids": inputs["input_ids"][:, :4]}, first, [4])
    forward(model, part, second, [8])
    position = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)[:, 4:]
    out = model(
        input_ids=inputs["input_ids"][:, 4:],
        attention_mask=inputs["attention_mask"],
        position_ids=position,
        past_key_values=first,
    )
    assert torch.allclose(out.logits, alone[:, 4:], atol=1e-5)


def test_a_cache_is_for_one_batch(qwen):
    model, statistics = qwen
    cache = kv_cache(model, "e4m3-amax", statistics)()
    model(**prompts(model), past_key_values=cache, use_cache=True)
    with pytest.raises(EdgelibError, match="tokens of another batch"):
        model(**prompts(model), past_key_values=cache, use_cache=True)
    with pytest.raises(EdgelibError, match="holds a batch of 3 and is given one of 2"):
        cache.layers[0].update(*torch.zeros(2, 2, 2, 1, 16))
    with pytest.raises(EdgelibError, match="cannot be rolled back"):
        cache.crop(-1)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.nbytes == 0


def test_states_that_are_no_numbers_are_refused(qwen):
    model, statistics = qwen
    cache = kv_cache(model, "e4m3-amax", statistics)()
    with pytest.raises(EdgelibError, match="the values of layer 0 hold NaN"):
        cache.layers[0].update(torch.zeros(1, 2, 1, 16), torch.full((1, 2, 1, 16), torch.nan))


@pytest.mark.parametrize("name", ["e4m3-one", "int4-token", "e5m2-amax"])
def test_saturating_states_never_become_nan(qwen, name):
    model, statistics = qwen
    cache = kv_cache(model, name, statistics)()
    huge = torch.full((1, 2, 3, 16), 1e30)
    huge[..., 1::2] = -1e30
    for states in cache.layers[0].update(huge, huge.clone()):
        assert states.isfinite().all()


def test_a_model_that_has_no_cache_is_refused():
    with pytest.raises(EdgelibError, match="Linear has no key-value cache"):
        kv_cache(torch.nn.Linear(2, 2), "e4m3-one")
    with pytest.raises(EdgelibError, match="expected a loaded model"):
        kv_cache("qwen", "e4m3-one")


@pytest.mark.parametrize(
    ("make", "scheme", "match"),
    [
        (qwen2_vl, "e4m3-amax", "needs statistics"),
        (qwen2_vl, "e4m3-one-layers2", "names layer 2; the last one is 1"),
        (llama, "e4m3-one-bias", "no bias to split off"),
        (qwen3_vl, "e4m3-one-bias", "no bias to split off"),
        (llama, "e4m3-one-image16", "has no image tokens"),
        (qwen2_vl, "int8-token-g5", "do not divide"),
    ],
)
def test_schemes_that_do_not_fit_the_model_are_refused(make, scheme, match):
    with pytest.raises(EdgelibError, match=match):
        kv_cache(make(), scheme)


def test_the_families_see_images():
    for make in VISION.values():
        assert kv_cache(make(), "fp32").decoder.image_tokens[0] == IMAGE
