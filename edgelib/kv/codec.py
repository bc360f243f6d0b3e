"""How tokens of a key-value cache become codes and values again.

A codec turns states [B, H, T, D] into `parts`, tensors [B, H, T, *] of which the first are the codes, so that whoever
stores them may append, cut and select without knowing the format; `bound` is the largest size that does not saturate, a
number or a tensor that broadcasts against [B, H, T, D]. Decoding is the cost of every step of generation:
codes reach floats in a few passes over small integers, without a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.blocks import block_amax, saturated, split, widened
from edgelib.formats.floating import E2M1, E4M3, Cast, Float8, Minifloat
from edgelib.formats.integer import Integer
from edgelib.formats.microscaling import NVFP4

Parts = tuple[Tensor, ...]
SCALE_DTYPE = torch.bfloat16  # of scales that tokens bring along: the range of float32 in two bytes
START_DTYPE = torch.float16  # of where integers count from, in units of `_unit`: more digits, in two bytes as well


def packed(codes: Tensor) -> Tensor:
    """4-bit codes [..., D] -> bytes [..., D / 2]: the first half of the channels below, the second above."""
    low, high = codes.view(torch.uint8).chunk(2, -1)
    return (high << 4).bitwise_or_(low & 15)


def unpacked(codes: Tensor) -> Tensor:
    """Bytes [..., D / 2] -> signed 4-bit codes [..., D] in int8."""
    signed = codes.view(torch.int8)
    return torch.cat([signed << 4, signed], -1).bitwise_right_shift_(4)


def small_floats(codes: Tensor, element: Minifloat) -> tuple[Tensor, float]:
    """Signed codes of a small float in int8 -> (float16, factor) whose product is the value, NaN aside.

    The sign goes to the top and exponent and mantissa to the places that float16 has for them; its larger exponent bias
    leaves a factor of a power of two.
    """
    exponent = {torch.float8_e4m3fn: 4, torch.float8_e5m2: 5, torch.uint8: 2}[element.storage]
    shift = 10 - element.mantissa
    kept = ((1 << (exponent + element.mantissa)) - 1) << shift
    wide = codes.to(torch.int16).bitwise_left_shift_(shift).bitwise_and_(kept - 0x8000)
    return wide.view(torch.float16), 2.0 ** (16 - 2 ** (exponent - 1))


def _values(codes: Tensor, format: Integer | Float8) -> tuple[Tensor, float]:
    if isinstance(format, Integer):
        return (unpacked(codes) if format.bits == 4 else codes), 1.0
    return small_floats(codes.view(torch.int8), format.element)


def _times(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return _narrowed(values.to(scale.dtype).mul_(scale), dtype)


def _narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    return saturated(values, dtype).to(dtype) if dtype == torch.float16 else values.to(dtype)


def _codes(scaled: Tensor, format: Integer | Float8) -> Tensor:
    """Codes of values that are divided by their scale, in a tensor of our own."""
    if isinstance(format, Integer):
        codes = scaled.round_().clamp_(format.qmin, format.qmax).to(torch.int8)
        return packed(codes) if format.bits == 4 else codes
    # clamped, so that no cast overflows; torch then rounds as Minifloat.round_ does, in one pass
    return scaled.clamp_(-format.qmax, format.qmax).to(format.storage)


@dataclass(frozen=True)
class Exact:
    """States as they are, or cast to a floating format; overflow in a cast saturates."""

    format: Cast | None = None
    bound = math.inf

    def encode(self, x: Tensor) -> Parts:
        return (x if self.format is None else saturated(widened(x).clone(), self.format.dtype).to(self.format.dtype),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return _narrowed(parts[0], dtype)


@dataclass(frozen=True)
class Static:
    """Codes on scales chosen beforehand, [1], [H, 1, 1] or [H, 1, D]; what lies beyond the grid saturates.

    read_scale: what values are multiplied by when read, the same scale unless it is not delivered.
    """

    format: Integer | Float8
    scale: Tensor
    read_scale: Tensor

    @property
    def bound(self) -> Tensor:
        return self.scale * self.format.qmax

    def encode(self, x: Tensor) -> Parts:
        return (_codes(x / self.scale, self.format),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        values, factor = _values(parts[0], self.format)
        return _times(values, self.read_scale * factor, dtype)


@dataclass(frozen=True)
class Simulated:
    """One effect of a format, kept in the states' own dtype: "range" saturates, "resolution" rounds, "none" neither."""

    format: Integer | Float8
    scale: Tensor
    effect: str
    read_scale: Tensor

    @property
    def bound(self) -> Tensor | float:
        return self.scale * self.format.qmax if self.effect == "range" else math.inf

    def encode(self, x: Tensor) -> Parts:
        scaled = widened(x) / self.scale
        if self.effect == "range":
            scaled = scaled.clamp_(-self.format.qmax, self.format.qmax)
        elif self.effect == "resolution":
            scaled = scaled.round_() if isinstance(self.format, Integer) else self.format.element.nearest_(scaled)
        return (_narrowed(scaled.mul_(self.read_scale), x.dtype),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)


