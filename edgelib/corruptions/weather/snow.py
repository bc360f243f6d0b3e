"""Snow: bright flakes that fall along one direction, and a picture that is whiter for them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from edgelib.corruptions.blur import motion_blurred
from edgelib.corruptions.geometry.zoom import POINT, enlarged
from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import bits, uniform

_RANKS = 1 << 16
_FINE = 2  # bits of a flake's brightness below the point


@lru_cache
def _brightness(mean: float, sd: float) -> np.ndarray:
    """Return int32 grey levels of N(mean, sd**2) at the 2**16 quantiles, in units of 2**-2."""
    return np.round(255 * 2**_FINE * (mean + sd * ndtri((np.arange(_RANKS) + 0.5) / _RANKS))).astype(np.int32)


def flakes(keys: Tensor, height: int, width: int, level: tuple) -> Tensor:
    """Return uint8 [n, 1, H, W]: noise enlarged by a factor, what is darker than a limit left out, blurred as it falls.

    level: as `snow` has it. Image i falls along its own angle in (-135, -45) degrees.
    """
    mean, sd, factor, limit, radius, sigma, _, part = level
    count = height * width
    words = bits(keys, (count + 1) // 2 + 1)
    table = torch.from_numpy(_brightness(mean, sd)).to(keys.device)
    ranks = words[:, :-1].contiguous().view(torch.int16)[:, :count].int() + _RANKS // 2
    noise = table.index_select(0, ranks.flatten()).view(-1, height, width)
    layer = enlarged(noise, factor, part) >> (2 * POINT)
    layer = torch.where(layer < limit * 255 * 2**_FINE, 0, layer).clamp_(0, 255 << _FINE) >> _FINE
    angles = uniform(keys, words.shape[1])[:, -1] * 90 - 135
    return motion_blurred(layer.to(torch.uint8)[:, None], (radius, sigma), angles.tolist(), margin=0.5)


@corruption(
    "weather",
    "(mean and sd of the flakes' brightness, their size, the least brightness that is seen, radius and sd of their "
    "fall in pixels, share of the picture that stays, part kept of an enlarged layer)",
    imagenet_c=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8, "start"),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7, "start"),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7, "start"),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65, "start"),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55, "start"),
    ),
    cifar_c=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95, "middle"),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9, "middle"),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9, "middle"),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85, "middle"),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8, "middle"),
    ),
    random=True,
    source="imagecorruptions 1.1.2; make_cifar_c.py of hendrycks/robustness with its motion blur by ImageMagick",
)
def snow(images, level, keys):
    """share v + (1 - share) max(v, 1.5 grey + 127.5) + flakes + flakes turned by half a turn; clipped, truncated."""
    share = level[6]
    height, width = images.shape[2:]
    layer = flakes(keys, height, width, level).float()
    red, green, blue = (images[:, band : band + 1].float() for band in range(3))
    grey = (red * 0.299 + green * 0.587).add_(blue * 0.114).mul_(1.5).add_(127.5)
    values = images.float()
    whiter = torch.maximum(values, grey).mul_(1 - share)
    total = values.mul_(share).add_(whiter).add_(layer).add_(layer.flip(2, 3))
    return total.clamp_(0, 255).to(torch.uint8)
