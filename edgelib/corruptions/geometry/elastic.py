"""Elastic warps: each pixel comes from a place nearby, and neighbours from neighbouring places."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.gaussian import FINE, smoothed
from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import bits, uniform

_POINT = 8  # bits of a coordinate below the point
_EXTRA = 4  # bits of a grey level that are kept between two warps
_PACKED = 21  # bits of a channel while three travel as one number


@lru_cache(maxsize=32)
def _edges(size: int, mode: str, device: torch.device) -> Tensor:
    """Places of -2 size .. 3 size in an image that goes on as np.pad says ("reflect" or "symmetric")."""
    places = np.pad(np.arange(size), (2 * size, 2 * size + 1), mode=mode)  # type: ignore[call-overload]
    return torch.from_numpy(places).to(device)


def _reached(places: Tensor, size: int) -> tuple[int, int]:
    """Return the first of `places` and the neighbour of the last, no more than two sides outside."""
    return max(int(places.min()), -2 * size), min(int(places.max()) + 1, 3 * size)


def warped(values: Tensor, rows: Tensor, columns: Tensor, mode: str) -> Tensor:
    """Return int32 [n, 3, H, W]: int32 `values` at coordinates [n, H, W], between pixels by bilinear weights.

    values: from 0 to 2**13 - 1. rows, columns: int32, in units of 2**-8 pixels, less than two sides outside. The result
    has 16 more bits below the point than the values. The three channels travel as one number of 64 bits.
    """
    n, channels, height, width = values.shape
    mask, one = (1 << _POINT) - 1, 1 << _POINT
    down, right = rows & mask, (columns & mask).long().flatten()
    y, x = rows >> _POINT, columns >> _POINT
    (top, bottom), (start, stop) = _reached(y, height), _reached(x, width)
    lines = _edges(height, mode, values.device)[top + 2 * height : bottom + 2 * height + 1]
    packed = values[:, 0].long()
    for channel in range(1, channels):
        packed.add_(values[:, channel], alpha=1 << _PACKED * channel)
    framed = packed.index_select(1, lines)
    framed = framed.index_select(2, _edges(width, mode, values.device)[start + 2 * width : stop + 2 * width + 1])
    tall, wide = framed.shape[1:]
    first = torch.arange(n, dtype=torch.int64, device=values.device).mul_(tall * wide).view(-1, 1, 1)
    place = ((y - top) * wide + (x - start) + first).flatten()
    flat = framed.flatten()
    between = []
    for step in (0, wide):
        left = flat.index_select(0, place + step if step else place)
        pair = flat[step + 1 :].index_select(0, place).sub_(left).mul_(right).add_(left.mul_(one))
        between.append(pair.view(n, height, width))
    upper, lower = between
    result = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    few = (1 << _PACKED) - 1
    for channel in range(channels):
        above, below = ((part >> _PACKED * channel & few).int() for part in (upper, lower))
        torch.add(below.sub_(above).mul_(down), above.mul_(one), out=result[:, channel])
    return result


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows = torch.arange(height, dtype=torch.int32, device=device)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.int32, device=device).expand(height, width)
    return rows << _POINT, columns << _POINT


def displacements(keys: Tensor, height: int, width: int, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Return int32 [n, H, W] rows and columns in units of 2**-8 pixels: alpha times smoothed uniform noise in (-1, 1).

    alpha, sigma: in pixels; the Gaussian is cut at 3 sd and the noise goes on mirrored. Draws have 7 bits and a sign.
    """
    n, count = len(keys), height * width
    draws = bits(keys, 2 * count) >> 24  # -128 .. 127
    noise = draws.view(2 * n, height, width).mul(2).add_(1)  # odd: symmetric about zero, in units of 1/256
    fine = smoothed(noise, sigma, mode="symmetric", truncate=3.0)
    moved = fine.double().mul_(alpha * 2**_POINT / (256 << FINE)).round_().to(torch.int32)
    return moved.view(n, 2, height, width).unbind(1)


def affine_matrices(keys: Tensor, height: int, width: int, reach: float) -> np.ndarray:
    """Return float64 [n, 2, 3]: output (x, y) -> source (x, y), where the corners of a triangle move up to `reach`.

    reach: in pixels. The corners lie a third of the shorter side from the centre, as in make_cifar_c.py.
    """
    centre, third = np.array([width // 2, height // 2], float), min(height, width) // 3
    before = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    draws = uniform(keys, 2 * height * width + 6)[:, -6:].double()  # after those of `displacements`
    draws = draws.cpu().numpy().reshape(-1, 3, 2)
    after = before + (2 * draws - 1) * reach
    ones = np.ones((len(keys), 3, 1))
    found = np.linalg.solve(np.concatenate([after, ones], axis=2), np.broadcast_to(before, after.shape))
    return found.transpose(0, 2, 1)


def _affine(images: Tensor, keys: Tensor, reach: float) -> Tensor:
    """Images under a random affine map, as int32 in units of 2**-4 levels; mirrored outside as OpenCV does."""
    height, width = images.shape[2:]
    matrices = torch.from_numpy(np.round(affine_matrices(keys, height, width, reach) * 2**20).astype(np.int64))
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrices.to(images.device).unbind(1))
    y = torch.arange(height, device=images.device)[:, None].expand(height, width)
    x = torch.arange(width, device=images.device).expand(height, width)
    shift, half = 20 - _POINT, 1 << (19 - _POINT)
    columns, rows = (
        (p[:, None, None] * x + q[:, None, None] * y + r[:, None, None] + half >> shift).int()
        for p, q, r in ((a, b, c), (d, e, f))
    )
    drop = 2 * _POINT - _EXTRA
    return warped(images.int(), rows, columns, "reflect").add_(1 << (drop - 1)) >> drop


@corruption(
    "digital",
    "(alpha, sd of the smoothing, reach of the affine map), in sides of the image",
    imagenet_c=tuple((250 * a * 0.005, 0.01, 0.0) for a in (0.05, 0.065, 0.085, 0.1, 0.12)),
    cifar_c=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    random=True,
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
)
def elastic_transform(images, level, keys):
    """v(p + d(p)) with d = alpha times uniform noise in (-1, 1) under a Gaussian; after a random affine map (cifar-c).

    Between pixels bilinear, outside mirrored; truncated to integers. imagecorruptions has no affine map, and its
    smoothing is a hundredth of the side. alpha of the height serves both directions, as there.
    """
    alpha, sigma, reach = level
    height, width = images.shape[2:]
    shorter = min(height, width)
    values, held = (_affine(images, keys, reach * shorter), _EXTRA) if reach else (images.int(), 0)
    if alpha:
        rows, columns = displacements(keys, height, width, alpha * height, sigma * shorter)
        y, x = _grid(height, width, images.device)
        values = warped(values, rows + y, columns + x, "symmetric")
        held += 2 * _POINT
    return (values >> held).clamp_(0, 255).to(torch.uint8)
