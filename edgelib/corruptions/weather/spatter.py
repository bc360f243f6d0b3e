"""Spatter: drops of water or mud on the lens."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import pad

from edgelib.corruptions.gaussian import FINE, smoothed
from edgelib.corruptions.registry import corruption
from edgelib.corruptions.weather.edges import POINT, canny, distances, spread
from edgelib.ground.randomness import bits

_RANKS = 1 << 16
UNIT = 29  # of a standard deviation: 2**16 quantiles fit into 7 bits and a sign
_WATER, _MUD = (175, 238, 238), (63, 42, 20)  # RGB
_REACH = 20  # pixels from an edge at which light no longer changes
_WHOLE = 7 + FINE  # bits of a cover that is complete


@lru_cache
def _quantiles() -> np.ndarray:
    return np.round(UNIT * ndtri((np.arange(_RANKS) + 0.5) / _RANKS)).astype(np.int32)


def noise(keys: Tensor, height: int, width: int) -> Tensor:
    """Return int32 [n, H, W]: N(0, 1) in units of 1 / 29."""
    count = height * width
    ranks = bits(keys, (count + 1) // 2).view(torch.int16)[:, :count].int() + _RANKS // 2
    table = torch.from_numpy(_quantiles()).to(keys.device)
    return table.index_select(0, ranks.flatten()).view(-1, height, width)


def _box(planes: Tensor) -> Tensor:
    """Return the sums of 3 x 3 neighbours of planes [n, H, W], mirrored at the border without repeating the edge."""
    framed = _mirrored(planes)
    rows = framed[:, :-2] + framed[:, 1:-1] + framed[:, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def _mirrored(planes: Tensor) -> Tensor:
    return pad(planes[:, None], [1, 1, 1, 1], mode="reflect")[:, 0]


def gleam(water: Tensor) -> Tensor:
    """Return float32 [n, H, W], whole numbers from 0 to 255: how bright water is, by the distance from its edges.

    water: uint8 grey levels of its depth, 0 where there is none. Distances of up to 20 pixels from Canny's edges are
    averaged, cut to whole numbers, spread over all levels, sharpened towards the lower right and averaged again.
    """
    far = distances(canny(water, 50, 150), _REACH)
    near = _box(far.float()).div_(9 << POINT).to(torch.uint8)  # exact sums; no quotient is rounded to a whole number
    framed = _mirrored(spread(near).float())
    upper, middle, lower = framed[:, :-2], framed[:, 1:-1], framed[:, 2:]
    edge = lower[..., 2:] * 2 + lower[..., 1:-1] + middle[..., 2:] + middle[..., 1:-1]
    edge = edge - middle[..., :-2] - upper[..., 1:-1] - upper[..., :-2] * 2
    return _box(edge.clamp_(0, 255)).div_(9).round_()


def spattered(images: Tensor, smooth: Tensor, level: tuple) -> Tensor:
    """Return uint8 images under the drops that smoothed `noise` makes, int32 [n, H, W] in units of 1 / 29 / 2**8."""
    mean, sd, _, limit, last, mud = level
    unit = UNIT << FINE
    wet = smooth > math.floor((limit - mean) / sd * unit)
    if mud:
        cover = smoothed(wet.int() << 7, last)
        cover = torch.where(cover < 0.8 * 2**_WHOLE, 0, cover)[:, None]
        colour = torch.tensor(_MUD, dtype=torch.int32, device=images.device).view(1, 3, 1, 1)
        values = images.int()
        return values.add_((colour - values).mul_(cover) >> _WHOLE).to(torch.uint8)
    depth = smooth.double().mul_(255 * sd / unit).add_(255 * mean).clamp_(0, 255)
    water = torch.where(wet, depth, 0).to(torch.uint8)
    light = gleam(water).mul_(water)
    most = light.flatten(1).amax(dim=1)[:, None, None]
    light = light.mul_(last / most.clamp(min=1))[:, None]
    bands = [(light * band).to(torch.int16) for band in _WATER]
    return torch.cat(bands, dim=1).add_(images).clamp_(max=255).to(torch.uint8)


@corruption(
    "weather",
    "(mean and sd of the noise, sd of its smoothing in pixels, the least that is wet, brightness of water or sd of the "
    "edge of mud, whether it is mud)",
    imagenet_c=(
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
    cifar_c=(
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    random=True,
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by steps of OpenCV",
)
def spatter(images, level, keys):
    """Water: v + brightness gleam depth / max(gleam depth) (175, 238, 238); mud: v (1 - c) + c (63, 42, 20).

    Wet is where smoothed noise reaches a limit. The gleam of water grows with the distance from its edges and is spread
    over all levels, as `gleam` says; its depth is the noise. The cover c of mud is what is wet, smoothed, and 0 below
    0.8. Clipped, truncated to integers. An image that stays dry comes back unchanged; the peers divide by zero there.
    """
    return spattered(images, smoothed(noise(keys, *images.shape[2:]), level[2]), level)