@dataclass(frozen=True)
class Blocks:
    """nvfp4: e2m1 codes in pairs and one e4m3 scale per 16 channels, on an outer scale [1] or [H, 1, 1]."""

    format: NVFP4
    outer: Tensor

    @property
    def bound(self) -> Tensor:
        return self.outer * self.format.qmax

    def encode(self, x: Tensor) -> Parts:
        blocks, outer = split(widened(x), self.format.block), self.outer.unsqueeze(-1)
        # as NVFP4.fit and NVFP4.encode do, in fewer passes
        inner = block_amax(blocks.abs()).div_(E2M1.largest * outer).clamp_(2.0**-9, E4M3.largest).to(E4M3.storage)
        values = E2M1.round_(blocks / (inner.to(outer.dtype) * outer))
        bits = values.mul_(2.0**-14).half().view(torch.int16)  # the inverse of `small_floats`
        codes = (bits >> 9).bitwise_and_(7).bitwise_or_((bits >> 12).bitwise_and_(8)).to(torch.int8)
        return packed(codes.flatten(-2)), inner.squeeze(-1)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        values, factor = small_floats(unpacked(parts[0]), self.format.element)
        inner, inner_factor = small_floats(parts[1].view(torch.int8), E4M3)
        scale = (inner.to(self.outer.dtype) * (self.outer * (factor * inner_factor))).unsqueeze(-1)
        return _times(split(values, self.format.block), scale, dtype).flatten(-2)


@dataclass(frozen=True)
class PerToken:
    """Codes on scales found when a token is written, one per head or per `group` channels.

    Integers count from the smallest value of the group up (KIVI), small floats have one scale on either side of zero.
    """

    format: Integer | Float8
    group: int
    bound = math.inf

    def encode(self, x: Tensor) -> Parts:
        groups = widened(x).unflatten(-1, (-1, self.group))
        if isinstance(self.format, Float8):
            scale = _upward(groups.abs().amax(-1) / self.format.qmax)
            return _codes(groups / scale.unsqueeze(-1).to(groups), self.format).flatten(-2), scale
        start, scale = affine_grid(*groups.aminmax(dim=-1), self.format.bits)
        return affine_codes(groups, start.unsqueeze(-1), scale.unsqueeze(-1), self.format.bits, flat=-2), scale, start

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        work = torch.float64 if dtype == torch.float64 else torch.float32
        if isinstance(self.format, Float8):
            values, factor = _values(parts[0], self.format)
            scale = parts[1].to(work).mul_(factor).unsqueeze(-1)
            return _times(values.unflatten(-1, (-1, self.group)), scale, dtype).flatten(-2)
        steps = counted(parts[0], self.format.bits).to(work).unflatten(-1, (-1, self.group))
        scale, low = parts[1].to(work), affine_start(parts[2], parts[1], self.format.bits).to(work)
        scale, low = scale.unsqueeze(-1), low.unsqueeze(-1)
        return _narrowed(torch.addcmul(low, steps, scale), dtype).flatten(-2)


def _upward(scale: Tensor) -> Tensor:
    """Scales of our own in their storage dtype, a little larger rather than smaller, so that nothing saturates."""
    tiny = torch.finfo(SCALE_DTYPE).tiny
    return scale.mul_(1 + 2.0**-8).clamp_(tiny, torch.finfo(SCALE_DTYPE).max / 1.01).to(SCALE_DTYPE)


def affine_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(start, step) as stored of a grid of 2**bits values that covers [low, high]; `affine_start` reads the start.

    A channel of keys can be a large constant and little else, and what the start loses widens the grid. It has the
    digits of a half float, as in KIVI, but counts in a unit of the grid's own size, so that no state is out of range.
    """
    largest = torch.finfo(SCALE_DTYPE).max / 4
    low, high = low.clamp(-largest, largest), high.clamp(-largest, largest)
    # the start is rounded down, by a last digit at most
    step = _upward(torch.add(high - low, low.abs(), alpha=2.0**-10).div_(2**bits - 1))
    start = low / _unit(step, bits).to(low)
    return torch.sub(start, start.abs(), alpha=2.0**-11).to(START_DTYPE), step


def affine_start(start: Tensor, step: Tensor, bits: int) -> Tensor:
    """The smallest value of a grid of `affine_grid`, in float32."""
    return start.float().mul_(_unit(step, bits))


def _unit(step: Tensor, bits: int) -> Tensor:
    """A power of two, in float32, by less than a factor of two off the range of 2**bits steps."""
    powers = step.view(torch.int16).bitwise_and(0x7F80).view(SCALE_DTYPE)  # exponents without mantissas
    return powers.float().mul_(2**bits)


def affine_codes(x: Tensor, start: Tensor, scale: Tensor, bits: int, flat: int | None = None) -> Tensor:
    """Codes from 0 to 2**bits - 1 as stored: bytes, or pairs of 4 bits; `flat` merges the axes from there first."""
    steps = (x - affine_start(start, scale, bits).to(x)).div_(scale.to(x))
    codes = steps.round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    codes = codes if flat is None else codes.flatten(flat)
    return packed(codes) if bits == 4 else codes


def counted(codes: Tensor, bits: int) -> Tensor:
    """The unsigned codes of `affine_codes`."""
    return torch.cat([codes & 15, codes >> 4], -1) if bits == 4 else codes


def require_finite(x: Tensor, what: str) -> None:
    """Raise EdgelibError for NaN or inf, which codes could not tell from numbers."""
    # the sum is cheap, and not finite if a value is not; a sum that overflows takes the second look
    if not math.isfinite(float(x.sum())) and not bool(torch.isfinite(x).all()):
        raise EdgelibError(f"{what} hold NaN or inf, so nothing can be stored; find the operation that made them")
