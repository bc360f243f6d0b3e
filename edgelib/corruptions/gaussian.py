"""Gaussian smoothing in whole numbers, and the blur that is nothing else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

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


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return uint8 images [n, 3, H, W] smoothed as scikit-image's `gaussian` does, truncated to integers."""
    fine = smoothed(images.flatten(0, 1), sigma)
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
