"""Layers as methods see them, made from a weight and the inputs that calibration would have seen."""

from __future__ import annotations

import numpy as np
import torch
from helpers import REFERENCE
from torch import Tensor

from edgelib.observe.statistics import LayerStatistics
from edgelib.quant.methods.layer import Layer
from edgelib.quant.scheme import scheme

PTQ = REFERENCE / "ptq"
PEERS = np.load(PTQ / "methods.npz")
WEIGHT = torch.from_numpy(np.load(PTQ / "integers.npz")["inputs/W_64x128"])
INPUTS = torch.from_numpy(PEERS["inputs/X_256x128"])


def statistics_of(rows: Tensor, weight: Tensor, modalities: Tensor | None = None) -> LayerStatistics:
    """The statistics of inputs [n, in], by their definitions."""
    return LayerStatistics(
        abs_max=rows.abs().amax(0),
        abs_mean=rows.abs().mean(0),
        square_mean=rows.square().mean(0),
        tokens=len(rows),
        weight_norm=float(weight.norm()),
        hessian=rows.T @ rows / len(rows),
        rows=rows,
        row_modalities=modalities,
    )


def layer_of(spec, weight: Tensor, rows: Tensor, name: str = "fc", modalities: Tensor | None = None) -> Layer:
    """A Linear with this weight [out, in] that calibration saw with these inputs [n, in]."""
    return Layer(name, weight, scheme(spec), statistics_of(rows, weight, modalities))


def random_layer(spec, seed: int = 0, out: int = 12, width: int = 32, rows: int = 40, name: str = "fc") -> Layer:
    """A layer with correlated inputs, a few of its channels large and one of them always 0."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    inputs = torch.randn(rows, width, generator=generator) @ mix
    inputs[:, 3] *= 20
    inputs[:, 5] = 0
    return layer_of(spec, torch.randn(out, width, generator=generator), inputs, name)
