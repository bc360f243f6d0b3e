"""Blurs, computed exactly: weights are integers that sum to about 2**16.

A weighted sum of bytes then stays below 2**24, where float32 holds every integer: no order of summation, batch size,
thread count or library changes a bit. Rounding the weights moves a result by a few hundredths of a grey level.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..randomness import uniform
from .registry import corruption

_UNIT = 1 << 16
_TILE = 4
_MARGIN = 2.0**-10  # added before truncation, so that a constant image keeps its value


@lru_cache
def disk_kernel(radius: float, alias_blur: float) -> np.ndarray:
    """Return the float64 [k, k] disk of `radius` pixels, softened by a Gaussian of sd `alias_blur` pixels.

    As in ImageNet-C the disk lives on a 17 x 17 grid (2 radius + 1 if that is larger), is softened with 3 x 3 (5 x 5)
    taps and mirrored at the edge of that grid, so that at radius 8 and 10 its sum is above 1. Empty borders are cut.
    """
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    at = np.arange(-half, half + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * alias_blur**2))
    blur = np.zeros((len(at), len(at)))
    for offset, tap in zip(range(-reach, reach + 1), taps / taps.sum(), strict=True):
        mirrored = 2 * half - np.abs(2 * half - np.abs(at + offset + half))
        blur[np.arange(len(at)), mirrored] += tap
    kernel = blur @ (disk / disk.sum()) @ blur.T
    used = np.flatnonzero(kernel.max(axis=0) * _UNIT >= 0.5)
    return kernel[used[0] : used[-1] + 1, used[0] : used[-1] + 1]


@lru_cache
def _tiled_weights(radius: float, alias_blur: float) -> tuple[Tensor, float]:
    """Return (integer weights [16, 1, k + 3, k + 3], their scale): 16 shifted copies compute a 4 x 4 tile at once."""
    kernel = disk_kernel(radius, alias_blur)
    whole = np.round(kernel * _UNIT)
    size = len(whole)
    weights = torch.zeros(_TILE, _TILE, size + _TILE - 1, size + _TILE - 1)
    for i in range(_TILE):
        for j in range(_TILE):
            weights[i, j, i : i + size, j : j + size] = torch.from_numpy(whole)
    return weights.view(_TILE**2, 1, *weights.shape[2:]), float(kernel.sum() / whole.sum())


@corruption(
    "blur",
    "(disk radius, sd of its soft edge), in pixels",
    imagenet_c=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    cifar_c=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by OpenCV's filter2D",
    notes="Mirrored at the border without repeating the edge (OpenCV's default); truncated to integers. "
    "ImageNet-C severities 4 and 5 brighten by about 1 %, because their kernels sum to more than 1.",
)
def defocus_blur(images, level, _keys):
    height, width = images.shape[2:]
    weights, scale = _tiled_weights(*level)
    exact = torch.float32 if images.device.type == "cpu" else torch.float64  # GPUs may round float32 products (TF32)
    half = (weights.shape[-1] - _TILE) // 2
    fill = [half, half + -width % _TILE, half, half + -height % _TILE]
    planes = F.pad(images.to(exact), fill, mode="reflect").flatten(0, 1).unsqueeze(1)
    tiles = F.conv2d(planes, weights.to(planes), stride=_TILE).mul_(scale).add_(_MARGIN).clamp_(max=255)
    return _untiled(tiles)[:, :height, :width].to(torch.uint8).view(images.shape)


def _untiled(tiles: Tensor) -> Tensor:
    """Return [P, 4 h, 4 w] from tiles [P, 16, h, w]: pixel_shuffle, several times faster on a CPU."""
    planes, _, rows, columns = tiles.shape
    whole = tiles.new_empty(planes, rows, _TILE, columns, _TILE)
    for column, part in enumerate(tiles.view(planes, _TILE, _TILE, rows, columns).unbind(2)):
        whole[..., column] = part.transpose(1, 2)
    return whole.view(planes, _TILE * rows, _TILE * columns)


def motion_taps(radius: float, sigma: float, angle: float, height: int, width: int):
    """Return the lists (rows, columns, integer weights) of the pixels that a moving camera averages.

    Tap i = 0 .. 2 radius lies i pixels along `angle` (degrees), rounded to the grid, half down; its weight is a half
    Gaussian of sd `sigma`. The list ends, without renormalising, at the first tap that is out by a whole image side.
    """
    along = np.arange(int(2 * radius + 1))
    direction = np.deg2rad(angle)
    rows, columns = (np.ceil(along * f(direction) - 0.5).astype(int) for f in (np.sin, np.cos))
    weights = np.exp(-(along**2) / (2 * sigma**2))
    weights = np.round(_UNIT * weights / weights.sum())
    outside = np.flatnonzero((np.abs(rows) >= height) | (np.abs(columns) >= width))
    end = outside[0] if len(outside) else len(along)
    return rows[:end].tolist(), columns[:end].tolist(), weights[:end].tolist()


def motion_blurred(images: Tensor, level: tuple, angles: list[float]) -> Tensor:
    """Return uint8 images [n, 3, H, W], image i blurred along angles[i] (degrees); edge pixels are repeated outside."""
    height, width = images.shape[2:]
    taps = [motion_taps(*level, angle, height, width) for angle in angles]
    above, below = -min(min(t[0]) for t in taps), max(max(t[0]) for t in taps)
    left, right = -min(min(t[1]) for t in taps), max(max(t[1]) for t in taps)
    padded = F.pad(images.float(), [left, right, above, below], mode="replicate")
    _, plane, stride, _ = padded.stride()
    sums = torch.zeros(images.shape, device=images.device)
    for image, total, (rows, columns, weights) in zip(padded, sums, taps, strict=True):
        origin = image.storage_offset() + above * stride + left
        for row, column, weight in zip(rows, columns, weights, strict=True):
            window = image.as_strided(total.shape, (plane, stride, 1), origin + row * stride + column)
            total.add_(window, alpha=weight)
    return sums.mul_(1 / _UNIT).add_(_MARGIN).to(torch.uint8)


@corruption(
    "blur",
    "(radius, sd of the half Gaussian along the motion), in pixels; angle uniform in (-45, 45) degrees",
    imagenet_c=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    cifar_c=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    random=True,
    source="imagecorruptions 1.1.2; CIFAR-10-C used the same kernel in ImageMagick",
    notes="CIFAR-10-C severities 3 and 4 differ by the radius only, where the weights have vanished: they are "
    "equal, and kept so. On an image smaller than the motion the kernel is cut and not renormalised, "
    "which darkens it, as imagecorruptions does. Truncated to integers.",
)
def motion_blur(images, level, keys):
    angles = uniform(keys, 1)[:, 0] * 90 - 45
    return motion_blurred(images, level, angles.tolist())
