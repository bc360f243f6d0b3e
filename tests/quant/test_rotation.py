"""Rotations folded into decoders: the function stays, outliers go, and what cannot be folded is refused."""

from __future__ import annotations

import kv_models
import pytest
import torch
from networks import Block, inputs
from transformers import Gemma2Config, Gemma2ForCausalLM

from edgelib import load
from edgelib.errors import EdgelibError
from edgelib.observe.calibrate import calibrate
from edgelib.quant.mixed import quantize_mixed
from edgelib.quant.quantize import quantize
from edgelib.quant.rotation.decoder import rotated
from edgelib.quant.scheme import calibration_of, scheme

DECODERS = {
    "llama": kv_models.llama,
    "tied": lambda: kv_models.llama(tie_word_embeddings=True),
    "biased": lambda: kv_models.llama(attention_bias=True, mlp_bias=True),
    "mistral": kv_models.mistral,
    "no Hadamard": lambda: kv_models.llama(hidden_size=60, head_dim=10),
}


def ids(n: int = 4, seed: int = 0):
    return torch.randint(1, 50, (n, 12), generator=torch.Generator().manual_seed(seed))


def with_outlier(model):
    """One channel of every norm's output thirty times as large, and random weights of norms."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(len(name)))
            parameter.data[5] *= 30
    return model


@pytest.mark.parametrize("name", DECODERS)
def test_the_function_stays(name):
    model = with_outlier(DECODERS[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = rotated(model)
    expected, found = (m(input_ids=ids()).logits for m in (model, made))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert made.lm_head.weight is not made.model.embed_tokens.weight and not made.config.tie_word_embeddings
    assert all((p == 1).all() for n, p in made.named_parameters() if "norm" in n)


def test_generation_with_a_cache_stays():
    model = with_outlier(kv_models.llama())
    tokens = [m.generate(input_ids=ids(), max_new_tokens=6, do_sample=False) for m in (model, rotated(model))]
    assert torch.equal(*tokens)


def test_outliers_of_the_stream_are_gone():
    model = with_outlier(kv_models.llama())

    def peaks(network):
        seen = calibrate(network, [{"input_ids": ids(8)}]).layers["model.layers.1.self_attn.q_proj"].abs_max
        return float(seen.max() / seen.median())

    assert peaks(rotated(model)) < 3 < 10 < peaks(model)


def test_a_model_that_reads_images_gives_the_same_scores_on_them():
    """`rotated` itself compares the scores of a probe with an image; here its parts are the ones that were turned."""
    model = load("scenes-vlm")
    made = rotated(model)
    assert not torch.equal(made.model.visual.merger.mlp[2].weight, model.module.model.visual.merger.mlp[2].weight)
    assert torch.equal(made.model.visual.blocks[0].attn.qkv.weight, model.module.model.visual.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("spec", ["w8a8-minmax", "w8a8-minmax-static", "w4a16-gptq-channel", "w3a16-gptaq-channel"])
def test_methods_gain_from_it_where_channels_stand_out(spec):
    model, data = with_outlier(kv_models.llama()), [{"input_ids": ids(16)}]
    with torch.no_grad():
        true = model(input_ids=ids(8, 1)).logits
        lost = [
            float((quantize(model, name, data)(input_ids=ids(8, 1)).logits - true).square().mean())
            for name in (spec, f"{spec}-rotated")
        ]
    assert lost[1] < lost[0]


def test_the_scheme_rounds_the_rotated_network():
    model = kv_models.llama()
    made = quantize(model, "w4a8-minmax-rotated")
    expected = quantize(rotated(model), "w4a8-minmax")
    assert all(
        torch.equal(a, b) for a, b in zip(made.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    assert scheme("w4a8-minmax-rotated").label == "W4A8 min-max, rotated"


def test_statistics_of_the_model_as_it_is_do_not_help():
    model, data = kv_models.llama(), [{"input_ids": ids()}]
    statistics = calibrate(model, data, needs=["hessian"])
    assert calibration_of("w4a16-gptq-rotated", statistics, data) is data
    assert calibration_of("w4a8-minmax-rotated", statistics, data) is statistics
    quantize(model, "w4a8-minmax-rotated", statistics)  # which it does not look at
    with pytest.raises(EdgelibError, match="rounded in part or rotated.*pass the calibration set itself"):
        quantize(model, "w4a16-gptq-channel-rotated", statistics)


def refused():
    gemma = dict(kv_models.TEXT, head_dim=16, tie_word_embeddings=False)
    strange = with_outlier(kv_models.llama())
    strange.model.layers[1].post_attention_layernorm.register_forward_hook(lambda _, args, out: out + args[0])
    return {
        "no decoder": (Block(), "no decoder of transformers"),
        "other embedding": (
            Gemma2ForCausalLM(Gemma2Config(**gemma)).eval(),
            "its embedding or its head is no",
        ),
        "images unseen": (kv_models.qwen2_vl(), "only a loaded model can show"),
        "a reader unknown": (strange, "its scores would change by"),
    }


@pytest.mark.parametrize("kind", refused())
def test_what_cannot_be_folded_is_refused_with_the_reason(kind):
    model, why = refused()[kind]
    with pytest.raises(EdgelibError, match=f"rotations cannot be folded.*{why}.*leave -rotated out"):
        rotated(model)


def test_casts_mixes_and_single_layers_take_no_rotation():
    with pytest.raises(EdgelibError, match="means nothing in scheme"):
        scheme("bf16-rotated")
    with pytest.raises(EdgelibError, match="which is not rotated"):
        scheme("gguf-q4_k_m-rotated")
    with pytest.raises(EdgelibError, match="acts on more than the layer"):
        quantize_mixed(Block(), {"q": "w4a8-minmax-rotated"}, [inputs(2)])
