"""Super-blocks of 256 values in groups of 16 or 32, whose scales are codes themselves: q2_k to q6_k.

Every group is searched by itself, then its scale (and offset) is rounded onto the block's, and the values are rounded
once more on what the block really holds. With importance a value weighs importance * sqrt(c * mean of the block's x^2 +
x^2), c being 1 for q2_k and 2 for the others, and groups weigh in the rounding of scales as much as their values do;
q6_k takes importance as it is and weighs no groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.formats.gguf.kind import Kind, Part
from edgelib.formats.gguf.layout import (
    as_half,
    blocks,
    columns,
    from_six_bits,
    half_bytes,
    half_values,
    six_bits,
    stacked,
    unstacked,
)
from edgelib.formats.gguf.search import (
    EMPTY,
    affine,
    descended_symmetric,
    nearest,
    over,
    positive,
    root,
    rounded,
    signed_peak,
    symmetric,
    total,
)

WIDTH = 256


def block_power(x: Tensor, times: int) -> Tensor:
    """Return times * mean(x^2) of blocks x [blocks, 256], as [blocks]."""
    return times * total((x * x).T.contiguous()) / WIDTH


def weighed(x: Tensor, importance: Tensor, size: int, times: int) -> Tensor:
    """Return importance * sqrt(times * mean(x^2) + x^2) of blocks x [blocks, 256], groups as columns [size, groups]."""
    power = block_power(x, times).repeat_interleave(WIDTH // size)
    groups = columns(x, size)
    return columns(importance, size) * root(power + groups * groups)


def by_group(values: Tensor, size: int) -> Tensor:
    """Return values [groups] as [blocks, groups of a block]."""
    return values.view(-1, WIDTH // size)


def again(x: Tensor, scale: Tensor, offset: Tensor | None, codes: Tensor, low: int, high: int) -> Tensor:
    """Return codes int32 [blocks, 256] of x + offset on the scales [blocks, groups]; old codes where a scale is 0.

    Codes count from 0, that is from `low`.
    """
    x = x.view(len(x), scale.shape[1], -1)
    shifted = x if offset is None else x + offset.unsqueeze(-1)
    new = rounded(shifted / scale.unsqueeze(-1), low, high).sub_(low)
    return torch.where(scale.unsqueeze(-1) != 0, new, codes.view_as(new)).flatten(1).to(torch.int32)


def spread(values: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Return values [blocks, 256] * scale - offset, both [blocks, groups]."""
    product = values.view(len(values), scale.shape[1], -1) * scale.unsqueeze(-1)
    return (product if offset is None else product - offset.unsqueeze(-1)).flatten(1)


