"""Blocks of 32 values with one half-precision scale: q4_0, q4_1, q5_0, q5_1, q8_0.

Without importance the scale is that of the largest value or of the range, and values are rounded to it; with importance
both are searched (`edgelib.formats.gguf.search`), a value x weighing importance * sqrt(mean of the row's x^2 + x^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.formats.gguf.kind import Kind, Part
from edgelib.formats.gguf.layout import (
    blocks,
    columns,
    from_low_high,
    half_bytes,
    half_values,
    low_high,
    stacked,
    unstacked,
)
from edgelib.formats.gguf.search import affine, inverse, lowest, root, signed_peak, symmetric


@dataclass(frozen=True)
class Legacy(Kind):
    """A block with a scale and, if `offset`, an offset, each a half float; 4 bits a value and perhaps a fifth apart."""

    offset: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a block, in order."""
        offset = (Part("m", 2),) if self.offset else ()
        fifth = (Part("qh", 4),) if self.bits == 5 else ()
        return Part("d", 2), *offset, *fifth, Part("qs", 16)

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 32]."""
        x, levels = columns(x, 32), 2**self.bits - 1
        if importance is None:
            scale, low, codes = (self._by_range if self.offset else self._by_peak)(x, levels)
        else:
            weights = columns(importance, 32) * root(row_power + x * x)
            if self.offset:
                scale, below, codes = affine(x, weights, levels, -0.9, 0.05, 36)
                low = -below
            else:
                (scale, codes), low = symmetric(x, weights, 2 ** (self.bits - 1)), None
        codes = blocks(codes, 32).to(torch.int32)
        parts = {"d": half_bytes(scale), "qs": low_high(codes & 15)}
        if low is not None:
            parts["m"] = half_bytes(low)
        if self.bits == 5:
            parts["qh"] = stacked((codes >> 4).view(-1, 4, 8, 1), 1).flatten(1)
        return parts

    def _by_peak(self, x: Tensor, levels: int) -> tuple[Tensor, None, Tensor]:
        half = 2 ** (self.bits - 1)
        scale = signed_peak(x) / -half
        return scale, None, (x * inverse(scale)).add_(half + 0.5).trunc_().clamp_(0, levels)

    def _by_range(self, x: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
        low = lowest(x)
        scale = (x.amax(0) - low + 0.0) / levels  # no -0, whose half is another
        return scale, low, ((x - low) * inverse(scale)).add_(0.5).trunc_().clamp_(0, levels)

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 32]."""
        codes = from_low_high(parts["qs"])
        if self.bits == 5:
            codes += unstacked(parts["qh"].unsqueeze(-1), 8, 1).flatten(1) << 4
        if self.offset:
            return codes.float() * half_values(parts["d"]) + half_values(parts["m"])
        return (codes - 2 ** (self.bits - 1)).float() * half_values(parts["d"])


@dataclass(frozen=True)
class Bytes(Kind):
    """A half-precision scale and 32 signed bytes; importance changes nothing."""

    parts = (Part("d", 2), Part("qs", 32))

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 32]."""
        scale = x.abs().amax(-1) / 127
        scaled = x * inverse(scale).unsqueeze(-1)
        codes = scaled.abs().add_(0.5).trunc_().copysign_(scaled)  # ties away from zero
        return {"d": half_bytes(scale), "qs": codes.to(torch.int8).view(torch.uint8)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 32]."""
        return parts["qs"].contiguous().view(torch.int8).float() * half_values(parts["d"])


KINDS = (
    Legacy("q4_0", 4, 32),
    Legacy("q4_1", 4, 32, offset=True),
    Legacy("q5_0", 5, 32),
    Legacy("q5_1", 5, 32, offset=True),
    Bytes("q8_0", 8, 32),
)
