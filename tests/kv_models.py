"""Tiny random decoders of the families whose caches differ, and prompts with images and padding for them."""

from __future__ import annotations

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE, START, STOP, PAD, VOCABULARY = 60, 61, 62, 63, 64
PATCH = 4
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=PAD,
    eos_token_id=PAD,
    bos_token_id=START,
)
TOKENS = dict(image_token_id=IMAGE, video_token_id=59, vision_start_token_id=START, vision_end_token_id=STOP)


def _seeded(make, config, spread: float = 3.0):
    """Weights large enough for attention to matter, biases that are not zero."""
    torch.manual_seed(0)
    model = make(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5)
        elif parameter.dim() == 2:
            parameter.data.mul_(spread)
    return model


def qwen2_vl(**text):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = dict(depth=1, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=PATCH)
    config = Qwen2VLConfig(
        text_config=TEXT | dict(rope_parameters=rope, tie_word_embeddings=False) | text, vision_config=vision, **TOKENS
    )
    return _seeded(Qwen2VLForConditionalGeneration, config)


def qwen2_5_vl(**text):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = dict(
        depth=1,
        hidden_size=32,
        out_hidden_size=64,
        num_heads=2,
        intermediate_size=64,
        patch_size=PATCH,
        window_size=16,
        fullatt_block_indexes=[0],
    )
    config = Qwen2_5_VLConfig(
        text_config=TEXT | dict(rope_parameters=rope, tie_word_embeddings=False) | text, vision_config=vision, **TOKENS
    )
    return _seeded(Qwen2_5_VLForConditionalGeneration, config)


def qwen3_vl(**text):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=64,
        num_heads=2,
        intermediate_size=64,
        patch_size=PATCH,
        deepstack_visual_indexes=[0],
        num_position_embeddings=16,
    )
    own = dict(head_dim=16, rope_parameters=rope, tie_word_embeddings=False)
    config = Qwen3VLConfig(text_config=TEXT | own | text, vision_config=vision, **TOKENS)
    return _seeded(Qwen3VLForConditionalGeneration, config)


def llama(**text):
    return _seeded(LlamaForCausalLM, LlamaConfig(**(TEXT | dict(tie_word_embeddings=False) | text)))


def mistral(window: int = 8, **text):
    config = MistralConfig(**(TEXT | dict(sliding_window=window, tie_word_embeddings=False) | text))
    return _seeded(MistralForCausalLM, config)


VISION = {"qwen2-vl": qwen2_vl, "qwen2.5-vl": qwen2_5_vl, "qwen3-vl": qwen3_vl}
FAMILIES = {**VISION, "llama": llama, "mistral": mistral}


def prompts(model, lengths=(5, 9, 7), seed: int = 0, image: bool = True) -> dict:
    """Inputs of `forward` and `generate`: one image of four tokens per row where the family takes one, left padding."""
    generator = torch.Generator().manual_seed(seed)
    sees = image and hasattr(model.config, "image_token_id")
    rows = [torch.randint(1, 50, (n,), generator=generator) for n in lengths]
    if sees:
        front = torch.tensor([START, *[IMAGE] * 4, STOP])
        rows = [torch.cat([row[:1], front, row[1:]]) for row in rows]
    width = max(map(len, rows))
    ids = torch.stack([torch.cat([torch.full((width - len(row),), PAD), row]) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    if sees:
        patches = torch.randn(16 * len(rows), 3 * 2 * PATCH**2, generator=generator)
        inputs |= {
            "pixel_values": patches,
            "image_grid_thw": torch.tensor([[1, 4, 4]] * len(rows)),
            "mm_token_type_ids": (ids == IMAGE).int(),
        }
    return inputs


def rows_of(inputs: dict, order: list[int]) -> dict:
    """The prompts in another order, or some of them."""
    picked = {k: inputs[k][order] for k in ("input_ids", "attention_mask")}
    if "pixel_values" in inputs:
        patches = inputs["pixel_values"].view(len(inputs["input_ids"]), 16, -1)[order].flatten(0, 1)
        picked |= {"pixel_values": patches, "image_grid_thw": inputs["image_grid_thw"][order]}
        picked["mm_token_type_ids"] = inputs["mm_token_type_ids"][order]
    return picked
