"""Small floats: the numbers themselves, such as e4m3, e5m2 and e2m1, and formats that put them on a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgelib.formats.base import Format
from edgelib.formats.bits import pack_channels, unpack_channels
from edgelib.formats.blocks import BlockGrid, saturated, shrunk, widened

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

    @property
    def exponent_bits(self) -> int:
        return (1 - self.emin).bit_length() + 1

    def halves(self, codes: Tensor) -> tuple[Tensor, float]:
        """Return (float16, factor), whose product is the value of codes that int8 holds with their sign, NaN aside.

        The sign goes to the top and exponent and mantissa to the places that float16 has for them; its larger exponent
        bias leaves a factor of a power of two.
        """
        shift = 10 - self.mantissa
        kept = ((1 << (self.exponent_bits + self.mantissa)) - 1) << shift
        wide = codes.to(torch.int16).bitwise_left_shift_(shift).bitwise_and_(kept - 0x8000)
        return wide.view(torch.float16), 2.0 ** (16 - 2 ** (self.exponent_bits - 1))


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index]; this spelling of it is several times faster."""
    return table.index_select(0, index.int().reshape(-1)).view(index.shape)


E4M3 = Minifloat(3, -6, 448.0, torch.float8_e4m3fn)
E5M2 = Minifloat(2, -14, 57344.0, torch.float8_e5m2)
E2M1 = Minifloat(1, 0, 6.0, torch.uint8)


class SmallFloats(Format):
    """What every format of minifloats on a scale does alike, whatever chose the scale."""

    element: Minifloat

    @property
    def storage(self) -> torch.dtype:
        return self.element.storage

    @property
    def qmax(self) -> float:
        return self.element.largest

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return codes of blocks [..., size]; grid need only broadcast, so one column at a time will do."""
        return self.element.encode(blocks / grid.scale)

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Return the values of codes [..., size] in the scale's dtype."""
        return saturated(self.element.decode(codes, grid.scale.dtype) * grid.scale, grid.scale.dtype)

    def snap(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return decode(encode(blocks, grid), grid) without making codes."""
        return saturated(self.element.round_(blocks / grid.scale).mul_(grid.scale), blocks.dtype)

    def nearest_(self, values: Tensor) -> Tensor:
        return self.element.nearest_(values)

    def cache_codes(self, scaled: Tensor) -> Tensor:
        if self.storage.is_floating_point:
            # clamped, so that no cast overflows; torch then rounds as Minifloat.round_ does, in one pass
            return scaled.clamp_(-self.qmax, self.qmax).to(self.storage)
        return pack_channels(self.element.encode(scaled), self.bits)

    def cache_values(self, codes: Tensor) -> tuple[Tensor, float]:
        signed = codes.view(torch.int8) if self.bits == 8 else unpack_channels(codes, self.bits, signed=True)
        return self.element.halves(signed)


@dataclass(frozen=True)
class ScaledFloat(SmallFloats):
    """A small float with one scale per block: scale = amax / 448 for e4m3, amax / 57344 for e5m2.

    Values are divided by the scale, rounded to nearest with ties to even, and saturate (Micikevicius et al. 2022,
    arXiv:2209.05433; torchao, compressed-tensors, ORT with saturate=1). Codes are torch's float8 dtypes, whose bytes
    `.view(torch.uint8)` shows.
    """

    name: str
    bits: int
    element: Minifloat
    word: str | None = None
    cache_name: str | None = None
    compressed_tensors: str | None = None

    unit = "fp8"

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Choose scale [..., 1] for blocks [..., size]; shrink multiplies amax, and values beyond the grid saturate."""
        amax = shrunk(blocks.abs().amax(-1, keepdim=True), shrink)
        return BlockGrid((amax / self.qmax).clamp_(min=torch.finfo(blocks.dtype).tiny))

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


FORMATS = (
    ScaledFloat("fp8_e4m3", 8, E4M3, word="fp8", cache_name="e4m3", compressed_tensors="float"),
    ScaledFloat("fp8_e5m2", 8, E5M2, word="fp8-e5m2", cache_name="e5m2"),
)