@dataclass(frozen=True)
class Affine(Kind):
    """Groups of `size` values with scale and offset of `scale_bits` bits: q2_k, q4_k, q5_k."""

    size: int = 32
    plain: tuple[float, float, int] = (-1.0, 0.1, 20)  # range of the search: first guess, step, tries

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a block, in order."""
        outer = Part("d", 2), Part("dmin", 2)
        if self.bits == 2:
            return Part("scales", 16), Part("qs", 64), *outer
        fifth = (Part("qh", 32),) if self.bits == 5 else ()
        return *outer, Part("scales", 12), *fifth, Part("qs", 128)

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 256]."""
        top = 15 if self.bits == 2 else 63
        search = self._plain if importance is None else self._weighted
        outer_scale, scales, outer_offset, offsets, codes = search(x, importance, top)
        scale = as_half(outer_scale).unsqueeze(-1) * scales
        offset = as_half(outer_offset).unsqueeze(-1) * offsets
        codes = again(x, scale, offset, blocks(codes, WIDTH), 0, 2**self.bits - 1)
        return {"d": half_bytes(outer_scale), "dmin": half_bytes(outer_offset), **self._bytes(scales, offsets, codes)}

    def _plain(self, x: Tensor, importance: None, top: int) -> tuple[Tensor, ...]:
        groups = columns(x, self.size)
        weights = groups.abs()
        if self.bits > 2:
            weights += root(total(groups * groups) / self.size)
        scale, offset, codes = affine(groups, weights, 2**self.bits - 1, *self.plain, absolute=self.bits == 2)
        return *self._levels(scale, top), *self._levels(offset, top), codes

    def _levels(self, values: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """Round scales or offsets [groups] to multiples of the largest of the block / top; return that and the codes"""
        values = by_group(values, self.size)
        largest = values.amax(-1)
        largest = torch.where(largest > 0, largest, 0.0)  # no -0, whose half is another
        step = torch.where(largest > 0, over(top, largest), 0.0).unsqueeze(-1)
        # a scale below 0 wraps around in the reference's byte
        levels = (nearest(step * values).to(torch.int32) & 255).clamp_(max=top)
        return largest / top, levels.float()

    def _weighted(self, x: Tensor, importance: Tensor, top: int) -> tuple[Tensor, ...]:
        groups = columns(x, self.size)
        weights = weighed(x, importance, self.size, 1 if self.bits == 2 else 2)
        scale, offset, codes = affine(groups, weights, 2**self.bits - 1, -0.9, 0.05, 36)
        shares = by_group(total(weights), self.size).T.contiguous()
        made: list[Tensor] = []
        for values in (scale, offset):
            outer, levels = positive(by_group(values, self.size).T.contiguous(), shares, top)
            made += [outer, levels.T]
        return *made, codes

    def _bytes(self, scales: Tensor, offsets: Tensor, codes: Tensor) -> dict[str, Tensor]:
        if self.bits == 2:
            both = (scales.to(torch.int32) | offsets.to(torch.int32) << 4).to(torch.uint8)
            return {"scales": both, "qs": stacked(codes.view(-1, 2, 4, 32), 2)}
        parts = {"scales": six_bits(scales, offsets), "qs": stacked((codes & 15).view(-1, 4, 2, 32), 4)}
        return parts | ({"qh": stacked((codes >> 4).view(-1, 8, 32), 1)} if self.bits == 5 else {})

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 256]."""
        if self.bits == 2:
            scales, offsets = unstacked(parts["scales"], 2, 4).unbind(1)
            codes = unstacked(parts["qs"].unflatten(-1, (2, 32)), 4, 2).flatten(1)
        else:
            scales, offsets = from_six_bits(parts["scales"])
            codes = unstacked(parts["qs"].unflatten(-1, (4, 32)), 2, 4).flatten(1)
        if self.bits == 5:
            codes += unstacked(parts["qh"], 8, 1).flatten(1) << 4
        scale, offset = half_values(parts["d"]) * scales, half_values(parts["dmin"]) * offsets
        return spread(codes.float(), scale, offset)


@dataclass(frozen=True)
class Q3K(Kind):
    """Groups of 16 values of 3 bits with signed scales of 6 bits; the third bits of all values lie apart."""

    parts = (Part("hmask", 32), Part("qs", 64), Part("scales", 12), Part("d", 2))

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 256]."""
        groups = columns(x, 16)
        if importance is None:
            scale, codes = descended_symmetric(groups, 4)
            scale = by_group(scale, 16)
            peak = signed_peak(scale.T)
            step = torch.where(peak != 0, over(-32, peak), 0.0)
            outer = torch.where(peak != 0, over(1, step), 0.0)
            levels = torch.where(peak != 0, rounded(step * scale.T, -32, 31) + 32, 0.0).T
        else:
            weights = weighed(x, importance, 16, 2)
            scale, codes = symmetric(groups, weights, 4)
            shares = by_group(total(weights), 16).T.contiguous()
            outer, levels = symmetric(by_group(scale, 16).T.contiguous(), shares, 32)
            levels = levels.T
        codes = again(x, as_half(outer).unsqueeze(-1) * (levels - 32), None, blocks(codes, WIDTH), -4, 3)
        levels = levels.to(torch.int32)
        lower = stacked((levels & 15).view(-1, 2, 8), 4)
        return {
            "hmask": stacked((codes >> 2).view(-1, 8, 32), 1),
            "qs": stacked((codes & 3).view(-1, 2, 4, 32), 2),
            "scales": torch.cat([lower, stacked((levels >> 4).view(-1, 4, 4), 2)], -1),
            "d": half_bytes(outer),
        }

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 256]."""
        codes = unstacked(parts["qs"].unflatten(-1, (2, 32)), 4, 2).flatten(1)
        codes += unstacked(parts["hmask"], 8, 1).flatten(1) << 2
        lower, upper = parts["scales"].split([8, 4], -1)
        levels = unstacked(lower, 2, 4).flatten(1) + (unstacked(upper, 4, 2).flatten(1) << 4)
        return spread((codes - 4).float(), half_values(parts["d"]) * (levels - 32))


@dataclass(frozen=True)
class Q6K(Kind):
    """Groups of 16 values of 6 bits with signed scales of 8 bits."""

    parts = (Part("ql", 128), Part("qh", 64), Part("scales", 16), Part("d", 2))

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 256]."""
        groups = columns(x, 16)
        weights = groups * groups if importance is None else columns(importance, 16)
        scale, codes = symmetric(groups, weights, 32)
        scale = by_group(scale, 16).T
        peak = signed_peak(scale)
        empty = peak.abs() < EMPTY
        step = over(-128, peak)
        outer = over(1, step).masked_fill_(empty, 0.0)
        levels = nearest(step * scale).clamp_(max=127).masked_fill_(empty, 0.0).T
        codes = again(x, as_half(outer).unsqueeze(-1) * levels, None, blocks(codes, WIDTH), -32, 31)
        codes.masked_fill_(empty.unsqueeze(-1), 0)
        return {
            "ql": stacked((codes & 15).view(-1, 2, 2, 2, 32).flatten(-2), 4),
            "qh": stacked((codes >> 4).view(-1, 2, 4, 32), 2),
            "scales": levels.to(torch.int8).contiguous().view(torch.uint8),
            "d": half_bytes(outer),
        }

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 256]."""
        codes = unstacked(parts["ql"].unflatten(-1, (2, 64)), 2, 4).flatten(1)
        codes += unstacked(parts["qh"].unflatten(-1, (2, 32)), 4, 2).flatten(1) << 4
        scales = parts["scales"].contiguous().view(torch.int8).float()
        return spread((codes - 32).float(), half_values(parts["d"]) * scales)


KINDS = (
    Affine("q2_k", 2, WIDTH, "q4_0", size=16, plain=(-0.5, 0.1, 15)),
    Q3K("q3_k", 3, WIDTH, "q4_0"),
    Affine("q4_k", 4, WIDTH, "q5_0"),
    Affine("q5_k", 5, WIDTH, "q5_1", plain=(-0.5, 0.1, 15)),
    Q6K("q6_k", 6, WIDTH, "q8_0"),
)
