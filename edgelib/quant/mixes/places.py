"""Where each weight of a model stands as llama.cpp tells weights apart: its role, its layer, its tower."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from edgelib.formats.gguf.rules import Place
from edgelib.ground.separate import linears

_ROLES = {  # the last part of a name, and of what has it
    "attn_q": ("q_proj", "query", "wq", "to_q", "q"),
    "attn_k": ("k_proj", "key", "wk", "to_k", "k"),
    "attn_v": ("v_proj", "value", "wv", "to_v", "v"),
    "attn_qkv": ("qkv", "qkv_proj", "c_attn", "query_key_value", "Wqkv"),
    "attn_output": ("o_proj", "out_proj", "wo"),
    "ffn_gate": ("gate_proj", "gate"),
    "ffn_up": ("up_proj", "fc1", "c_fc", "gate_up_proj"),
    "ffn_down": ("down_proj", "fc2"),
    "output": ("lm_head", "embed_out"),
}
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words}
_TABLES = ("embed_tokens", "token_embedding", "word_embeddings", "wte", "tok_embeddings")
_VISION = ("vis", "image", "multi_modal", "connector", "merger", "mm_")  # how a part of such a name begins
_SPLIT = ("qwen2_vl", "qwen2_5_vl")  # whose fused q, k, v of the vision tower are three tensors of the file


class Piece(NamedTuple):
    """Rows of a weight that are one tensor of the file. rows: how many; part: "q", "k", "v", "" for a whole weight."""

    place: Place
    rows: int
    part: str = ""


def pieces(module: nn.Module) -> dict[str, list[Piece]]:
    """Return the tensors of a file that each Linear of a model is, by its name: one, or three for fused q, k and v.

    Roles are read from names, as transformers and timm give them; a Linear of an unknown name is "other". What lies
    under a name of a vision tower or connector is of the tower, and so is all of a model without a table of tokens.
    """
    vision_only = token_table(module) is None
    split = getattr(getattr(module, "config", None), "model_type", "") in _SPLIT
    found = {}
    for name in linears(module):
        rows, seen = module.get_submodule(name).weight.shape[0], vision_only or is_vision(name)
        role = role_of(name)
        if not any(part.isdigit() for part in name.split(".")) and role != "output":
            role = "other"  # such as the pooling head of a tower
        if role == "attn_output" and seen:
            role = "other"  # its name in a tower's file is none that llama.cpp looks for
        fused = role == "attn_qkv" and seen and split and rows % 3 == 0
        parts = [(f"attn_{part}", rows // 3, part) for part in "qkv"] if fused else [(role, rows, "")]
        found[name] = [(role, seen, rows, part) for role, rows, part in parts]
    return _placed(found, is_tied(module), module)


def _placed(found: dict[str, list], tied: bool, module: nn.Module) -> dict[str, list[Piece]]:
    numbers: dict[tuple[str, bool], set[int]] = {}
    for name, parts in found.items():
        for role, seen, _, _ in parts:
            numbers.setdefault((role, seen), set()).add(layer_of(name))
    # the tensors of a tower are told apart by name alone, so that layer 10 comes before layer 2
    ranks = {key: {n: i for i, n in enumerate(sorted(layers, key=str))} for key, layers in numbers.items()}
    values, shared = {seen: _values(found, seen) for seen in (True, False)}, _shared(found)
    layers = 1 + max((n for (_, seen), own in numbers.items() if not seen for n in own), default=0)
    large = _large(module, layers, shared)
    placed: dict[str, list[Piece]] = {}
    for name, parts in found.items():
        placed[name] = []
        for role, seen, rows, part in parts:
            if seen:
                place = Place(role, ranks[role, seen][layer_of(name)], 0, values[seen])
            else:
                place = Place(role, layer_of(name), layers, values[seen], shared, tied, large)
            placed[name].append(Piece(place, rows, part))
    return placed


def _values(found: dict[str, list], seen: bool) -> int:
    return sum(other[:2] in (("attn_v", seen), ("attn_qkv", seen)) for others in found.values() for other in others)


def _shared(found: dict[str, list]) -> int:
    """How many query heads read one value: rows of the first q to rows of the first v."""
    rows = {other[0]: other[2] for others in reversed(found.values()) for other in others if not other[1]}
    return rows["attn_q"] // rows["attn_v"] if {"attn_q", "attn_v"} <= rows.keys() else 0


def _large(module: nn.Module, layers: int, shared: int) -> bool:
    """Whether llama.cpp takes a decoder for its 70B (LLM_TYPE_70B), by its files llama.cpp and qwen2.cpp of models."""
    kind = getattr(getattr(module, "config", None), "model_type", "")
    return layers == 80 and (kind == "qwen2" or (kind in ("llama", "mistral") and shared > 1))


def role_of(name: str) -> str:
    """Return the role of a Linear by its name.

    >>> role_of("model.layers.3.self_attn.o_proj"), role_of("visual.blocks.0.attn.proj"), role_of("merger.mlp.0")
    ('attn_output', 'attn_output', 'other')
    """
    *above, last = name.split(".")
    if last in ("proj", "c_proj", "dense"):
        return "attn_output" if above and "attn" in above[-1] else "ffn_down" if last == "c_proj" else "other"
    return _ROLE_OF.get(last, "other")


def layer_of(name: str) -> int:
    """Return the number of the block that a layer is in, 0 for one outside blocks."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def is_vision(name: str) -> bool:
    """Whether a layer is of the vision tower or of what joins it to the decoder."""
    return any(part.startswith(_VISION) for part in name.split("."))


def token_table(module: nn.Module) -> str | None:
    """Return the name of the table of token embeddings, None for a model without one."""
    tables = (n for n, layer in module.named_modules() if isinstance(layer, nn.Embedding))
    return next((name for name in tables if name.split(".")[-1] in _TABLES), None)


def is_tied(module: nn.Module) -> bool:
    """Whether the output is the table of token embeddings, or there is no output."""
    table = token_table(module)
    heads = [name for name in linears(module) if role_of(name) == "output"]
    if table is None or not heads:
        return True
    return module.get_submodule(heads[0]).weight is module.get_submodule(table).weight


def table_place(module: nn.Module) -> Place:
    """Return the place of the table of token embeddings."""
    return Place("token_embd", tied=is_tied(module))
