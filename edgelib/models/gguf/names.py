"""What llama.cpp calls the tensors of a network of transformers, and how it lays their rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError

# model_type of transformers -> architecture of a decoder's file
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen2_vl": "qwen2vl"}
VISION_ARCHITECTURES = {"qwen2_vl": "qwen2vl_merger"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_VISION_BLOCK = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_MERGER = {"ln_q": "v.post_ln", "mlp.0": "mm.0", "mlp.2": "mm.2"}


def same(weight: Tensor) -> Tensor:
    """Rows as they are."""
    return weight


@dataclass(frozen=True)
class Entry:
    """One tensor of a GGUF file.

    name: in the file. parameter: in the module. out: from the parameter to the file's tensor; back: the other way, a
    tensor of the parameter's shape or of the rows that `into` cuts out of it. into: the part of the parameter that it
    fills, as an index, None for the whole. layer: the Linear or table that it is of, with part "q", "k" or "v".
    """

    name: str
    parameter: str
    out: Callable[[Tensor], Tensor] = same
    back: Callable[[Tensor], Tensor] = same
    into: object = None
    part: str = ""

    @property
    def layer(self) -> str:
        """The name of the layer whose parameter it is."""
        return self.parameter.rpartition(".")[0]


def model_type(module: nn.Module) -> str:
    """Return the model type of transformers of a module, "" for one of another origin."""
    return str(getattr(getattr(module, "config", None), "model_type", ""))


def architecture_of(module: nn.Module, part: str = "decoder") -> str:
    """Return llama.cpp's name of a network's architecture; raises EdgelibError for one that is not written here."""
    table = ARCHITECTURES if part == "decoder" else VISION_ARCHITECTURES
    kind = model_type(module)
    if kind not in table:
        raise EdgelibError(
            f"the {part} of a {kind or type(module).__name__} model cannot be written as GGUF here, which knows "
            f"{', '.join(table)}; llama.cpp's own convert_hf_to_gguf.py knows more"
        )
    return table[kind]


def entries(module: nn.Module, part: str = "decoder") -> list[Entry]:
    """Return the tensors of a network's file in order: of part "decoder", or "vision" (what llama.cpp calls mmproj).

    Raises EdgelibError for an architecture that is not known here, and for a parameter that has no place in the file.
    """
    architecture_of(module, part)
    found = list(_decoder(module) if part == "decoder" else _vision(module))
    missing = [name for name in _own(module, part) if name not in {entry.parameter for entry in found}]
    if missing:
        raise EdgelibError(
            f"the file of a {model_type(module)} model has no place for {', '.join(missing[:3])} ({len(missing)} in "
            "all): its network is not that of transformers"
        )
    return found


def _own(module: nn.Module, part: str) -> list[str]:
    return [name for name, _ in module.named_parameters() if (_is_vision(name)) == (part == "vision")]


def _is_vision(name: str) -> bool:
    return ".visual." in f".{name}"


def _decoder(module: nn.Module) -> Iterator[Entry]:
    names = {name: p for name, p in module.named_parameters(remove_duplicate=False) if not _is_vision(name)}
    config = module.config.get_text_config()
    rotated = ARCHITECTURES[model_type(module)] == "llama"
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    seen: set[int] = set()
    for name, parameter in names.items():
        if id(parameter) in seen:  # an output tied to the table of tokens
            continue
        seen.add(id(parameter))
        owner, _, kind = name.rpartition(".")
        if owner.endswith("embed_tokens"):
            yield Entry(f"token_embd.{kind}", name)
        elif owner.split(".")[-1] == "lm_head":
            yield Entry(f"output.{kind}", name)
        elif ".layers." in f".{name}":
            number, _, rest = f".{owner}".partition(".layers.")[2].partition(".")
            if rest not in _BLOCK:
                continue
            turn = heads.get(rest.split(".")[-1]) if rotated else None
            out, back = (same, same) if turn is None else (interleaved(turn), halved(turn))
            yield Entry(f"blk.{number}.{_BLOCK[rest]}.{kind}", name, out, back)
        elif owner.split(".")[-1] == "norm":
            yield Entry(f"output_norm.{kind}", name)


def _vision(module: nn.Module) -> Iterator[Entry]:
    for name, parameter in module.named_parameters():
        if not _is_vision(name):
            continue
        owner, _, kind = name.rpartition(".")
        inner = f".{owner}".partition(".visual.")[2]
        if inner == "patch_embed.proj":  # one convolution a frame
            for frame in range(parameter.shape[2]):
                into = (slice(None), slice(None), frame)
                yield Entry("v.patch_embd.weight" + (f".{frame}" if frame else ""), name, _at(into), same, into)
        elif inner.startswith("merger.") and inner.removeprefix("merger.") in _MERGER:
            yield Entry(f"{_MERGER[inner.removeprefix('merger.')]}.{kind}", name)
        elif inner.startswith("blocks."):
            number, _, rest = inner.removeprefix("blocks.").partition(".")
            if rest == "attn.qkv":
                rows = parameter.shape[0] // 3
                for i, part in enumerate("qkv"):
                    own = slice(i * rows, (i + 1) * rows)
                    yield Entry(f"v.blk.{number}.attn_{part}.{kind}", name, _at(own), same, own, part)
            elif rest in _VISION_BLOCK:
                yield Entry(f"v.blk.{number}.{_VISION_BLOCK[rest]}.{kind}", name)


def _at(index) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[index]


def interleaved(heads: int) -> Callable[[Tensor], Tensor]:
    """How llama.cpp's "llama" orders the rows of a head: those that rotate together side by side."""
    return lambda w: w.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(w.shape)


def halved(heads: int) -> Callable[[Tensor], Tensor]:
    """The way back from `interleaved`: those that rotate together half a head apart, as transformers has them."""
    return lambda w: w.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(w.shape)


def fill(parameter: Tensor, entry: Entry, values: Tensor) -> None:
    """Write the values of a file's tensor into the parameter that it is of; shapes were checked before."""
    with torch.no_grad():
        place = parameter if entry.into is None else parameter[entry.into]
        place.copy_(entry.back(values).view(place.shape))
