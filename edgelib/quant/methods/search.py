"""Search of a migration: of several scales, those with which rounding moves the layers' outputs least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from edgelib.quant.methods.layer import Layer
from edgelib.quant.methods.loss import output_error
from edgelib.quant.methods.rtn import nearest

Key = TypeVar("Key")
ErrorOf = Callable[[Layer, Tensor, Tensor | None], Tensor]


def lowest_loss(
    layers: Sequence[Layer], candidates: Mapping[Key, Tensor], error_of: ErrorOf = output_error
) -> tuple[Key, dict[Key, float]]:
    """Return the key of the scales [in] with the lowest loss, and the loss of each; ties go to the first.

    layers: Linears that read one input. The loss is the mean of error_of(layer, rounded weight, x W^T) over their
    output channels, with weights rounded to nearest and inputs as the scheme rounds them. It is the sum over all that
    calibration kept: candidates are never compared on a part of it. A loss that is not finite loses.
    """
    targets = [None if layer.seen.rows is None else layer.part("rows") @ layer.weight.T for layer in layers]
    history = {}
    for key, scales in candidates.items():
        errors = []
        for layer, target in zip(layers, targets, strict=True):
            moved = layer.scaled(scales)
            rounded = nearest(moved.weight, moved.scheme.weight_format, moved.scheme.group_size)
            errors.append(error_of(moved, rounded, target))
        history[key] = float(torch.cat(errors).mean(dtype=torch.float64))
    return min(history, key=lambda key: history[key] if math.isfinite(history[key]) else math.inf), history
