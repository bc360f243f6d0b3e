"""Integer formats: signed codes of 2 to 8 bits on an even grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.base import Format
from edgelib.formats.bits import pack_channels, unpack_channels
from edgelib.formats.blocks import BlockGrid, saturated, shrunk, widened


@dataclass(frozen=True)
class Integer(Format):
    """Signed integers of 2 to 8 bits with one scale per block, symmetric or with a zero point.

    symmetric: scale = amax / qmax, codes in [-qmax, qmax], qmax = 2**(bits - 1) - 1 (SmoothQuant, modelopt, ORT).
    full_range: scale = 2 amax / (2**bits - 1), codes in [-qmax - 1, qmax] (torchao, compressed-tensors, GPTQ).
    not symmetric: scale = (max - min) / (2**bits - 1) over a range that includes 0, zero = round(qmin - min / scale)
    (torchao, compressed-tensors, llm-awq, ORT). Rounding is to nearest, ties to even, after a true division. A grid may
    reach beyond the data; a value beyond the largest finite number of its dtype is decoded to that number.
    """

    name: str
    bits: int
    symmetric: bool = True
    full_range: bool = False
    cache_name: str | None = None

    storage = torch.int8
    even = True
    word = ""
    unit = "int8"
    compressed_tensors = "int"

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def options(self) -> dict[str, object]:
        return {"symmetric": self.symmetric, "full_range": self.full_range}

    @property
    def qmin(self) -> int:
        return -self.qmax if self.symmetric and not self.full_range else -self.qmax - 1

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Integer:
        """Return this format with another grid; raises EdgelibError for a combination that does not exist."""
        if scale_rule is not None:
            raise EdgelibError(f"scale_rule={scale_rule!r} belongs to the mx formats; {self.name} takes none")
        if full_range and not symmetric:
            raise EdgelibError("full_range=True is a symmetric grid; an asymmetric one uses every code anyway")
        return replace(self, symmetric=symmetric, full_range=full_range)

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Choose scale (and zero) [..., 1] for blocks [..., size]; an all-zero block gets the smallest normal scale.

        shrink multiplies the range before the scale is chosen; values beyond the grid saturate.
        """
        smallest = torch.finfo(blocks.dtype).tiny
        if self.symmetric:
            amax = shrunk(blocks.abs().amax(-1, keepdim=True), shrink)
            return BlockGrid((amax / ((self.qmax - self.qmin) / 2)).clamp_(min=smallest))
        low = shrunk(blocks.amin(-1, keepdim=True).clamp_(max=0), shrink)
        high = shrunk(blocks.amax(-1, keepdim=True).clamp_(min=0), shrink)
        # halved, which is exact, because max - min may overflow
        scale = ((high / 2 - low / 2) / ((self.qmax - self.qmin) / 2)).clamp_(min=smallest)
        return BlockGrid(scale, (self.qmin - low / scale).round_().clamp_(self.qmin, self.qmax))

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return int8 codes of blocks [..., size]; grid need only broadcast, so one column at a time will do."""
        return self._levels(blocks, grid).to(self.storage)

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Return the values of codes [..., size] in the scale's dtype."""
        return self._values(codes.to(grid.scale.dtype), grid)

    def snap(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return decode(encode(blocks, grid), grid) without making codes."""
        return self._values(self._levels(blocks, grid), grid)

    def _levels(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        levels = (blocks / grid.scale).round_()
        if grid.zero is not None:
            levels += grid.zero
        return levels.clamp_(self.qmin, self.qmax)

    def _values(self, levels: Tensor, grid: BlockGrid) -> Tensor:
        return saturated((levels if grid.zero is None else levels - grid.zero) * grid.scale, levels.dtype)

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh symmetric scale per row: fake_quantize(x, self, granularity="token"), fast.

        The hot path of every quantized layer, so one temporary and no clamp: |x| / scale cannot pass qmax by
        more than a rounding error. A row that holds NaN or inf comes back as NaN, never as a plausible number.
        No gradient passes: rounding has none.
        """
        wide = widened(x.detach())
        rounded = wide.abs()
        # abs().amax() is vectorised along the last axis; aminmax and the inf-norm are several times slower there
        scale = rounded.amax(-1, keepdim=True).div_(self.qmax).clamp_(min=torch.finfo(wide.dtype).tiny)
        return torch.div(wide, scale, out=rounded).round_().mul_(scale).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x with a scale chosen beforehand; values beyond qmax * scale saturate."""
        return (widened(x.detach()) / scale).round_().clamp_(self.qmin, self.qmax).mul_(scale).to(x.dtype)

    def nearest_(self, values: Tensor) -> Tensor:
        return values.round_()

    def cache_codes(self, scaled: Tensor) -> Tensor:
        return pack_channels(scaled.round_().clamp_(self.qmin, self.qmax).to(torch.int8), self.bits)

    def cache_values(self, codes: Tensor) -> tuple[Tensor, float]:
        return unpack_channels(codes, self.bits, signed=True), 1.0


FORMATS = (
    Integer("int2", 2),
    Integer("int3", 3),
    Integer("int4", 4, cache_name="int4"),
    Integer("int8", 8, cache_name="int8"),
)
