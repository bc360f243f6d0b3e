"""SmoothQuant (Xiao et al., ICML 2023): move activation outliers into the weights that follow.

x W^T = (x / s)(W s)^T for any positive s per input channel. When a LayerNorm makes x, its weight and bias
absorb 1 / s and the migration is free at run time, so only Linears fed by a LayerNorm are smoothed, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgelib.quant.methods.layer import Layer, Migration
from edgelib.quant.methods.search import lowest_loss

SMALLEST = 1e-5  # the authors' floor for scales and weight maxima
ALPHAS = tuple(i / 20 for i in range(21))


def smoothing_scales(abs_max: Tensor, weights: Sequence[Tensor], alpha: float = 0.5) -> Tensor:
    """Return s [in] = max|x|^alpha / max|W|^(1 - alpha), jointly for all weights [out, in] that read x.

    abs_max [in] is the largest |x| per channel over the calibration set, alpha in [0, 1] the migration strength:
    0 evens out the weights, 1 the activations.
    A channel that calibration never saw active keeps s = 1: the authors' floor of 1e-5 would multiply it by
    100 000 on the first image that wakes it, and robustness is measured on exactly such images.
    """
    weight_max = torch.stack([w.abs().amax(dim=0) for w in weights]).amax(dim=0).clamp_(min=SMALLEST)
    activation_max = abs_max.to(weight_max)
    scales = (activation_max.pow(alpha) / weight_max.pow(1 - alpha)).clamp_(min=SMALLEST)
    return torch.where(activation_max > 0, scales, torch.ones_like(scales))


def smooth(layers: Sequence[Layer]) -> Migration:
    """Return the scales of Linears that read one input, with the scheme's alpha, or the best of 0, 0.05 ... 1 and none.

    The paper tunes one alpha per model; a search per input compares the error of the layers' outputs.
    """
    abs_max, weights, alpha = layers[0].part("abs_max"), [layer.weight for layer in layers], layers[0].scheme.alpha
    if alpha != "search":
        return Migration(smoothing_scales(abs_max, weights, float(alpha)), {"ratio": alpha})
    scales = {None: torch.ones_like(abs_max)} | {a: smoothing_scales(abs_max, weights, a) for a in ALPHAS}
    chosen, _ = lowest_loss(layers, scales)
    return Migration(scales[chosen], {"ratio": math.nan if chosen is None else chosen})
