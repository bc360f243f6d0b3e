"""Fog: haze of a random height map over the image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.registry import corruption
from edgelib.errors import EdgelibError
from edgelib.ground.memory import require_free
from edgelib.ground.randomness import bits

_LARGEST_MAP, _LARGE_MAP = 8192, 2048  # sides: what is drawn at all, and what is drawn without asking for memory
_MAP_BYTES = 32  # of a point of a map while it is drawn


@lru_cache(maxsize=16)
def _amplitudes(size: int, decay: float, device: torch.device) -> Tensor:
    """Return float32 [size**2]: the amplitude of each draw of `plasma`, in units of 2**31."""
    levels = size.bit_length() - 1
    wibbles = np.divide.accumulate([100.0] + [decay] * (levels - 1))
    squares, counts = [*wibbles**2, 0.0], [*(3 * 4 ** np.arange(levels)), 1]  # the last draw is not used
    return torch.from_numpy(np.repeat(squares, counts) / 2**31).to(device, torch.float32)


def plasma(keys: Tensor, size: int, decay: float) -> Tensor:
    """Return float32 [n, size, size] in [0, 1]: periodic diamond-square height maps; `size` is a power of two.

    Each refinement adds to the mean of four neighbours w * U(-w, w), so an amplitude of w**2 (the peers' code does
    that), with w = 100 at first and divided by `decay` at each halving of the grid.
    """
    n = len(keys)
    draws = bits(keys, size * size).bitwise_and_(-512).bitwise_xor_(256 - 2**31)  # odd multiples of 2**8: exact floats
    draws = draws.to(torch.float32).mul_(_amplitudes(size, decay, keys.device))
    grid, used = torch.zeros(n, 1, 1, device=keys.device), 0
    while (side := grid.shape[1]) < size:
        middle, right, under = draws[:, used : used + 3 * side * side].view(n, 3, side, side).unbind(1)
        below = grid + grid.roll(-1, 1)
        middle.add_(below + below.roll(-1, 2), alpha=0.25)
        right.add_((grid + grid.roll(-1, 2)).add_(middle).add_(middle.roll(1, 1)), alpha=0.25)
        under.add_(below.add_(middle).add_(middle.roll(1, 2)), alpha=0.25)
        finer = torch.empty(n, side, 2, side, dtype=torch.complex64, device=keys.device)  # pairs: interleaves fastest
        torch.complex(grid, right, out=finer[:, :, 0])
        torch.complex(under, middle, out=finer[:, :, 1])
        grid, used = torch.view_as_real(finer).view(n, 2 * side, 2 * side), used + 3 * side * side
    low, high = grid.flatten(1).amin(dim=1)[:, None, None], grid.flatten(1).amax(dim=1)[:, None, None]
    return grid.sub_(low).div_(high - low)


def map_side(images: Tensor, name: str) -> int:
    """Return the side of the square map that covers the images: their longer side, rounded up to a power of two.

    name: of the corruption that asks. Raises EdgelibError for images whose longer side needs a map beyond 8,192, or one
    that does not fit into memory.
    """
    size = 1 << (max(images.shape[2:]) - 1).bit_length()
    if size > _LARGEST_MAP:
        height, width = images.shape[2:]
        raise EdgelibError(
            f"{name} on images of {width:,} x {height:,} pixels needs a map of {size:,} x {size:,}, and none larger "
            f"than {_LARGEST_MAP:,} x {_LARGEST_MAP:,} is drawn; shrink or cut the images to at most {_LARGEST_MAP:,} "
            f"pixels a side, or leave out {name}"
        )
    if size > _LARGE_MAP:
        needed = _MAP_BYTES * size * size * len(images)
        require_free(needed, f"the map of {size:,} x {size:,} of {name}", f"shrink the images, or leave out {name}")
    return size


def hazed(images: Tensor, amount: float, maps: Tensor) -> Tensor:
    """Return uint8 images under the haze of maps [n, >= H, >= W] in [0, 1], rescaled so that the peak value stays."""
    height, width = images.shape[2:]
    peak = images.flatten(1).amax(dim=1).to(torch.float32)[:, None, None, None]
    haze = maps[:, None, :height, :width] * (255 * amount)
    return images.to(torch.float32).add_(haze).mul_(peak / (peak + 255 * amount)).to(torch.int16).to(torch.uint8)


@corruption(
    "weather",
    "(amount of haze in units of the full range, decay of its roughness)",
    random=True,
    imagenet_c=((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    cifar_c=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
)
def fog(images, level, keys):
    """(v + 255 amount m) peak / (peak + 255 amount), with a `plasma` map m in [0, 1] and peak, the largest v.

    The map is the upper left corner of a square whose side is the longer side of the image, rounded up to a power of
    two: 256 at 224 pixels and 32 at 32, as both peers. Its roughness enters squared, as theirs. Truncated to integers.
    Raises EdgelibError for images whose longer side needs a map beyond 8,192, or one that does not fit into memory.
    """
    amount, decay = level
    return hazed(images, amount, plasma(keys, map_side(images, "fog"), decay))
