"""What every number format shares: the grid of a block, and how a tensor is cut into blocks and put together."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class BlockGrid(NamedTuple):
    """Where a block's codes lie: value = (code - zero) * scale.

    scale holds all levels of scaling multiplied; a cast has none (`NO_GRID`). zero is None on a symmetric grid. outer
    is the fp32 scale that nvfp4 stores its block scales relative to, None elsewhere: encoding and decoding do not need
    it.
    """

    scale: Tensor
    zero: Tensor | None = None
    outer: Tensor | None = None


NO_GRID = BlockGrid(None)  # type: ignore[arg-type]


def widened(x: Tensor) -> Tensor:
    """Return x in the precision that grids are computed in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values clamped, in place, to the finite range of `dtype`."""
    largest = torch.finfo(dtype).max
    return values.clamp_(-largest, largest) if torch.finfo(values.dtype).max >= largest else values


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in `dtype`; what is too large for float16, the only narrow range, becomes its largest number."""
    return saturated(values, dtype).to(dtype) if dtype == torch.float16 else values.to(dtype)


def shrunk(bound: Tensor, shrink: float | Tensor) -> Tensor:
    """Return bound * shrink in bound's dtype; shrink is a number or broadcasts against bound [..., groups, 1]."""
    return bound * (shrink.to(bound) if isinstance(shrink, Tensor) else shrink)


def split(x: Tensor, size: int) -> Tensor:
    """Return x [..., width] as [..., groups, size]; zeros fill a last group that `size` does not divide."""
    missing = -x.shape[-1] % size
    return (F.pad(x, (0, missing)) if missing else x).unflatten(-1, (-1, size))


def joined(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Return blocks [..., groups, size] as a tensor of `shape`, without the zeros that `split` appended."""
    if blocks.numel() == shape.numel():
        return blocks.reshape(shape)
    return blocks.flatten(-2)[..., : shape[-1] if shape else 1].reshape(shape)


def block_amax(magnitudes: Tensor) -> Tensor:
    """Return the largest of each block [..., groups, size] of non-negative values, as [..., groups, 1]."""
    *shape, groups, size = magnitudes.shape
    if size >= 32:
        return magnitudes.amax(-1, keepdim=True)
    # on CPUs a reduction over few elements is not vectorised; a pooling is several times faster at 16
    return F.max_pool1d(magnitudes.reshape(-1, groups * size), size).view(*shape, groups, 1)
