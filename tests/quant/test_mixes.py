"""Mixes of GGUF types: llama.cpp's rules as tables written by hand, and what quantizing a model by one does."""

from __future__ import annotations

import pytest
import torch
from gguf import LlamaFileType
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import edgelib
from edgelib.data.calibration import calibration_set
from edgelib.errors import EdgelibError
from edgelib.formats.gguf.codec import KINDS, fallback, gguf_decode, gguf_encode
from edgelib.formats.gguf.rules import MIXES, Place, more_bits, type_of
from edgelib.quant.mixes.places import layer_of, role_of
from edgelib.quant.mixes.report import mix_report
from edgelib.quant.mixes.stacked import Stacked
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import scheme

# Files of a 28-layer decoder with 6 query heads a value head, rows that 256 divides: role -> type, or types of layers.
LIFTED = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]
WIDE = {
    "q4_k_m": dict(attn_q="q4_k", attn_v=("q4_k", LIFTED, "q6_k"), ffn_down=("q4_k", LIFTED, "q6_k"), output="q6_k"),
    "q4_k_s": dict(attn_v=("q4_k", range(4), "q5_k"), ffn_down=("q4_k", range(3), "q5_k"), attn_output="q4_k"),
    "q5_k_m": dict(attn_v=("q5_k", LIFTED, "q6_k"), ffn_down=("q5_k", LIFTED, "q6_k"), token_embd="q5_k"),
    "q5_k_s": dict(attn_v="q5_k", ffn_down="q5_k", output="q6_k"),
    "q6_k": dict(attn_v="q6_k", output="q6_k", token_embd="q6_k"),
    "q8_0": dict(attn_v="q8_0", output="q8_0", ffn_down="q8_0"),
    "q4_0": dict(attn_v="q4_0", ffn_down="q4_0", output="q6_k", token_embd="q4_0"),
    "iq4_xs": dict(attn_v="q5_k", ffn_down=("iq4_xs", range(3), "q5_k"), attn_k="iq4_xs", output="q6_k"),
    "q2_k": dict(attn_v="q4_k", ffn_down="q3_k", attn_output="q3_k", ffn_up="q2_k", output="q6_k"),
    "q3_k_m": dict(attn_v=("q4_k", [0, 1], "q5_k"), ffn_down=("q4_k", [0], "q5_k"), attn_output="q4_k", attn_k="q3_k"),
    "q3_k_l": dict(attn_v="q5_k", ffn_down="q5_k", attn_output="q5_k", ffn_gate="q3_k"),
    "f16": dict(attn_v="f16", ffn_down="f16", output="f16", token_embd="f16"),
}


def place(role: str, layer: int = 0, **other) -> Place:
    return Place(role, layer, **{"layers": 28, "values": 28, "shared": 6} | other)


@pytest.mark.parametrize("mix,role", [(mix, role) for mix, roles in WIDE.items() for role in roles])
def test_each_role_gets_the_type_of_the_table(mix, role):
    rule = WIDE[mix][role]
    usual, layers, other = rule if isinstance(rule, tuple) else (rule, (), "")
    expected = [other if layer in layers else usual for layer in range(28)]
    assert [type_of(mix, place(role, layer), 2048) for layer in range(28)] == expected


# tensor_type_fallback of llama.cpp's src/llama-quant.cpp, read at its commit 007dbbf: what takes a type's place in rows
# that its block does not divide; those of 32 have none there (the tool stops), and what 32 does not divide is F16.
FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}


@pytest.mark.parametrize("type", KINDS)
def test_a_type_falls_back_as_the_source_says(type):
    assert fallback(KINDS[type], 576) == FALLBACK.get(type, "f16")
    assert fallback(KINDS[type], 4304) == "f16"
    assert (KINDS[type].block == 256) == (type in FALLBACK)


@pytest.mark.parametrize("mix", MIXES)
def test_the_number_of_a_mix_is_that_of_the_file_format(mix):
    """llama_ftype, as llama.cpp's own Python package has it; llama_ftype_get_default_type drops _S, _M and _L."""
    base, number = MIXES[mix]
    assert LlamaFileType(number).name == f"MOSTLY_{mix.upper()}"
    assert base == "_".join(word for word in mix.split("_") if word not in ("s", "m", "l"))


# a row that 256 does not divide, and one that 32 does not
@pytest.mark.parametrize(
    "mix,role,of_576,of_4304",
    [
        ("q4_k_m", "attn_q", "q5_0", "f16"),
        ("q4_k_m", "attn_v", "q8_0", "f16"),
        ("q4_k_m", "output", "q8_0", "f16"),
        ("q5_k_m", "attn_q", "q5_1", "f16"),
        ("q6_k", "attn_q", "q8_0", "f16"),
        ("q2_k", "ffn_up", "q4_0", "f16"),
        ("q3_k_m", "attn_q", "q4_0", "f16"),
        ("iq4_xs", "attn_q", "iq4_nl", "f16"),
        ("q8_0", "attn_q", "q8_0", "f16"),
        ("q4_0", "output", "q6_k->q8_0", "f16"),
        ("f16", "attn_q", "f16", "f16"),
    ],
)
def test_rows_that_blocks_do_not_divide_fall_back(mix, role, of_576, of_4304):
    assert type_of(mix, place(role), 576) == of_576.split("->")[-1]
    assert type_of(mix, place(role), 4304) == of_4304


