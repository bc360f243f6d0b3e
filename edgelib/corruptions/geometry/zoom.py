"""Zoom: the average of an image and of larger and larger copies of its middle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.registry import corruption

POINT = 9  # bits of a weight: 8 + 2 * 9 bits of a value and 27 layers fit into 32


@lru_cache(maxsize=256)
def zoom_places(size: int, factor: float, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (first, second, weight of the second in units of 2**-9), each [size], of the pixels of an enlarged line.

    As the peers, by SciPy's `zoom` of order 1: the middle ceil(size / factor) pixels become round(that * factor), ends
    on ends. part: "start" or "middle", which counts of what is too long.
    """
    kept = int(np.ceil(size / factor))
    top, long = (size - kept) // 2, round(kept * factor)
    at = (np.arange(size) + ((long - size) // 2 if part == "middle" else 0)) * ((kept - 1) / max(long - 1, 1))
    first = np.minimum(at.astype(int), kept - 1)
    weight = np.round((at - first) * 2**POINT).astype(np.int32)
    return top + first, top + np.minimum(first + 1, kept - 1), weight


def enlarged(planes: Tensor, factor: float, part: str) -> Tensor:
    """Return int32 planes [P, H, W] enlarged by a factor of at least 1, same size, with `2 * POINT` more bits."""
    rows, columns = (zoom_places(size, factor, part) for size in planes.shape[1:])
    return _between(_between(planes, 1, rows), 2, columns)


def _between(planes: Tensor, dim: int, places: tuple[np.ndarray, ...]) -> Tensor:
    first, second, weight = (torch.from_numpy(part).to(planes.device) for part in places)
    shape = (-1, 1) if dim == 1 else (-1,)
    start = planes.index_select(dim, first)
    step = planes.index_select(dim, second).sub_(start).mul_(weight.view(shape))
    return start.bitwise_left_shift_(POINT).add_(step)


@corruption(
    "blur",
    "(where the factors of the copies stop, their steps, the part that is kept of a copy too long)",
    imagenet_c=tuple((*s, "start") for s in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    cifar_c=tuple((last, 0.01, "middle") for last in (1.06, 1.11, 1.16, 1.21, 1.26)),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by SciPy's zoom",
)
def zoom_blur(images, level, _keys):
    """The mean of the image and of its middle enlarged by each factor from 1 on, bilinear; truncated to integers.

    The factors are np.arange(1, stop, step). Of a copy that is a pixel too long imagecorruptions keeps the start,
    CIFAR-10-C the middle.
    """
    stop, step, kept = level
    factors = np.arange(1, stop, step).tolist()
    planes = images.flatten(0, 1).to(torch.int32)
    total = planes << 2 * POINT
    for factor in factors:
        total.add_(enlarged(planes, factor, kept))
    return total.floor_divide_((len(factors) + 1) << 2 * POINT).to(torch.uint8).view(images.shape)
