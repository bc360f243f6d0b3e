"""Search of a migration: of several scales, those with which rounding moves the layers' outputs least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from edgelib.observe.tallies import wide_device
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
    whole = replace(layers[0], weight=torch.cat([layer.weight for layer in layers]))
    target = None if whole.seen.rows is None else whole.part("rows") @ whole.weight.T
    parts, history = [len(layer.weight) for layer in layers], {}
    for key, scales in candidates.items():
        moved = whole.scaled(scales)
        format, group_size = moved.scheme.weight_format, moved.scheme.group_size
        # each Linear by itself, because a format may have one scale for a whole weight
        rounded = torch.cat([nearest(weight, format, group_size) for weight in moved.weight.split(parts)])
        error = error_of(moved, rounded, target)
        history[key] = float(error.to(wide_device(error.device)).mean(dtype=torch.float64))
    return min(history, key=lambda key: history[key] if math.isfinite(history[key]) else math.inf), history
