"""The loss that searches compare: how far rounding moves a layer's output on the inputs that calibration saw."""

from __future__ import annotations

from torch import Tensor

from edgelib.quant.methods.layer import Layer


def weight_error(layer: Layer, rounded: Tensor) -> Tensor:
    """Return the diagonal [out] of (Q - W) H (Q - W)^T, H = E[x x^T]: what rounding the weight alone does.

    The mean squared error of each output channel over all calibration rows, when inputs are not rounded.
    """
    error = rounded - layer.weight
    # cancellation may leave a tiny negative
    return (error @ layer.part("hessian")).mul_(error).sum(1).clamp_(min=0)


def output_error(layer: Layer, rounded: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each output channel [out] when `rounded` [out, in] replaces the weight.

    Where the scheme rounds inputs it is E[(x' Q^T - x W^T)^2] over the sampled rows, with x' the rounded input;
    elsewhere `weight_error`. target: x W^T [n, out] if the caller has it already.
    """
    if not layer.scheme.rounds_inputs:
        return weight_error(layer, rounded)
    target = layer.part("rows") @ layer.weight.T if target is None else target
    return (layer.rounded_inputs() @ rounded.T).sub_(target).square_().mean(0)


def output_power(layer: Layer) -> Tensor:
    """Return the mean square of each output channel [out] before any rounding, over what `output_error` looks at."""
    if not layer.scheme.rounds_inputs:
        return (layer.weight @ layer.part("hessian")).mul_(layer.weight).sum(1).clamp_(min=0)
    return (layer.part("rows") @ layer.weight.T).square_().mean(0)


def has_loss(layer: Layer) -> bool:
    """Whether calibration kept what `output_error` needs."""
    return layer.seen is not None and layer.seen.holds("rows" if layer.scheme.rounds_inputs else "hessian")
