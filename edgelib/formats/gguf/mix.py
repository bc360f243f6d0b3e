"""Mixes as weights of a scheme: what a GGUF file of a name such as Q4_K_M holds, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.base import Format
from edgelib.formats.blocks import BlockGrid
from edgelib.formats.gguf.codec import KINDS
from edgelib.formats.gguf.rules import MIXES


@dataclass(frozen=True)
class Mix(Format):
    """The types of a file by llama.cpp's rules; a scheme resolves it into one format a layer before it rounds.

    bits, block: of most weights of the decoder. decoder: the mix of its file. vision: that of the vision tower's, None
    where the scheme leaves the tower as it is, or gives it the decoder's by its targets.
    """

    name: str
    bits: int
    block: int
    decoder: str = ""
    vision: str | None = None

    storage = torch.uint8
    own_scales = True
    methods = ("minmax", "imatrix")
    static = False
    partners = ("fp16",)

    @property
    def qmax(self) -> float:
        return 2.0 ** (self.bits - 1)

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Raises EdgelibError: a mix is of a whole model."""
        raise self._no_format()

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Raises EdgelibError: a mix is of a whole model."""
        raise self._no_format()

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Raises EdgelibError: a mix is of a whole model."""
        raise self._no_format()

    def _no_format(self) -> EdgelibError:
        return EdgelibError(
            f"{self.name} gives each tensor of a model a type of its own, so no single tensor can be rounded to it: "
            f"quantize a model by it, or choose one of {', '.join(KINDS)}"
        )


def mix_format(decoder: str, vision: str | None = None) -> Mix:
    """Return the format of a pair of mixes: gguf-q4_k_m, or gguf-q4_k_m+q8_0 with the vision tower's."""
    base, _ = MIXES[decoder]
    bits, block = (16, 1) if base == "f16" else (KINDS[base].bits, KINDS[base].block)
    return Mix(f"gguf-{decoder}" + (f"+{vision}" if vision else ""), bits, block, decoder, vision)


FORMATS = tuple(mix_format(decoder, vision) for vision in (None, *MIXES) for decoder in MIXES)
