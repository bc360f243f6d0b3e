"""Noise that acts on one value at a time, drawn by exact inversion.

For a value v in 0..255 a noise is a law over 0..255, so one 16-bit uniform number per value and a table of quantiles
are enough: no transcendental function is evaluated per pixel. The distribution functions are exact to 2**-16, the
result is the same integer on every device and in every batch, and a quantile grows with its uniform number, so the
same image keeps the same noise pattern at every severity, only stronger.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import torch
from scipy.special import ndtr, ndtri, pdtr
from torch import Tensor

from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import bits

_STEPS = 1 << 16
_noise = partial(
    corruption,
    "noise",
    random=True,
    source="imagecorruptions 1.1.2 (ImageNet-C) and make_cifar_c.py of hendrycks/robustness (CIFAR-10-C)",
)


def _ranks(images: Tensor, keys: Tensor) -> Tensor:
    """Return int16 uniform on -2**15 .. 2**15 - 1, one per value of the images: two per hashed word."""
    count = images[0].numel()
    return bits(keys, (count + 1) // 2).view(torch.int16)[:, :count].reshape(images.shape)


def _added(images: Tensor, shift: Tensor) -> Tensor:
    """Return clamp(v + shift) of uint8 and int16; `shift` is overwritten."""
    return shift.add_(images.to(torch.int16)).clamp_(0, 255).to(torch.uint8)


@lru_cache
def gaussian_quantiles(sd: float) -> np.ndarray:
    """Return int16 floor(255 * sd * z) at the 2**16 quantiles z; v + floor(x) = floor(v + x), the peers' truncation."""
    return np.floor(255 * sd * ndtri((np.arange(_STEPS) + 0.5) / _STEPS)).astype(np.int16)


@_noise(
    "standard deviation, in units of the full range",
    imagenet_c=(0.08, 0.12, 0.18, 0.26, 0.38),
    cifar_c=(0.04, 0.06, 0.08, 0.09, 0.10),
)
def gaussian_noise(images, sd, keys):
    """v + 255 N(0, sd**2), clipped, then truncated to integers as the peers do: the mean drops by half a level."""
    table = torch.from_numpy(gaussian_quantiles(sd)).to(images.device)
    place = _ranks(images, keys).to(torch.int32).add_(_STEPS // 2)
    return _added(images, table.index_select(0, place.flatten()).view(images.shape))


@_noise(
    "share of values replaced, half by 0 and half by 255",
    imagenet_c=(0.03, 0.06, 0.09, 0.17, 0.27),
    cifar_c=(0.01, 0.02, 0.03, 0.05, 0.07),
)
def impulse_noise(images, amount, keys):
    """0 on the lowest amount / 2 of the quantiles, 255 on the highest, else v; each channel is hit on its own.

    As in scikit-image's random_noise, whose draws no seed of NumPy's global generator controls; ours follow `seed`.
    """
    rank, spared = _ranks(images, keys), _STEPS // 2 - round(_STEPS * amount / 2)
    hit = rank.clamp(-spared - 1, spared).sub_(rank.clamp(-spared, spared - 1))  # -1, 0 or 1; faster than comparisons
    return _added(images, hit.mul_(255))


@lru_cache(maxsize=16)
def poisson_tables(photons: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (256 * bin of each rank, cell [bins, 256]): the quantiles of Poisson(v * photons / 255) for all v.

    Ranks are cut into bins so narrow that the quantile takes at most two neighbouring values in a bin, for every v.
    A cell packs both, as grey levels in bits 0-7 and 8-15, and the last rank of the first in the bits above.
    """
    most = int(photons + 10 * np.sqrt(photons) + 20)
    grey = np.trunc(np.clip(np.arange(most + 2) / photons, 0, 1) * 255).astype(np.int64)
    width = 0.5 / np.sqrt(photons + 5 * np.sqrt(photons) + 5)
    edges = np.unique(np.round(_STEPS * ndtr(np.arange(-5, 5, width))).astype(np.int64).clip(0, _STEPS))
    edges = np.unique(np.concatenate([[0], edges, [_STEPS]]))
    bins = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    cells = np.empty((len(edges) - 1, 256), dtype=np.int32)
    for value in range(256):
        below = np.round(_STEPS * pdtr(np.arange(most + 1), value * photons / 255)).astype(np.int64)
        first, last = (np.searchsorted(below, at, side="right") for at in (edges[:-1], edges[1:] - 1))
        end = below[np.minimum(first, most)] - 1 - _STEPS // 2
        cells[:, value] = grey[first] | grey[last] << 8 | np.where(first == last, 0, end) << 16
    return (256 * bins).astype(np.int32), cells


@_noise(
    "photons counted from a white value",
    imagenet_c=(60, 25, 12, 5, 3),
    cifar_c=(500, 250, 100, 75, 50),
)
def shot_noise(images, photons, keys):
    """255 Poisson(v photons / 255) / photons, clipped, then truncated to integers, as the peers do."""
    bins, cells = (torch.from_numpy(t.ravel()).to(images.device) for t in poisson_tables(photons))
    rank = _ranks(images, keys).flatten().to(torch.int32).add_(_STEPS // 2)
    row = bins.index_select(0, rank).add_(images.flatten())
    cell = cells.index_select(0, row)
    last = torch.bitwise_right_shift(cell, 16, out=row)
    skip = last.sub_(rank.sub_(_STEPS // 2)).bitwise_right_shift_(31).bitwise_and_(8)  # 0 or 8 bits; faster than where
    return cell.bitwise_right_shift_(skip).bitwise_and_(255).to(torch.uint8).view(images.shape)


@lru_cache
def speckle_factors(sd: float) -> np.ndarray:
    """Return float32 1 + sd * z at the 2**16 quantiles z."""
    return (1 + sd * ndtri((np.arange(_STEPS) + 0.5) / _STEPS)).astype(np.float32)


@_noise(
    "standard deviation, in units of the value",
    imagenet_c=(0.15, 0.2, 0.35, 0.45, 0.6),
    cifar_c=(0.06, 0.1, 0.12, 0.16, 0.2),
)
def speckle_noise(images, sd, keys):
    """v (1 + N(0, sd**2)), clipped, then truncated to integers as the peers do."""
    table = torch.from_numpy(speckle_factors(sd)).to(images.device)
    place = _ranks(images, keys).to(torch.int32).add_(_STEPS // 2)
    factors = table.index_select(0, place.flatten()).view(images.shape)
    return factors.mul_(images).clamp_(0, 255).to(torch.uint8)
