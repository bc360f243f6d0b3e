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
from edgelib.formats.base import Format, times
from edgelib.formats.bits import pack_channels, unpack_channels
from edgelib.formats.blocks import NO_GRID, narrowed, saturated, widened

Parts = tuple[Tensor, ...]
SCALE_DTYPE = torch.bfloat16  # of scales that tokens bring along: the range of float32 in two bytes
START_DTYPE = torch.float16  # of where integers count from, in units of `_unit`: more digits, in two bytes as well


@dataclass(frozen=True)
class Exact:
    """States as they are, or cast to a floating format; overflow in a cast saturates."""

    format: Format | None = None
    bound = math.inf

    def encode(self, x: Tensor) -> Parts:
        if self.format is None:
            return (x,)
        return (saturated(widened(x).clone(), self.format.storage).to(self.format.storage),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return narrowed(parts[0], dtype)


@dataclass(frozen=True)
class Blocks:
    """Whole blocks of channels whose bytes hold their own scales, as a GGUF type has them."""

    format: Format
    bound = math.inf

    def encode(self, x: Tensor) -> Parts:
        if not x.numel():
            width = round(x.shape[-1] * self.format.bits_per_element() / 8)
            return (torch.empty(*x.shape[:-1], width, dtype=torch.uint8, device=x.device),)
        return (self.format.encode(x, NO_GRID),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return narrowed(self.format.decode(parts[0], NO_GRID), dtype)


@dataclass(frozen=True)
class Static:
    """Codes on scales chosen beforehand, [1], [H, 1, 1] or [H, 1, D]; what lies beyond the grid saturates.

    Of a format with two levels of scales it is the outer one, and blocks of channels find theirs when they are written.

    read_scale: what values are multiplied by when read, the same scale unless it is not delivered.
    """

    format: Format
    scale: Tensor
    read_scale: Tensor

    @property
    def bound(self) -> Tensor:
        return self.scale * self.format.qmax

    def encode(self, x: Tensor) -> Parts:
        return self.format.cache_encode(x, self.scale)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return self.format.cache_decode(parts, self.read_scale, dtype)


@dataclass(frozen=True)
class Simulated:
    """One effect of a format, kept in the states' own dtype: "range" saturates, "resolution" rounds, "none" neither."""

    format: Format
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
            scaled = self.format.nearest_(scaled)
        return (narrowed(scaled.mul_(self.read_scale), x.dtype),)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)


@dataclass(frozen=True)
class PerToken:
    """Codes on scales found when a token is written, one per head or per `group` channels.

    Even grids count from the smallest value of the group up (KIVI), all others have one scale on either side of zero.
    """

    format: Format
    group: int
    bound = math.inf

    def encode(self, x: Tensor) -> Parts:
        groups = widened(x).unflatten(-1, (-1, self.group))
        if not self.format.even:
            scale = _upward(groups.abs().amax(-1) / self.format.qmax)
            return self.format.cache_codes((groups / scale.unsqueeze(-1).to(groups)).flatten(-2)), scale
        low, high = groups.aminmax(dim=-1)
        start, scale = affine_grid(low, high, self.format.bits)
        return affine_codes(groups, start.unsqueeze(-1), scale.unsqueeze(-1), self.format.bits, flat=-2), scale, start

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        work = torch.float64 if dtype == torch.float64 else torch.float32
        if not self.format.even:
            values, factor = self.format.cache_values(parts[0])
            scale = parts[1].to(work).mul_(factor).unsqueeze(-1)
            return times(values.unflatten(-1, (-1, self.group)), scale, dtype).flatten(-2)
        steps = unpack_channels(parts[0], self.format.bits, signed=False).to(work).unflatten(-1, (-1, self.group))
        scale, low = parts[1].to(work), affine_start(parts[2], parts[1], self.format.bits).to(work)
        scale, low = scale.unsqueeze(-1), low.unsqueeze(-1)
        return narrowed(torch.addcmul(low, steps, scale), dtype).flatten(-2)


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
    """Codes from 0 to 2**bits - 1, packed by channels; `flat` merges the axes from there first."""
    steps = (x - affine_start(start, scale, bits).to(x)).div_(scale.to(x))
    codes = steps.round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    codes = codes if flat is None else codes.flatten(flat)
    return pack_channels(codes, bits)


def require_finite(x: Tensor, what: str) -> None:
    """Raise EdgelibError for NaN or inf, which codes could not tell from numbers."""
    # the sum is cheap, and not finite if a value is not; a sum that overflows takes the second look
    if not math.isfinite(float(x.sum())) and not bool(torch.isfinite(x).all()):
        raise EdgelibError(f"{what} hold NaN or inf, so nothing can be stored; find the operation that made them")
