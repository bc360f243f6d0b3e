"""Write a decoder or a vision tower as a GGUF file that llama.cpp runs, and predict its bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.files.gguf.metadata import decoder_metadata, vision_metadata
from edgelib.files.gguf.values import header_bytes, padded, require_gguf, whole_file
from edgelib.formats.gguf.codec import KINDS, gguf_encode
from edgelib.formats.gguf.rules import MIXES, require_mix, type_of
from edgelib.ground.separate import rejoined
from edgelib.models.gguf.names import Entry, entries
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear
from edgelib.quant.mixes.places import Piece, pieces, table_place, token_table

PARTS = ("decoder", "vision")


class Planned(NamedTuple):
    """One tensor of the file: where it comes from, its shape [..., columns], and the type that it is written in."""

    entry: Entry
    shape: tuple[int, ...]
    type: str

    @property
    def bytes(self) -> int:
        if self.type in KINDS:
            kind = KINDS[self.type]
            return math.prod(self.shape) // kind.block * kind.bytes
        return math.prod(self.shape) * (4 if self.type == "f32" else 2)


def save_gguf(
    model, file: str | os.PathLike, mix: str = "f16", *, part: str = "decoder", importance=None, pre=None
) -> Path:
    """Write one part of a model as a GGUF file, whole or not at all; return its path.

    model: the baseline, a loaded model or a decoder of transformers (Llama, Mistral, Qwen2, Qwen2-VL); without a
    tokenizer of its own it is asked by numbers of tokens. mix: q4_k_m, q8_0, f16 and the like, in any case, or f32.
    part: "decoder", or "vision", the file that llama.cpp calls mmproj. importance: {name of a Linear: mean x^2 [in]} or
    the `Statistics` of a calibration; output, table of tokens and tower take none, as in llama.cpp. pre: how llama.cpp
    cuts text into words, where the family does not say.
    Weights are those of `quantize(model, "gguf-<mix>")`, byte for byte; `edgelib.mix_report` tells the types.
    Raises EdgelibError for a model that is quantized already or of another architecture, an unknown mix or part,
    importance of the wrong length or without meaning, a file that cannot be written, and without the package gguf.
    """
    gguf, path = require_gguf(), Path(os.path.abspath(os.path.expanduser(file)))
    metadata, plan = planned(model, mix, part=part, importance=importance, pre=pre)
    module, weights = _module(model), _importance(importance)
    with whole_file(path, metadata["general.architecture"].value, metadata) as writer:
        for item in plan:
            kind = gguf.GGMLQuantizationType[item.type.upper()] if item.type in KINDS else None
            writer.add_tensor(item.entry.name, _array(module, item, weights), raw_dtype=kind)
    return path


def gguf_size(model, mix: str = "f16", *, part: str = "decoder", importance=None, pre=None) -> dict:
    """Return {"total": bytes, "header": bytes, "by_type": {type: bytes}} of the file that `save_gguf` writes.

    To the byte, from shapes alone; arguments as there. What aligns tensors counts with their type.
    """
    metadata, plan = planned(model, mix, part=part, importance=importance, pre=pre)
    by_type: dict[str, int] = {}
    for item in plan:
        by_type[item.type] = by_type.get(item.type, 0) + padded(item.bytes)
    header = header_bytes(metadata, [(item.entry.name, item.shape) for item in plan])
    return {"total": header + sum(by_type.values()), "header": header, "by_type": by_type}


def planned(model, mix: str, *, part: str = "decoder", importance=None, pre=None) -> tuple[dict, list[Planned]]:
    """Return the metadata of a file and its tensors in order; arguments and errors as in `save_gguf`."""
    choose(dict.fromkeys(PARTS), part, "part of a model")
    module = _module(model)
    name = "f32" if isinstance(mix, str) and mix.lower() == "f32" else require_mix(mix)
    file_type = 0 if name == "f32" else MIXES[name][1]
    label, processor = getattr(model, "name", type(module).__name__), getattr(model, "processor", None)
    if part == "vision":
        if processor is None:
            raise EdgelibError("the file of a vision tower says how images are normalized: pass the loaded model")
        metadata = vision_metadata(module, label, file_type, processor.image_processor)
    else:
        tokenizer = getattr(processor, "tokenizer", getattr(model, "tokenizer", None))
        template = getattr(processor, "chat_template", None)
        metadata = decoder_metadata(module, label, file_type, tokenizer, template, pre)
    return metadata, list(_plan(module, name, part, weighed=importance is not None))


def _module(model) -> nn.Module:
    module = rejoined(module_of(model))
    if any(isinstance(layer, QuantLinear) for layer in module.modules()):
        raise EdgelibError(
            "this model is quantized already; a file is made from the baseline, which the mix rounds once: "
            'save_gguf(load("scenes-vlm"), "model.gguf", "q4_k_m")'
        )
    return module


def _plan(module: nn.Module, mix: str, part: str, weighed: bool) -> Iterator[Planned]:
    found, table = pieces(module), token_table(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for entry in entries(module, part):
        shape = tuple(entry.out(parameters[entry.parameter]).shape)
        yield Planned(entry, shape, _type(mix, entry, shape, found, module, table, weighed))


def _type(mix: str, entry: Entry, shape: tuple[int, ...], found: dict[str, list[Piece]], module, table, weighed) -> str:
    if len(shape) < 2 or mix == "f32":
        return "f32"
    if entry.layer == table:
        return type_of(mix, table_place(module), shape[1])
    if entry.layer not in found:
        return "f16"  # patches
    piece = next(p for p in found[entry.layer] if p.part == entry.part)
    own = weighed and piece.place.layers > 0 and piece.place.role != "output"
    return type_of(mix, piece.place, shape[1], importance=own)


def _importance(importance) -> Mapping[str, Tensor]:
    layers = getattr(importance, "layers", None)
    if layers is not None:
        return {name: seen.square_mean for name, seen in layers.items()}
    return importance or {}


def _array(module: nn.Module, item: Planned, weights: Mapping[str, Tensor]) -> np.ndarray:
    tensor = item.entry.out(module.get_parameter(item.entry.parameter).detach().float().cpu()).contiguous()
    if item.type not in KINDS:
        return tensor.to(torch.float32 if item.type == "f32" else torch.float16).numpy()
    own = None if _unweighed(item.entry) else weights.get(item.entry.layer)
    if own is not None and not own.any():
        own = None  # calibration never reached the layer, as in `quantize`
    try:
        return gguf_encode(tensor, item.type, own).numpy()
    except EdgelibError as error:
        raise EdgelibError(f"tensor {item.entry.name!r}: {error}") from None


def _unweighed(entry: Entry) -> bool:
    return not entry.name.startswith("blk.")
