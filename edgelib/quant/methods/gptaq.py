"""GPTAQ (Li et al., ICML 2025, arXiv:2504.02692): GPTQ that also makes up for what its inputs have drifted.

x is what a Linear reads behind rounded layers, x + d what it reads in the unrounded network, whose output W (x + d) it
should give. Beside GPTQ's own update, column i moves each later column j by w_i P_ij with
P = strength * triu(C U^T, 1) U, C = E[d x^T] and U as GPTQ has it: row i of P is C_i,>i times the inverse of the
Hessian of the later columns. w_i is the column as it stands before it is rounded.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from edgelib.formats.table import decode
from edgelib.quant.methods.gptq import gptq
from edgelib.quant.methods.layer import Layer, Rounded
from edgelib.quant.methods.ranges import RANGES, clip_share
from edgelib.quant.methods.rtn import round_to_nearest

STRENGTH = 0.25  # of the correction, as the authors' code has it


def drifted_error(layer: Layer, rounded: Tensor) -> Tensor:
    """Return E[(Q x - W (x + d))^2] - E[(W d)^2] of each output channel [out]: negative where Q makes up for the drift.

    The second part does not depend on Q. Without drift it is `weight_error`.
    """
    error = rounded - layer.weight
    pull = error @ layer.part("hessian")
    if layer.seen.drift is not None:
        pull -= 2 * (layer.weight @ layer.part("drift"))
    return pull.mul_(error).sum(1)


def round_gptaq(layer: Layer) -> Rounded:
    """Round a layer by GPTAQ in act-order, each row only where that beats rounding to nearest by `drifted_error`.

    Where the Hessian cannot be factored the whole layer is rounded to nearest, with a warning that names it.
    """
    format, group_size = layer.scheme.weight_format, layer.scheme.group_size
    shrink = RANGES[layer.scheme.weight_range].shrink(layer)
    notes = {"clip_share": clip_share(shrink)}
    plain = round_to_nearest(layer.weight, format, group_size, shrink)
    drift = None if layer.seen.drift is None else STRENGTH * layer.part("drift")
    found = gptq(layer.weight, layer.part("hessian"), format, group_size, shrink=shrink, drift=drift)
    if found is None:
        warnings.warn(
            f"the Hessian of layer {layer.name!r} is not positive, even damped: rounded to nearest", stacklevel=2
        )
        return Rounded(plain, notes | {"fallback": "Hessian is not positive"})
    encoded, damping = found
    better = drifted_error(layer, decode(encoded)) < drifted_error(layer, decode(plain))
    codes = torch.where(better[:, None], encoded.codes.view(torch.uint8), plain.codes.view(torch.uint8))
    return Rounded(replace(encoded, codes=codes.view(format.storage)), notes | {"damping": damping})
