"""A mix as schemes of single layers: what `quantize` rounds each Linear by, and the table of tokens to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgelib.formats.gguf.codec import KINDS, gguf_decode, gguf_encode
from edgelib.formats.gguf.mix import Mix
from edgelib.formats.gguf.rules import type_of
from edgelib.quant.mixes.places import is_vision, pieces, table_place, token_table
from edgelib.quant.scheme import Scheme


class Part(NamedTuple):
    """Rows of a Linear that one scheme rounds. name: "" for all of them, else "q", "k" or "v"."""

    name: str
    rows: int
    scheme: Scheme


def layer_schemes(module: nn.Module, scheme: Scheme, targets: Iterable[str]) -> dict[str, list[Part]]:
    """Return the parts of each target of a mix, whose schemes have one type each; {} for a scheme that is no mix.

    Only the decoder's blocks take importance, as in llama.cpp: its imatrix holds neither the output nor a vision tower.
    """
    mix = scheme.weight_format
    if not isinstance(mix, Mix):
        return {}
    found, made = pieces(module), {}
    for name in targets:
        made[name] = []
        for piece in found[name]:
            seen = not piece.place.layers
            weighed = scheme.method == "imatrix" and not seen and piece.place.role != "output"
            columns = module.get_submodule(name).in_features
            type = type_of(
                (mix.vision or mix.decoder) if seen else mix.decoder, piece.place, columns, importance=weighed
            )
            made[name].append(Part(piece.part, piece.rows, _of_type(scheme, type, weighed)))
        if len({part.scheme for part in made[name]}) == 1:
            made[name] = [Part("", sum(part.rows for part in made[name]), made[name][0].scheme)]
    return made


def _of_type(scheme: Scheme, type: str, weighed: bool) -> Scheme:
    if type == "f16":
        return Scheme("fp16", "fp16", method="cast")
    return replace(scheme, weight=type, method="imatrix" if weighed else "minmax")


def table_type(module: nn.Module, scheme: Scheme, targets: Iterable[str]) -> tuple[str, str] | None:
    """Return name and type of the table of tokens that a mix rounds with the decoder; None if it rounds none."""
    mix, table = scheme.weight_format, token_table(module)
    if not isinstance(mix, Mix) or table is None or all(is_vision(name) for name in targets):
        return None
    width = module.get_submodule(table).weight.shape[1]
    return table, type_of(mix.decoder, table_place(module), width)


def rounded_table(weight: Tensor, type: str) -> Tensor:
    """Return a table [tokens, width] rounded to a type, in its own dtype."""
    if type not in KINDS:
        return weight.to(torch.float16).to(weight.dtype)
    return gguf_decode(gguf_encode(weight, type), type, weight.shape[1]).to(weight.dtype)
