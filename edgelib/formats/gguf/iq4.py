"""Codes of 4 bits that stand for 16 unevenly spaced values: iq4_nl (one scale a block) and iq4_xs (256 values).

A group's scale is searched over 15 guesses; a value weighs importance * sqrt(twice the block's mean of x^2 + x^2), or
x^2 without importance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.formats.gguf.kind import Kind, Part
from edgelib.formats.gguf.layout import (
    columns,
    from_low_high,
    half_bytes,
    half_values,
    low_high,
    stacked,
    unstacked,
)
from edgelib.formats.gguf.search import EMPTY, inverse, over, ratio, root, rounded, signed_peak, total

VALUES = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.float32)
BETWEEN = (VALUES[1:] + VALUES[:-1]) / 2  # multiples of a half; a tie goes to the larger value
CODES = torch.bucketize(torch.arange(2 * -127, 2 * 113 + 1) / 2, BETWEEN, right=True)  # of -127, -126.5 up to 113
_TRIES = 7


def halves(x: Tensor) -> Tensor:
    """Return where x lies in `CODES`; NaN lies at 0."""
    return (2 * x).nan_to_num_(0.0).clamp_(2 * -127, 2 * 113).floor_().to(torch.int32).add_(2 * 127)


def indices(x: Tensor) -> Tensor:
    """Return the codes of the table's values nearest to x."""
    return CODES.to(x.device)[halves(x)]


def searched(x: Tensor, importance: Tensor | None) -> Tensor:
    """Return the scales [blocks, groups] of groups of 32 in blocks x [blocks, width]."""
    groups, table = columns(x, 32), VALUES[CODES].to(x.device)
    if importance is None:
        weights = groups * groups
    else:
        power = total((x * x).T.contiguous()) * (2 / x.shape[1])
        power = power.repeat_interleave(x.shape[1] // 32)
        weights = columns(importance, 32) * root(power + groups * groups)
    peak, scale = signed_peak(groups), None
    pair = x.new_empty(32, 2, groups.shape[1])
    for guess in (None, *range(-_TRIES, _TRIES + 1)):
        step = over(1, -peak / VALUES[0]) if guess is None else over(guess + float(VALUES[0]), peak)
        q = table[halves(groups * step)]
        wq = weights * q
        torch.mul(wq, groups, out=pair[:, 0])
        torch.mul(wq, q, out=pair[:, 1])
        along, power = total(pair)
        if scale is None:
            scale = ratio(along, power)
            best = scale * along
        else:
            better = (power > 0) & (along * along > best * power)
            scale = torch.where(better, along / power, scale)
            best = torch.where(better, scale * along, best)
    return scale.masked_fill_(peak.abs() < EMPTY, 0.0).view(len(x), -1)


@dataclass(frozen=True)
class NonLinear(Kind):
    """32 values on one half-precision scale."""

    parts = (Part("d", 2), Part("qs", 16))

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 32]."""
        scale = searched(x, importance)
        return {"d": half_bytes(scale[:, 0]), "qs": low_high(indices(x * inverse(scale)))}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 32]."""
        return VALUES.to(parts["qs"].device)[from_low_high(parts["qs"])] * half_values(parts["d"])


@dataclass(frozen=True)
class NonLinearSuper(Kind):
    """256 values in groups of 32, whose scales of 6 bits stand on a half-precision one."""

    parts = (Part("d", 2), Part("scales_h", 2), Part("scales_l", 4), Part("qs", 128))

    def encode(self, x: Tensor, importance: Tensor | None, row_power: Tensor) -> dict[str, Tensor]:
        """Return the parts of blocks x [blocks, 256]."""
        scales = searched(x, importance)
        outer = -signed_peak(scales.T) / 32
        levels = rounded(scales * inverse(outer).unsqueeze(-1), -32, 31)
        steps = inverse(outer.unsqueeze(-1) * levels).unsqueeze(-1)
        codes = indices(x.view(len(x), 8, 32) * steps)
        levels = levels.to(torch.int32) + 32
        return {
            "d": half_bytes(outer),
            "scales_h": stacked((levels >> 4).view(-1, 2, 4, 1), 2),
            "scales_l": stacked((levels & 15).view(-1, 4, 2, 1), 4),
            "qs": low_high(codes.flatten(1)),
        }

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the values [blocks, 256]."""
        high = unstacked(parts["scales_h"].unsqueeze(-1), 4, 2).flatten(1)
        low = unstacked(parts["scales_l"].unsqueeze(-1), 2, 4).flatten(1)
        scale = half_values(parts["d"]) * (low + (high << 4) - 32).float()
        values = VALUES.to(parts["qs"].device)[from_low_high(parts["qs"])]
        return (values.view(-1, 8, 32) * scale.unsqueeze(-1)).flatten(1)


KINDS = (NonLinear("iq4_nl", 4, 32), NonLinearSuper("iq4_xs", 4, 256, "iq4_nl"))
