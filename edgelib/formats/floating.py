"""Floating formats: the small floats e4m3, e5m2 and e2m1, fp8 with a scale, and casts without one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.blocks import Grid, saturated, shrunk, widened

# dtype -> integer of the same width, mask of its exponent bits, mantissa bits
LAYOUT = {torch.float32: (torch.int32, 0xFF << 23, 23), torch.float64: (torch.int64, 0x7FF << 52, 52)}


@dataclass(frozen=True)
class Minifloat:
    """A float of a sign, few exponent bits and `mantissa` stored bits, whose rounding saturates.

    emin: exponent of the smallest normal number; below it the spacing stays 2**(emin - mantissa). largest: the largest
    finite value. storage: the dtype of codes, float8 or, for e2m1, uint8 below 16 (8 for the sign, then the magnitude).
    Rounding is ours, to nearest with ties to even, and saturates: torch's own casts do so for e4m3 in recent versions
    only and for e5m2 in none, and a cast there and back takes several times as long on CPUs.
    """

    mantissa: int
    emin: int
    largest: float
    storage: torch.dtype

    @property
    def emax(self) -> int:
        return math.frexp(self.largest)[1] - 1

    @cached_property
    def magnitudes(self) -> list[float]:
        """The non-negative values in order, so that the position of a value is its code without the sign."""
        steps = range(2**self.mantissa)
        spacing = [2.0 ** (e - self.mantissa) for e in range(self.emin, self.emax + 1)]
        normal = [(len(steps) + k) * space for space in spacing for k in steps]
        return [k * spacing[0] for k in steps] + [value for value in normal if value <= self.largest]

    def round_(self, values: Tensor) -> Tensor:
        """Round float32 or float64 values in place; whatever lies beyond `largest`, inf too, becomes it; NaN stays."""
        return self.nearest_(values.clamp_(-self.largest, self.largest))

    def nearest_(self, values: Tensor) -> Tensor:
        """Round in place values that pass `largest` by no more than a rounding error."""
        whole, exponent_bits, digits = LAYOUT[values.dtype]
        power = (values.view(whole) & exponent_bits).view(values.dtype).clamp_(min=2.0**self.emin)
        # a sum this many binades above the value has room for its first `mantissa` bits only, and the adder rounds
        room = 1.5 * 2.0 ** (digits - self.mantissa)
        return values.add_(power, alpha=room).sub_(power, alpha=room)

    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of the nearest numbers, zeros with the sign of what they came from."""
        rounded = self.round_(values.clone()).copysign_(values)
        if self.storage.is_floating_point:
            return rounded.to(self.storage)
        steps = [round(value / self.magnitudes[1]) for value in self.magnitudes]
        code_of = torch.zeros(steps[-1] + 1, dtype=self.storage, device=values.device)
        code_of[steps] = torch.arange(len(steps), dtype=self.storage, device=values.device)
        # NaN, which has no code, must not leave the table
        step = (rounded.abs() / self.magnitudes[1]).int().clamp_(0, steps[-1])
        return _looked_up(code_of, step).add_(rounded.signbit(), alpha=len(steps))

    def decode(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the values of codes in `dtype`."""
        if self.storage.is_floating_point:
            values = torch.arange(256, dtype=torch.uint8, device=codes.device).view(self.storage).to(dtype)
        else:
            signed = self.magnitudes + [-value for value in self.magnitudes]
            values = torch.tensor(signed, dtype=dtype, device=codes.device)
        return _looked_up(values, codes.view(torch.uint8))


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index]; this spelling of it is several times faster."""
    return table.index_select(0, index.int().reshape(-1)).view(index.shape)


E4M3 = Minifloat(3, -6, 448.0, torch.float8_e4m3fn)
E5M2 = Minifloat(2, -14, 57344.0, torch.float8_e5m2)
E2M1 = Minifloat(1, 0, 6.0, torch.uint8)


def one_grid(name: str, symmetric: bool, full_range: bool, scale_rule: str | None) -> None:
    """Raise EdgelibError when a format whose grid is fixed is asked for another one."""
    if not symmetric or full_range:
        raise EdgelibError(f"symmetric and full_range choose integer grids; {name} has one grid, so leave them alone")
    if scale_rule is not None:
        raise EdgelibError(f"scale_rule={scale_rule!r} belongs to the mx formats; {name} takes none")


class Scaled:
    """What every format of minifloats on a scale does alike, whatever chose the scale."""

    element: Minifloat

    @property
    def storage(self) -> torch.dtype:
        return self.element.storage

    def encode(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return codes of blocks [..., size]; grid need only broadcast, so one column at a time will do."""
        return self.element.encode(blocks / grid.scale)

    def decode(self, codes: Tensor, grid: Grid) -> Tensor:
        """Return the values of codes [..., size] in the scale's dtype."""
        return saturated(self.element.decode(codes, grid.scale.dtype) * grid.scale, grid.scale.dtype)

    def snap(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return decode(encode(blocks, grid), grid) without making codes."""
        return saturated(self.element.round_(blocks / grid.scale).mul_(grid.scale), blocks.dtype)


@dataclass(frozen=True)
class Float8(Scaled):
    """An 8-bit float with one scale per block: scale = amax / 448 for e4m3, amax / 57344 for e5m2.

    Values are divided by the scale, rounded to nearest with ties to even, and saturate (Micikevicius et al. 2022,
    arXiv:2209.05433; torchao, compressed-tensors, ORT with saturate=1). Codes are torch's float8 dtypes, whose bytes
    `.view(torch.uint8)` shows.
    """

    name: str
    element: Minifloat
    bits: ClassVar[int] = 8
    block: ClassVar[None] = None

    @property
    def qmax(self) -> float:
        return self.element.largest

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Float8:
        """Return self; raises EdgelibError, since there is one grid."""
        one_grid(self.name, symmetric, full_range, scale_rule)
        return self

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> Grid:
        """Choose scale [..., 1] for blocks [..., size]; shrink multiplies amax, and values beyond the grid saturate."""
        amax = shrunk(blocks.abs().amax(-1, keepdim=True), shrink)
        return Grid((amax / self.qmax).clamp_(min=torch.finfo(blocks.dtype).tiny))

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh scale per row: fake_quantize(x, self, granularity="token"), fast.

        A row that holds NaN or inf comes back as NaN. No gradient passes: rounding has none.
        """
        wide = widened(x.detach())
        rounded = wide.abs()
        scale = rounded.amax(-1, keepdim=True).div_(self.qmax).clamp_(min=torch.finfo(wide.dtype).tiny)
        return self.element.nearest_(torch.div(wide, scale, out=rounded)).mul_(scale).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x with a scale chosen beforehand; values beyond qmax * scale saturate. Scale 1 rounds x as it is."""
        return self.element.round_(widened(x.detach()) / scale).mul_(scale).to(x.dtype)

    def bits_per_element(self, group_size: int, scale_bits: int = 32) -> float:
        """Return stored bits per element when each group of `group_size` carries one scale."""
        return self.bits + scale_bits / group_size


@dataclass(frozen=True)
class Cast:
    """A floating format without scale: values are rounded to `dtype`, ties to even.

    A cast does not saturate: overflow becomes inf (1e6 in fp16), which the function `encode` refuses.
    """

    name: str
    bits: int
    dtype: torch.dtype
    block: ClassVar[None] = None

    @property
    def qmax(self) -> float:
        return torch.finfo(self.dtype).max

    @property
    def storage(self) -> torch.dtype:
        return self.dtype

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Cast:
        """Return self; raises EdgelibError, since a cast has no grid to choose."""
        if not symmetric or full_range or scale_rule is not None:
            raise EdgelibError(f"{self.name} is a cast without scale: leave symmetric, full_range and scale_rule alone")
        return self

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> Grid:
        """Return an empty grid: there is nothing to choose, and nothing to shrink."""
        return Grid(None)

    def encode(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return blocks in the storage dtype."""
        return blocks.to(self.dtype)

    def decode(self, codes: Tensor, grid: Grid) -> Tensor:
        """Return the values as float32."""
        return codes.float()

    def snap(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return decode(encode(blocks, grid), grid)."""
        return blocks.to(self.dtype).float()

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x to the format and return it in its own dtype."""
        return x.to(self.dtype).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x / scale to the format and multiply by scale again; with scale 1 this is round_rows."""
        wide = widened(x.detach())
        return (wide / scale).to(self.dtype).to(wide.dtype).mul_(scale).to(x.dtype)

    def bits_per_element(self, group_size: int, scale_bits: int = 32) -> float:
        """Return the bits of one element; a cast stores no scales."""
        return float(self.bits)
