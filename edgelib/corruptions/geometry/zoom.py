"""Zoom: the average of an image and of larger and larger copies of its middle."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.products import Band, along_rows, bands_of, products_are_exact
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


@lru_cache(maxsize=256)
def _bands(size: int, factor: float, part: str) -> list[Band]:
    """Products that enlarge a line of `size` values."""
    first, second, weight = zoom_places(size, factor, part)
    return bands_of(np.stack([first, second], axis=1), np.stack([2**POINT - weight, weight], axis=1))


def enlarged(planes: Tensor, factor: float, part: str) -> Tensor:
    """Return int32 planes [P, H, W] enlarged by a factor of at least 1, same size, with `2 * POINT` more bits.

    planes: whole numbers of at most 14 bits and a sign, in any type.
    """
    rows, columns = (zoom_places(size, factor, part) for size in planes.shape[1:])
    if not products_are_exact(planes.device):
        return _between(_between(planes.int(), 1, rows), 2, columns)
    first, second, weight = rows
    top, width = int(first[0]), planes.shape[2]
    wide = _wider(planes[:, top : int(second[-1]) + 1].to(torch.float32).reshape(-1, width), factor, part)
    return _between(wide.to(torch.int32).view(len(planes), -1, width), 1, (first - top, second - top, weight))


def _wider(lines: Tensor, factor: float, part: str, out: Tensor | None = None) -> Tensor:
    """Return float32 lines [L, W] enlarged along W, with `POINT` more bits: exact, as whole numbers below 2**24 are."""
    return along_rows(lines, _bands(lines.shape[1], factor, part), torch.empty_like(lines) if out is None else out)


def _sum_of_enlarged(planes: Tensor, factors: list[float], part: str) -> Tensor:
    """Return the int32 sum of `enlarged` over factors, in memory that is taken once."""
    if not products_are_exact(planes.device):
        return torch.stack([enlarged(planes, factor, part) for factor in factors]).sum(dim=0, dtype=torch.int32)
    lines = planes.to(torch.float32).flatten(0, 1)
    total = torch.zeros(planes.shape, dtype=torch.int32)
    wide, whole, start, step = torch.empty_like(lines), *(torch.empty_like(total) for _ in range(3))
    for factor in factors:
        whole.copy_(_wider(lines, factor, part, wide).view(planes.shape))
        first, second, weight = (torch.from_numpy(places) for places in zoom_places(planes.shape[1], factor, part))
        torch.index_select(whole, 1, first, out=start)
        torch.index_select(whole, 1, second, out=step)
        total.add_(step.sub_(start).mul_(weight[:, None])).add_(start, alpha=2**POINT)
    return total


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
    _, *factors = np.arange(1, stop, step).tolist()
    planes = images.flatten(0, 1)
    total = _sum_of_enlarged(planes, factors, kept).bitwise_right_shift_(2 * POINT).to(torch.float32)
    total.add_(planes, alpha=2)  # the image, and its copy by the first factor, 1
    mean = total.add_(0.5).mul_(1 / (len(factors) + 2))  # half a part off any integer
    return mean.to(torch.int16).to(torch.uint8).view(images.shape)
