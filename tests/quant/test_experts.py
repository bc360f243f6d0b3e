"""Mixtures of experts of many families: every expert is rounded, or the model is refused with the share left out."""

from __future__ import annotations

import pytest
import torch
import transformers

from edgelib.errors import EdgelibError
from edgelib.quant.quantize import quantize
from edgelib.quant.report import parameter_plan, parameter_report

SIZES = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, pad_token_id=0)
SIZES |= dict(num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32)
MANY = dict(num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, head_dim=8)
LATENT |= dict(first_k_dense_replace=1, n_shared_experts=1, n_group=1, topk_group=1)
EXPERTS = {
    "mixtral": {},
    "qwen2_moe": dict(shared_expert_intermediate_size=16),
    "qwen3_moe": dict(head_dim=8),
    "olmoe": {},
    "granitemoe": {},
    "gpt_oss": dict(head_dim=8, sliding_window=16),
    "deepseek_v2": LATENT | dict(topk_method="greedy"),
    "deepseek_v3": LATENT,
}
OTHERS = {  # whose experts have forms of their own: what is said of them
    "llama4_text": dict(intermediate_size_mlp=32, head_dim=8, num_experts_per_tok=1),
    "jetmoe": dict(kv_channels=8),
    "dbrx": dict(d_model=16, n_heads=2, n_layers=1, max_seq_len=32)
    | dict(
        ffn_config=dict(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2),
        attn_config=dict(kv_n_heads=2, rope_theta=1e4),
    ),
}


def network(family: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **(SIZES | MANY | settings))
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("family", EXPERTS)
def test_every_expert_is_rounded_and_every_parameter_accounted_for(family):
    plain = network(family, **EXPERTS[family])
    rounded = quantize(plain, "w8a16-minmax")
    report, total = parameter_report(rounded), sum(p.numel() for p in plain.parameters() if p.is_floating_point())
    assert report["count"].sum() == total and not report["parameter"].duplicated().any()
    assert set(map(tuple, report.values)) == set(map(tuple, parameter_plan(plain, "w8a16-minmax").values))
    experts = report[report["parameter"].str.contains(r"experts\.\d+\..*weight")]
    assert len(experts) >= 8 and (experts["kept"] == "").all()
    left = report[report["kept"].str.contains("outside any Linear")]
    assert left["count"].sum() < 0.02 * total  # routers
    tokens = torch.arange(6)[None]
    assert (plain(tokens).logits - rounded(tokens).logits).abs().max() < 0.05 * plain(tokens).logits.abs().max()


@pytest.mark.parametrize("family", OTHERS)
def test_experts_of_a_form_that_is_not_known_are_refused_with_their_share(family):
    plain = network(family, **OTHERS[family])
    for call in (quantize, parameter_plan):
        with pytest.raises(EdgelibError, match=r"hold \d\d\.\d% of the bytes of all parameters outside any Linear"):
            call(plain, "w8a16-minmax")
