"""Weighted sums along the lines of images as products of float32 matrices: exact while every sum is below 2**24."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_STRETCH = 32  # values of a line that one product makes: few enough that most of its matrix is weights

Band = tuple[slice, slice, Tensor]


def products_are_exact(device: torch.device) -> bool:
    """Whether a product of float32 matrices keeps all 24 bits: not on a GPU, nor where a program asked for fewer."""
    asked = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)
    whole = torch.get_float32_matmul_precision() == "highest" if asked is None else asked in ("none", "ieee")
    return whole and device.type == "cpu"


def bands_of(places: np.ndarray, weights: np.ndarray) -> list[Band]:
    """Return (values made, values used, float32 matrix [used, made]) for each stretch of a line.

    places, weights: [size, T], value i is the sum over t of weights[i, t] * line[places[i, t]]; what is named twice for
    one value counts twice.
    """
    bands = []
    for start in range(0, len(places), _STRETCH):
        made = slice(start, min(start + _STRETCH, len(places)))
        used = slice(int(places[made].min()), int(places[made].max()) + 1)
        band = np.zeros((used.stop - used.start, made.stop - start), np.float32)
        np.add.at(band, (places[made] - used.start, np.arange(made.stop - start)[:, None]), weights[made])
        bands.append((made, used, torch.from_numpy(band)))
    return bands


def along_rows(lines: Tensor, bands: list[Band], out: Tensor) -> Tensor:
    """Return float32 lines [L, W] summed along W, in `out`."""
    for made, used, band in bands:
        torch.mm(lines[:, used], band, out=out[:, made])
    return out


def along_columns(planes: Tensor, bands: list[Band], out: Tensor) -> Tensor:
    """Return float32 planes [P, H, W] summed along H, in `out`."""
    for made, used, band in bands:
        torch.bmm(band.T.expand(len(planes), -1, -1), planes[:, used], out=out[:, made])
    return out
