"""Packed attention and the experts of a mixture, taken apart: the same answers, the same memory, nothing left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgelib.ground.separate import is_linear, left_apart, linears, rejoined, separated, weights_outside_linears

ATTENTIONS = {
    "plain": {},
    "batch first": dict(batch_first=True),
    "no bias": dict(bias=False),
    "other widths": dict(kdim=6, vdim=10, batch_first=True),
}


def attention(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 2, **options).double().eval()
    for parameter in made.parameters():  # biases start as zeros
        nn.init.normal_(parameter, std=0.5)
    return made


def inputs(layer: nn.MultiheadAttention, batch: int = 3) -> list[torch.Tensor]:
    shapes = [(batch, 4, 8), (batch, 5, layer.kdim), (batch, 5, layer.vdim)]
    made = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    return made if layer.batch_first else [x.transpose(0, 1) for x in made]


def masks(batch: int = 3, heads: int = 2) -> dict[str, dict]:
    hidden = torch.rand(4, 5) > 0.7
    hidden[:, 0] = False
    ends = torch.arange(5) >= torch.tensor([[5], [3], [1]])
    return {
        "none": {},
        "boolean": dict(attn_mask=hidden),
        "floating": dict(attn_mask=torch.randn(4, 5, dtype=torch.float64)),
        "by head": dict(attn_mask=torch.randn(batch * heads, 4, 5, dtype=torch.float64)),
        "padding": dict(key_padding_mask=ends),
        "both": dict(attn_mask=hidden, key_padding_mask=ends),
        "no weights": dict(need_weights=False),
        "weights by head": dict(average_attn_weights=False),
    }


@torch.no_grad()
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_answers_as_the_packed_one(kind, mask):
    packed = attention(**ATTENTIONS[kind])
    apart, x, options = separated(packed), inputs(packed), masks()[mask]
    assert linears(apart) == ["q_proj", "k_proj", "v_proj", "out_proj"] and not weights_outside_linears(apart)
    assert_same(rejoined(apart), packed)
    for got, wanted in zip(apart(*x, **options), packed(*x, **options), strict=True):
        assert (got is None) == (wanted is None)
        assert got is None or torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_attention_without_a_batch():
    packed = attention()
    query, key = torch.randn(4, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    for got, wanted in zip(separated(packed)(query, key, key), packed(query, key, key), strict=True):
        assert torch.allclose(got, wanted)


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False], ids=["batch first", "sequence first"])
def test_an_encoder_of_torch_runs_through_its_separate_attention(first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first).eval()
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(3, 4, 8)
    assert torch.allclose(separated(model)(x), model(x), atol=1e-6)
    assert len(linears(separated(model))) == 2 * 6


def test_memory_is_shared_and_what_needs_nothing_is_left_alone():
    packed = attention()
    apart = separated(packed)
    assert apart.k_proj.weight.data_ptr() == packed.in_proj_weight[8:].data_ptr()
    assert separated(apart) is apart and isinstance(packed, nn.MultiheadAttention)
    plain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert separated(plain) is plain


@pytest.mark.parametrize("options", [dict(add_bias_kv=True), dict(add_zero_attn=True)], ids=lambda o: next(iter(o)))
def test_unknown_attention_is_said_to_hold_weights(options):
    packed = nn.MultiheadAttention(8, 2, **options)
    assert separated(packed) is packed and "in_proj_weight" in weights_outside_linears(packed)[""]


# --- experts


def experts_of(name: str) -> nn.Module:
    """The experts of a family: 3 of them, 8 wide, 6 inside, one of them never chosen below."""
    import importlib

    from transformers import AriaTextConfig, GptOssConfig, NemotronHConfig, Qwen3VLMoeTextConfig

    made = {
        "qwen3_vl_moe": (
            "Qwen3VLMoeTextExperts",
            Qwen3VLMoeTextConfig(num_experts=3, moe_intermediate_size=6, hidden_size=8),
        ),
        "gpt_oss": ("GptOssExperts", GptOssConfig(num_local_experts=3, intermediate_size=6, hidden_size=8)),
        "aria": (
            "AriaExperts",
            AriaTextConfig(moe_num_experts=3, intermediate_size=6, hidden_size=8, num_attention_heads=2),
        ),
        "nemotron_h": ("NemotronHExperts", NemotronHConfig(n_routed_experts=3, moe_intermediate_size=6, hidden_size=8)),
    }
    kind, config = made[name]
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    layer = getattr(importlib.import_module(f"transformers.models.{name}.modeling_{name}"), kind)(config)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen3_vl_moe", "gpt_oss", "aria", "nemotron_h"])
def test_experts_answer_as_the_fused_ones(name):
    fused = experts_of(name)
    apart = separated(fused)
    assert len(linears(apart)) == 6 and not weights_outside_linears(apart) and weights_outside_linears(fused)
    x, weights = torch.randn(7, 8, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64)
    chosen = torch.tensor([[0, 2]] * 4 + [[2, 0]] * 3)
    assert_same(rejoined(apart), fused)
    assert torch.allclose(rejoined(apart)(x, chosen, weights), fused(x, chosen, weights))
    assert torch.allclose(apart(x, chosen, weights), fused(x, chosen, weights), rtol=1e-10, atol=1e-12)
    assert {p.untyped_storage().data_ptr() for p in apart.parameters()} == {
        p.untyped_storage().data_ptr() for p in fused.parameters()
    }


def assert_same(layer: nn.Module, other: nn.Module) -> None:
    """Two layers of one kind with the same parameters in the same places."""
    assert type(layer) is type(other)
    assert list(layer.state_dict()) == list(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


def test_what_has_other_layers_by_now_stays_apart():
    model = separated(nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "other": nn.MultiheadAttention(8, 2)}))
    model["attention"].q_proj = nn.Identity()
    assert left_apart(rejoined(model)) == ["attention"] and left_apart(model) == ["attention", "other"]


# --- what counts as weights outside any Linear


def test_tables_convolutions_and_single_numbers_are_no_stacks():
    layer = nn.Module()
    layer.positions = nn.Parameter(torch.zeros(1, 5, 8))
    layer.temperature = nn.Parameter(torch.zeros(4, 1, 1))
    layer.table = nn.Parameter(torch.zeros(5, 8))
    layer.convolution = nn.Conv2d(3, 4, 2)
    assert not weights_outside_linears(layer)
    layer.stack = nn.Parameter(torch.zeros(2, 5, 8))
    assert weights_outside_linears(layer) == {"": ["stack"]}


def test_experts_that_stand_below_one_another_are_weights_too():
    from transformers import DbrxConfig
    from transformers.models.dbrx.modeling_dbrx import DbrxFFN

    config = DbrxConfig(d_model=8, ffn_config={"ffn_hidden_size": 6, "moe_num_experts": 3, "moe_top_k": 2})
    held = weights_outside_linears(nn.ModuleDict({"ffn": DbrxFFN(config)}))
    assert [key.rpartition(".")[2] for keys in held.values() for key in keys] == ["w1", "v1", "w2"]


def test_a_linear_with_a_forward_of_its_own_is_none():
    class Router(nn.Linear):
        def forward(self, x):
            return super().forward(x).topk(1)

    assert is_linear(nn.Linear(2, 2)) and not is_linear(Router(2, 2))