def test_importance_and_shared_heads_change_a_few_choices():
    assert type_of("q4_0", place("ffn_down", 1), 2048, importance=True) == "q4_1"
    assert type_of("q4_0", place("ffn_down", 9), 2048, importance=True) == "q4_0"
    assert type_of("iq4_xs", place("ffn_down", 1), 2048, importance=True) == "iq4_xs"
    assert type_of("iq4_xs", place("attn_v", shared=2), 2048) == "iq4_xs"
    assert type_of("q2_k", place("attn_v", shared=2), 2048) == "q3_k"
    assert type_of("q4_k_m", place("token_embd", tied=True), 2048) == "q6_k"


def test_values_of_a_70b_have_5_bits_at_least():
    large = dict(layers=80, values=80, shared=8, large=True)
    for mix in ("q4_k_m", "q3_k_s", "q2_k", "q5_k_s", "iq4_xs"):
        assert type_of(mix, place("attn_v", 20, **large), 8192) == "q5_k"
    assert type_of("q4_k_m", place("attn_v", 12, **large), 8192) == "q6_k"
    assert type_of("q4_k_m", place("attn_k", 20, **large), 8192) == "q4_k"


@pytest.mark.parametrize(
    "config,layers,heads,large",
    [(LlamaConfig, 80, 1, True), (LlamaConfig, 80, 2, False), (LlamaConfig, 79, 1, False), (Qwen2Config, 80, 2, True)],
)
def test_a_decoder_of_80_layers_is_a_70b(config, layers, heads, large):
    """LLM_TYPE_70B: a Llama of 80 layers unless no heads are shared (65B), and every Qwen2 of 80 layers."""
    sizes = dict(hidden_size=256, intermediate_size=256, vocab_size=8, num_attention_heads=2)
    with torch.device("meta"):
        made = config(num_hidden_layers=layers, num_key_value_heads=heads, **sizes)
        model = AutoModelForCausalLM.from_config(made)
    report = mix_report(model, "gguf-q4_k_s").set_index("tensor")
    assert (report.loc["model.layers.40.self_attn.v_proj", "type"] == "q5_k") == large


def test_a_tower_without_a_number_of_blocks_counts_every_layer_as_one_of_the_last():
    assert all(more_bits(layer, 0) for layer in range(27))
    assert type_of("q4_k_m", place("ffn_down", 3, layers=0), 2048) == "q6_k"
    assert type_of("q4_k_s", place("ffn_down", 0, layers=0), 2048) == "q4_k"


def test_roles_and_layers_are_read_from_names():
    assert role_of("model.layers.10.mlp.down_proj") == "ffn_down" and layer_of("model.layers.10.mlp.down_proj") == 10
    assert (
        role_of("transformer.h.1.mlp.c_proj") == "ffn_down" and role_of("transformer.h.1.attn.c_proj") == "attn_output"
    )
    assert role_of("visual.merger.mlp.0") == "other" and role_of("lm_head") == "output"


def types(report, **where) -> set:
    for key, value in where.items():
        report = report[report[key] == value]
    return set(report["type"])


def test_a_decoder_of_576_holds_no_4_bit_type_beside_its_down_projections():
    """SmolLM2-135M: what its public Q4_K_M file lists."""
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    report = mix_report(model, "gguf-q4_k_m")
    assert types(report, role="attn_q") == types(report, role="ffn_up") == {"q5_0"}
    assert types(report, role="attn_v") == {"q5_0", "q8_0"} and types(report, role="ffn_down") == {"q4_k", "q6_k"}
    assert types(report, role="token_embd") == types(report, role="output") == {"q8_0"}
    assert (report["type"] == "q5_0").sum() == 30 * 5 + 16  # q, k, o, gate, up, and the values that stay
    assert set(report[report["type"] == "q5_0"]["why"]) == {"rows of 576"}


def test_a_tower_of_1152_and_4304_keeps_16_bits_in_half_of_its_mlp():
    with torch.device("meta"):
        model = SiglipVisionModel(SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=12))
    report = mix_report(model, "gguf-q4_k_m")
    assert types(report, role="ffn_down") == {"f16"} and types(report, role="ffn_up") == {"q5_0"}
    assert set(report["tower"]) == {"vision"}
    # llama.cpp meets layers of a tower in the order of their names: 0 1 10 11 2 3 ..., and lifts the 1st, 4th, ...
    values = report[(report["role"] == "attn_v") & (report["type"] == "q8_0")]["layer"]
    assert sorted(values) == [0, 4, 7, 8, 9, 11]
    assert len(report[report["role"] == "attn_v"]) == 12


