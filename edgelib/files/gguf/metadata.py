"""What a GGUF file says of its network: sizes, numbers of heads, rotation, the images that it takes."""

from __future__ import annotations

from edgelib.files.gguf.tokens import no_vocabulary, vocabulary
from edgelib.files.gguf.values import Value
from edgelib.models.gguf.names import architecture_of, model_type

QUANTIZATION_VERSION = 2  # of the layouts of blocks


def decoder_metadata(module, name: str, file_type: int, tokenizer=None, template: str | None = None, pre=None) -> dict:
    """Return the metadata of a decoder's file by key. file_type: its mix's number; pre: as in `vocabulary`."""
    architecture, config = architecture_of(module), module.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "vocab_size": config.vocab_size,
    }
    made = _general(architecture, "model", name, file_type)
    made |= {f"{architecture}.{key}": Value("u32", int(value)) for key, value in sizes.items()}
    made[f"{architecture}.attention.layer_norm_rms_epsilon"] = Value("f32", float(config.rms_norm_eps))
    made[f"{architecture}.rope.freq_base"] = Value("f32", float(rope.get("rope_theta", 10000.0)))
    if architecture == "qwen2vl":
        sections = [*rope["mrope_section"], 0, 0, 0, 0][:4]
        made[f"{architecture}.rope.dimension_sections"] = Value("i32s", sections)
    rows = module.get_input_embeddings().weight.shape[0]
    made |= no_vocabulary(rows) if tokenizer is None else vocabulary(tokenizer, model_type(module), rows, pre)
    return made | ({"tokenizer.chat_template": Value("str", template)} if template else {})


def vision_metadata(module, name: str, file_type: int, image_processor) -> dict:
    """Return the metadata of a vision tower's file (mmproj) by key."""
    projector, config = architecture_of(module, "vision"), module.config.vision_config
    text = module.config.get_text_config()
    sizes = {
        "projection_dim": text.hidden_size,
        "image_size": 560,  # of no use where images have any size; the format wants it
        "patch_size": config.patch_size,
        "embedding_length": config.embed_dim,
        "feed_forward_length": int(config.embed_dim * config.mlp_ratio),
        "block_count": config.depth,
        "attention.head_count": config.num_heads,
        "spatial_merge_size": config.spatial_merge_size,
    }
    made = _general("clip", "mmproj", name, file_type)
    made |= {
        "clip.has_vision_encoder": Value("bool", True),
        "clip.projector_type": Value("str", projector),
    }
    made |= {f"clip.vision.{key}": Value("u32", int(value)) for key, value in sizes.items()}
    made["clip.vision.attention.layer_norm_epsilon"] = Value("f32", 1e-6)
    made["clip.vision.image_mean"] = Value("f32s", [float(m) for m in image_processor.image_mean])
    made["clip.vision.image_std"] = Value("f32s", [float(s) for s in image_processor.image_std])
    activation = {"gelu": "use_gelu", "silu": "use_silu"}.get(config.hidden_act)
    return made | ({f"clip.{activation}": Value("bool", True)} if activation else {})


def _general(architecture: str, kind: str, name: str, file_type: int) -> dict:
    return {
        "general.architecture": Value("str", architecture),
        "general.type": Value("str", kind),
        "general.name": Value("str", name),
        "general.file_type": Value("u32", file_type),
        "general.quantization_version": Value("u32", QUANTIZATION_VERSION),
    }
