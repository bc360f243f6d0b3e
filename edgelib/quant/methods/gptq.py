"""GPTQ (Frantar et al., ICLR 2023): round column by column, and let the columns to come make up for the error.

With H = E[x x^T] and Hinv = U^T U, U upper triangular, rounding column i with the error e moves each later column j by
-e U_ij / U_ii, which keeps the layer's output as close as it can be. The grid is fixed beforehand (static groups), so
columns can be taken in order of falling diag H (act-order) and stored in their own places.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from edgelib.formats.blocks import BlockGrid, joined, split
from edgelib.formats.table import Encoded, Format, as_blocks, decode
from edgelib.observe.tallies import wide_device
from edgelib.quant.methods.layer import Layer, Rounded
from edgelib.quant.methods.loss import weight_error
from edgelib.quant.methods.ranges import RANGES, clip_share
from edgelib.quant.methods.rtn import granularity_of, round_to_nearest

DAMPING = 0.01  # of the mean of diag H, as the authors
DAMPING_STEPS = (1, 10, 100)  # what it is multiplied by until the factorisation succeeds
BLOCK = 128  # columns whose updates of the others are applied together; it changes speed, not results


class Factor(NamedTuple):
    """U [in, in], upper triangular with U^T U = (H + damping mean(diag H) I)^-1, and the damping it took."""

    upper: Tensor
    damping: float


def inverse_factor(hessian: Tensor, damping: float = DAMPING, dtype: torch.dtype = torch.float64) -> Factor | None:
    """Factor the inverse of a damped Hessian [in, in]; None when even 100 times the damping leaves it indefinite.

    One Cholesky factorisation read backwards: H = M M^T with M upper triangular, so U = M^-1. Computed in `dtype`.
    """
    place = wide_device(hessian.device)
    for step in DAMPING_STEPS:
        damped = hessian.to(place).flip(0, 1).to(dtype)  # a copy
        damped.diagonal().add_(step * damping * damped.diagonal().mean())
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not failed and torch.isfinite(lower.diagonal()).all():
            inverse = torch.eye(len(lower), dtype=dtype, device=lower.device)
            torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
            return Factor(inverse.to(hessian.dtype).to(hessian.device).flip(0, 1), step * damping)
    return None


def gptq(
    weight: Tensor,
    hessian: Tensor,
    format: Format,
    group_size: int | None = None,
    *,
    shrink: float | Tensor = 1.0,
    act_order: bool = True,
    damping: float = DAMPING,
    drift: Tensor | None = None,
) -> tuple[Encoded, float] | None:
    """Encode weight [out, in] by GPTQ for inputs with hessian [in, in]; return it and the damping that was needed.

    shrink: factors of the ranges, a number or [out, groups, 1]. A column whose input is always 0 is rounded to nearest
    and moves no other; the authors set it to 0, which is as good on the calibration set and worse on an image that
    wakes the channel. drift [in, in]: mean of d x^T that `edgelib.quant.methods.gptaq` makes up for. Returns None when
    the Hessian cannot be factored.
    """
    blocks = as_blocks(weight, format, granularity_of(format, group_size))  # [out, groups, size]
    grid = format.fit(blocks, shrink)
    hessian = hessian.to(blocks)
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(len(hessian))
    hessian = hessian[order][:, order]  # a copy
    diagonal = hessian.diagonal()
    diagonal += (diagonal <= 0) * torch.where(diagonal.mean() > 0, diagonal.mean(), 1)
    factor = inverse_factor(hessian, damping)
    del hessian, diagonal
    if factor is None:
        return None
    pull = None if drift is None else (drift.to(blocks)[order][:, order] @ factor.upper.T).triu_(1) @ factor.upper
    columns = weight.to(blocks).T[order]  # [in, out]: a column is contiguous, and the indexing has made a copy
    scale, zero = (None if part is None else part.squeeze(-1).T.contiguous() for part in (grid.scale, grid.zero))
    rounded = torch.empty_like(columns)
    for start in range(0, len(columns), BLOCK):
        stop = min(start + BLOCK, len(columns))
        block, upper = columns[start:stop], factor.upper[start:stop]
        errors = torch.empty_like(block)
        for i, place in enumerate(order[start:stop].tolist()):
            group = place // blocks.shape[-1]
            rounded[place] = format.snap(block[i], BlockGrid(scale[group], None if zero is None else zero[group]))
            errors[i] = (block[i] - rounded[place]) / upper[i, start + i]
            block[i + 1 :].addr_(upper[i, start + i + 1 : stop], errors[i], alpha=-1)
            if pull is not None:
                block[i + 1 :].addr_(pull[start + i, start + i + 1 : stop], block[i])
        columns[stop:].addmm_(upper[:, stop:].T, errors, alpha=-1)
        if pull is not None:
            columns[stop:].addmm_(pull[start:stop, stop:].T, block)
    # Rows in one piece: a transposed weight is multiplied in another order than the same one from a file.
    codes = joined(format.encode(split(rounded.T.contiguous(), blocks.shape[-1]), grid), weight.shape)
    return Encoded(format, codes, *(None if part is None else part.squeeze(-1) for part in grid)), factor.damping


def round_rows(layer: Layer, loss: Callable[[Layer, Tensor], Tensor], drift: Tensor | None = None) -> Rounded:
    """Round a layer by `gptq` in act-order, each row only where `loss` says it beats rounding to nearest on that grid.

    loss(layer, rounded [out, in]) -> [out]. drift as in `gptq`. Where the Hessian cannot be factored the whole layer is
    rounded to nearest, with a warning that names it.
    """
    format, group_size = layer.scheme.weight_format, layer.scheme.group_size
    shrink = RANGES[layer.scheme.weight_range].shrink(layer)
    notes = {"clip_share": clip_share(shrink)}
    plain = round_to_nearest(layer.weight, format, group_size, shrink)
    found = gptq(layer.weight, layer.part("hessian"), format, group_size, shrink=shrink, drift=drift)
    if found is None:
        warnings.warn(
            f"the Hessian of layer {layer.name!r} is not positive, even damped: rounded to nearest", stacklevel=3
        )
        return Rounded(plain, notes | {"fallback": "Hessian is not positive"})
    encoded, damping = found
    better = loss(layer, decode(encoded)) < loss(layer, decode(plain))
    # codes are one byte in every format, and torch.where does not know all of them
    codes = torch.where(better[:, None], encoded.codes.view(torch.uint8), plain.codes.view(torch.uint8))
    return Rounded(replace(encoded, codes=codes.view(format.storage)), notes | {"damping": damping})


def round_gptq(layer: Layer) -> Rounded:
    """Round a layer by GPTQ, each row only where it moves the layer's output less than rounding to nearest does."""
    return round_rows(layer, weight_error)
