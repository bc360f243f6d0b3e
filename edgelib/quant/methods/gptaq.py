"""GPTAQ (Li et al., ICML 2025, arXiv:2504.02692): GPTQ that also makes up for what its inputs have drifted.

x is what a Linear reads behind rounded layers, x + d what it reads in the unrounded network, whose output W (x + d) it
should give. Beside GPTQ's own update, column i moves each later column j by w_i P_ij with
P = strength * triu(C U^T, 1) U, C = E[d x^T] and U as GPTQ has it: row i of P is C_i,>i times the inverse of the
Hessian of the later columns. w_i is the column as it stands before it is rounded.
"""

from __future__ import annotations

from torch import Tensor

from edgelib.quant.methods.gptq import round_rows
from edgelib.quant.methods.layer import Layer, Rounded

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
    """Round a layer by GPTAQ, each row only where it beats rounding to nearest by `drifted_error`."""
    return round_rows(layer, drifted_error, None if layer.seen.drift is None else STRENGTH * layer.part("drift"))