def vlm(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config=dict(
            hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=64, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
        ),
        vision_config=dict(depth=3, embed_dim=256, hidden_size=256, num_heads=4, patch_size=8, mlp_ratio=2),
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config).eval()


def test_quantizing_by_a_mix_rounds_each_tensor_to_its_type():
    model = vlm()
    copy = quantize(model, "gguf-q4_k_m")
    for row in mix_report(model, "gguf-q4_k_m").itertuples():
        name, _, part = row.tensor.partition(".qkv.")
        name = f"{name}.qkv" if part else name
        before, after = (m.get_submodule(name) for m in (model, copy))
        weight = before.weight.detach()
        if part:
            weight, after = weight.split(row.rows)["qkv".index(part)], getattr(after, part)
        assert torch.equal(after.weight, gguf_decode(gguf_encode(weight, row.type), row.type, row.columns)), row.tensor
    assert torch.equal(model.model.language_model.norm.weight, copy.model.language_model.norm.weight)
    assert torch.equal(model.model.visual.patch_embed.proj.weight, copy.model.visual.patch_embed.proj.weight)


def test_a_fused_layer_with_rows_of_several_types_computes_them_all():
    model = vlm()
    copy = quantize(model, "gguf-q4_k_m")
    layer = copy.model.visual.blocks[2].attn.qkv
    assert isinstance(layer, Stacked) and layer.v.format.name == "q6_k" and layer.q.format.name == "q4_k"
    x = torch.randn(5, 256)
    parts = [x.half().float() @ part.weight.T + part.bias for part in (layer.q, layer.k, layer.v)]
    assert torch.allclose(layer(x), torch.cat(parts, -1), atol=1e-5)
    assert layer.out_features == 768 and layer.in_features == 256
    with pytest.raises(EdgelibError, match="rows of several types in gguf-q4_k_m.*save_gguf"):
        edgelib.packed_size(model, "gguf-q4_k_m")
    with pytest.raises(EdgelibError, match="rows of several types in its mix.*save_gguf"):
        edgelib.packed_size(copy)


def test_the_embedded_decoder_reports_packs_and_weighs_by_a_mix(tmp_path):
    model = edgelib.load("scenes-vlm")
    quantized = edgelib.quantize(model, "gguf-q4_k_m-imatrix", calibration_set("text-only", 4, source="scenes-vqa"))
    report = edgelib.quantization_report(quantized)
    assert set(report["method"]) == {"imatrix", "minmax"} and "lm_head" in set(report["layer"])
    assert report.set_index("layer").loc["lm_head", "method"] == "minmax"
    folder = edgelib.save_packed(quantized, tmp_path / "packed")
    again = edgelib.load_packed(folder)
    for (name, one), two in zip(quantized.module.state_dict().items(), again.module.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_mix_names_the_tower_too():
    model = edgelib.load("scenes-vlm")
    assert "vision" not in set(mix_report(model, "gguf-q4_k_m")["tower"])
    assert types(mix_report(model, "gguf-q4_k_m+q8_0"), tower="vision") == {"q8_0"}
    assert types(mix_report(model, "gguf-q4_k_m+f16"), tower="vision") == {"f16"}
    assert types(mix_report(model, "gguf-q8_0-vision"), tower="vision") == {"q8_0"}


@pytest.mark.parametrize("mix", MIXES)
def test_names_lead_to_their_scheme_and_back(mix):
    for name in (f"gguf-{mix}", f"gguf-{mix}-imatrix", f"gguf-{mix}+q8_0", f"gguf-{mix}-vision"):
        assert scheme(name).name == name
    assert scheme(f"GGUF-{mix.upper()}").name == f"gguf-{mix}"


@pytest.mark.parametrize(
    "name,words",
    [
        ("Q4_K_M", "called gguf-q4_k_m"),
        ("gguf-q4_k_l", "unknown scheme 'gguf-q4_k_l'.*gguf-<name of a file"),
        ("gguf-q4_k_m-gptq", "minmax or imatrix, not by gptq"),
        ("gguf-q4_k_m-g32", "blocks of 256 by definition, so it takes no group_size"),
    ],
)
def test_what_is_no_mix_is_refused(name, words):
    with pytest.raises(EdgelibError, match=words):
        scheme(name)


def test_no_single_tensor_is_a_mix():
    with pytest.raises(EdgelibError, match="type of its own.*quantize a model by it"):
        scheme("gguf-q4_k_m").weight_format.encode(torch.ones(1, 256), None)
    with pytest.raises(EdgelibError, match="gives all weights one type"):
        mix_report(edgelib.load("scenes-vlm"), "q8_0")
