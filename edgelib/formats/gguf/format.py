"""GGUF types as number formats: what schemes, reports and packed files ask of q4_k and its like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.base import Encoded, Format, Part
from edgelib.formats.blocks import NO_GRID, BlockGrid
from edgelib.formats.gguf.codec import KINDS, check_columns, gguf_decode, gguf_encode

_CACHED = 32  # channels of a block that a cache may hold; heads of 256 are rare


@dataclass(frozen=True)
class GGUF(Format):
    """A GGUF type. Codes are whole blocks of bytes [rows, bytes], which hold their scales, so the grid is empty.

    Weights only: inputs keep 16 bits, or 32. Scales are the type's own, "minmax" being its search without importance
    and "imatrix" that with it.
    """

    name: str
    bits: int
    block: int

    storage = torch.uint8
    own_scales = True
    methods = ("minmax", "imatrix")
    static = False
    partners = ("fp16",)

    @property
    def qmax(self) -> float:
        return 2.0 ** (self.bits - 1)

    @property
    def cache_name(self) -> str | None:  # type: ignore[override]
        """Its name where its blocks fit into a head: the types of 32 values, which are those of llama.cpp's caches."""
        return self.name if self.block <= _CACHED else None

    def check_width(self, width: int) -> None:
        """Raise EdgelibError for rows that the block does not divide; it says what llama.cpp takes instead."""
        check_columns(KINDS[self.name], width)

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Return an empty grid; raises EdgelibError for a range that is to be shrunk."""
        if isinstance(shrink, Tensor) or shrink != 1:
            raise EdgelibError(
                f"{self.name} searches its own scales, so no range can be shrunk; choose minmax or imatrix"
            )
        return NO_GRID

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return the bytes [..., bytes] of values [..., width], any number of blocks."""
        rows = gguf_encode(blocks.reshape(-1, blocks.shape[-1]), self.name)
        return rows.view(*blocks.shape[:-1], -1)

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Return the values float32 [..., width] of bytes [..., bytes]."""
        columns = codes.shape[-1] // KINDS[self.name].bytes * self.block
        return gguf_decode(codes.reshape(-1, codes.shape[-1]), self.name, columns).view(*codes.shape[:-1], columns)

    def encode_weighed(self, weight: Tensor, importance: Tensor | None) -> Encoded:
        """Return a weight [out, in] in blocks of bytes; see `gguf_encode`."""
        return Encoded(self, gguf_encode(weight, self.name, importance), None)

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., width] and return it in its own dtype."""
        return self.decode(self.encode(x.detach(), NO_GRID), NO_GRID).to(x.dtype)

    def bits_per_element(self, group_size: int | None = None, scale_bits: int = 32, numel: int | None = None) -> float:
        """Return the bits of a block per value: 4.5 for q4_k."""
        return 8 * KINDS[self.name].bytes / self.block

    def parts(self, rows: int, width: int, groups: int, wide: torch.dtype) -> Iterator[Part]:
        """Yield the one tensor of a packed weight: the blocks that a GGUF file holds."""
        self.check_width(width)
        size = width // self.block * KINDS[self.name].bytes
        yield Part("linear_weights", "codes", self.name, torch.uint8, (rows, size))

    def stored(self, encoded: Encoded) -> dict[str, Tensor | None]:
        """Return the blocks."""
        return {"codes": encoded.codes}

    def restored(self, stored: Mapping[str, Tensor], width: int, groups: int, wide: torch.dtype) -> Encoded:
        """Return the weight of which the blocks are stored."""
        return Encoded(self, stored["codes"], None)


FORMATS = tuple(GGUF(kind.name, kind.bits, kind.block) for kind in KINDS.values())
