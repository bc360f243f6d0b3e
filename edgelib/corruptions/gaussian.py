"""Gaussian smoothing in whole numbers, and the blur that is nothing else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.products import Band, along_columns, along_rows, bands_of, products_are_exact
from edgelib.corruptions.registry import corruption

FINE = 8  # bits below the point of what `smoothed` returns
_UNIT_BITS = 14


@lru_cache
def gaussian_weights(sigma: float, truncate: float = 4.0) -> tuple[int, ...]:
    """Return whole weights, the centre first, of taps 0, 1 .. round(truncate sigma) to each side; all sum to 2**14."""
    at = np.arange(int(truncate * sigma + 0.5) + 1)
    taps = np.exp(-0.5 * (at / max(sigma, 1e-6)) ** 2)
    taps = taps / (2 * taps.sum() - taps[0])
    whole = np.round(taps[1:] * 2**_UNIT_BITS).astype(int)
    return (2**_UNIT_BITS - 2 * int(whole.sum()), *map(int, whole))


def framed(planes: Tensor, radius: int, dim: int, mode: str) -> Tensor:
    """Return planes continued by `radius` values on both sides of a dimension, in a mode of np.pad."""
    if not radius:
        return planes
    places = np.pad(np.arange(planes.shape[dim]), radius, mode=mode)  # type: ignore[call-overload]
    return planes.index_select(dim, torch.from_numpy(places).to(planes.device))


def smoothed(planes: Tensor, sigma: float, mode: str = "edge", truncate: float = 4.0) -> Tensor:
    """Return int32 planes [P, H, W] smoothed by a Gaussian of sd `sigma` pixels, in units of 2**-`FINE`.

    planes: whole numbers of at most 8 bits and a sign. mode: how they go on outside, as np.pad calls it.
    """
    weights = gaussian_weights(sigma, truncate)
    if products_are_exact(planes.device):
        return _by_products(planes, weights, mode).mul_(2.0 ** (FINE - _UNIT_BITS)).floor_().to(torch.int32)
    values = planes.to(torch.int32)
    for dim, shift in ((1, _UNIT_BITS - FINE), (2, _UNIT_BITS)):
        wide, size = framed(values, len(weights) - 1, dim, mode), values.shape[dim]
        middle = len(weights) - 1
        total = wide.narrow(dim, middle, size) * weights[0]
        for tap, weight in enumerate(weights[1:], start=1):
            pair = wide.narrow(dim, middle - tap, size) + wide.narrow(dim, middle + tap, size)
            total.add_(pair, alpha=weight)
        values = total.add_(1 << (shift - 1)).bitwise_right_shift_(shift)
    return values


@lru_cache(maxsize=64)
def _bands(weights: tuple[int, ...], size: int, mode: str, scale: float) -> list[Band]:
    """Products that smooth a line of `size` values; the weight of a value that is repeated outside is the larger."""
    taps = np.array([*weights[:0:-1], *weights]) * scale
    places = np.pad(np.arange(size), len(weights) - 1, mode=mode)  # type: ignore[call-overload]
    used = places[np.arange(size)[:, None] + np.arange(len(taps))]
    return bands_of(used, np.broadcast_to(taps, used.shape))


def _by_products(planes: Tensor, weights: tuple[int, ...], mode: str) -> Tensor:
    """Return float32 [P, H, W], whole numbers: the sums of `smoothed` before the last shift, rounded down by 2**8.

    Every number is a whole one below 2**24 in its unit, so that no order of summation matters: what the first pass
    leaves is cut into two numbers of 8 bits, which the second smooths one by one.
    """
    values, (count, height, width) = planes.to(torch.float32), planes.shape
    halfway = torch.empty_like(values, memory_format=torch.contiguous_format)
    along_columns(values, _bands(weights, height, mode, 2.0**-_UNIT_BITS), halfway)
    halfway.mul_(2.0**FINE).add_(0.5).floor_().mul_(2.0**-FINE)
    cut = torch.empty(2, *halfway.shape)
    torch.sub(halfway, torch.floor(halfway, out=cut[0]), out=cut[1])
    lines, sums = cut.view(-1, width), torch.empty(2 * count * height, width)
    along_rows(lines, _bands(weights, width, mode, 1.0), sums)
    high, low = sums.view(2, *planes.shape)
    return high.add_(low.add_(2.0 ** (_UNIT_BITS - 1 - FINE)).floor_())


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return uint8 images [n, 3, H, W] smoothed as scikit-image's `gaussian` does, truncated to integers."""
    planes, weights = images.flatten(0, 1), gaussian_weights(sigma)
    if products_are_exact(images.device):
        sums = _by_products(planes, weights, "edge").mul_(2.0**-_UNIT_BITS)
        return sums.to(torch.int16).to(torch.uint8).view(images.shape)
    fine = smoothed(planes, sigma)
    fine.bitwise_right_shift_(FINE)
    return fine.clamp_(0, 255).to(torch.uint8).view(images.shape)


@corruption(
    "blur",
    "sd of the Gaussian, in pixels",
    imagenet_c=(1, 2, 3, 4, 6),
    cifar_c=(0.4, 0.6, 0.7, 0.8, 1),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by scikit-image's gaussian",
)
def gaussian_blur(images, sigma, _keys):
    """v * N(0, sd**2), cut at 4 sd, edge pixels repeated outside; truncated to integers."""
    return blurred(images, sigma)
