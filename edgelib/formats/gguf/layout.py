"""How codes and scales become the bytes of a block, and back: planes of bits, half floats, scales of six bits."""

from __future__ import annotations

import torch
from torch import Tensor


def stacked(codes: Tensor, bits: int) -> Tensor:
    """Pack integers [..., k, m] of `bits` bits into bytes [..., m]: the first of the k lowest."""
    shifts = bits * torch.arange(codes.shape[-2], device=codes.device).unsqueeze(-1)
    return (codes.to(torch.int32) << shifts).sum(-2).to(torch.uint8)


def unstacked(packed: Tensor, k: int, bits: int) -> Tensor:
    """Return the integers int32 [..., k, m] that `stacked` packed into bytes [..., m]."""
    shifts = bits * torch.arange(k, device=packed.device).unsqueeze(-1)
    return (packed.to(torch.int32).unsqueeze(-2) >> shifts) & (2**bits - 1)


def half_bytes(x: Tensor) -> Tensor:
    """Return float32 [blocks] as float16 in bytes [blocks, 2], the low one first."""
    return x.to(torch.float16).unsqueeze(-1).view(torch.uint8)


def half_values(packed: Tensor) -> Tensor:
    """Return float32 [blocks, 1] of bytes [blocks, 2]."""
    return packed.contiguous().view(torch.float16).float()


def as_half(x: Tensor) -> Tensor:
    """Return float32 values rounded to float16."""
    return x.to(torch.float16).float()


def columns(x: Tensor, size: int) -> Tensor:
    """Return blocks [blocks, width] as groups that are columns, [size, blocks * width / size]."""
    return x.reshape(-1, size).T.contiguous()


def blocks(groups: Tensor, width: int) -> Tensor:
    """Return blocks [blocks, width] of groups that are columns."""
    return groups.T.reshape(-1, width)


def low_high(codes: Tensor) -> Tensor:
    """Pack codes [blocks, 32 * n] of 4 bits: in every 32, value i below value i + 16."""
    return stacked(codes.unflatten(-1, (-1, 2, 16)), 4).flatten(1)


def from_low_high(packed: Tensor) -> Tensor:
    """Return the codes that `low_high` packed."""
    return unstacked(packed.unflatten(-1, (-1, 16)), 2, 4).flatten(1)


def six_bits(scales: Tensor, offsets: Tensor) -> Tensor:
    """Pack 8 scales and 8 offsets [blocks, 8] of 6 bits into 12 bytes, as q4_k and q5_k hold them.

    Four bytes of scales, four of offsets, whose highest two bits are those of the later four, and four bytes with the
    lower halves of these.
    """
    (s, later_s), (m, later_m) = scales.to(torch.int32).chunk(2, -1), offsets.to(torch.int32).chunk(2, -1)
    lower = (later_s & 15) | (later_m & 15) << 4
    return torch.cat([s | later_s >> 4 << 6, m | later_m >> 4 << 6, lower], -1).to(torch.uint8)


def from_six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and offsets [blocks, 8] that `six_bits` packed."""
    s, m, lower = packed.to(torch.int32).chunk(3, -1)
    scales = torch.cat([s & 63, (lower & 15) | s >> 6 << 4], -1)
    return scales, torch.cat([m & 63, lower >> 4 | m >> 6 << 4], -1)


def row_mean_square(x: Tensor) -> Tensor:
    """Return the mean square [rows] of x [rows, columns], added from the first column to the last."""
    result = x.new_zeros(len(x))
    for some in x.split(256, 1):
        for column in (some * some).T.contiguous():
            result += column
    return result / x.shape[1]
