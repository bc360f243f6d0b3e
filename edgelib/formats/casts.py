"""Casts: floating formats of 16 and 32 bits without a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.base import Format
from edgelib.formats.blocks import NO_GRID, BlockGrid, widened


@dataclass(frozen=True)
class Cast(Format):
    """A floating format without scale: values are rounded to `storage`, ties to even.

    A cast does not saturate: overflow becomes inf (1e6 in fp16), which the function `encode` refuses.
    """

    name: str
    bits: int
    storage: torch.dtype
    cache_name: str | None = None
    unit: str = "fp16"
    beside: bool = False

    scaled = False
    static = False

    @property
    def qmax(self) -> float:
        return torch.finfo(self.storage).max

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Cast:
        """Return self; raises EdgelibError, since a cast has no grid to choose."""
        if not symmetric or full_range or scale_rule is not None:
            raise EdgelibError(f"{self.name} is a cast without scale: leave symmetric, full_range and scale_rule alone")
        return self

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Return an empty grid: there is nothing to choose, and nothing to shrink."""
        return NO_GRID

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return blocks in the storage dtype."""
        return blocks.to(self.storage)

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Return the values as float32."""
        return codes.float()

    def snap(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return decode(encode(blocks, grid), grid)."""
        return blocks.to(self.storage).float()

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x to the format and return it in its own dtype."""
        return x.to(self.storage).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x / scale to the format and multiply by scale again; with scale 1 this is round_rows."""
        wide = widened(x.detach())
        return (wide / scale).to(self.storage).to(wide.dtype).mul_(scale).to(x.dtype)


FORMATS = (
    Cast("fp16", 16, torch.float16, "fp16", "fp16", beside=True),
    Cast("bf16", 16, torch.bfloat16, "bf16", "bf16"),
    Cast("fp32", 32, torch.float32, "fp32", "fp32", beside=True),
)
