"""Quantize a model: a copy whose Linear layers hold rounded weights and round their inputs.

Everything here is simulated: values lie on the grid of the format, arithmetic stays in floating point.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.inputs.observe import shared_copy
from edgelib.quant.calibrate import Statistics, calibrate, module_of, weight_norm
from edgelib.quant.formats import FORMATS, Encoded, Format, codes_on_grid, decode, saturated
from edgelib.quant.methods import METHODS
from edgelib.quant.scheme import Scheme
from edgelib.quant.scheme import scheme as parse_scheme


class QuantLinear(nn.Module):
    """A Linear on rounded weights: forward is one rounding of the input and one matmul.

    weight [out, in]: the decoded values, folded once. scale [out, groups] (and zero): the grid, from which `codes`
    recovers the exact integers. input_scale: the static activation scale, None when found per token on the fly.
    """

    def __init__(self, encoded: Encoded, bias: Tensor | None, dtype: torch.dtype, activation: Format, input_scale=None):
        super().__init__()
        self.out_features, self.in_features = encoded.codes.shape
        self.format, self.activation = encoded.format, activation
        self.register_buffer("weight", saturated(decode(encoded), dtype).to(dtype))
        self.register_buffer("scale", encoded.scale)
        self.register_buffer("zero", encoded.zero)
        self.register_buffer("input_scale", input_scale)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.input_scale is None:
            rounded = self.activation.round_rows(x)
        else:
            rounded = self.activation.round_static(x, self.input_scale)
        return F.linear(rounded, self.weight, self.bias)

    def codes(self) -> Tensor:
        """Return the stored codes [out, in] (int8 for integer formats)."""
        return codes_on_grid(self.weight, self.format, self.scale, self.zero)

    def extra_repr(self) -> str:
        groups = 1 if self.scale is None else self.scale.shape[-1]
        static = "" if self.input_scale is None else ", static"
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, weight={self.format.name}"
            f" x{groups}, activation={self.activation.name}{static}"
        )


def quantize(model, scheme: str | Mapping | Scheme, calibration=None):
    """Return a copy of `model` quantized by a scheme; the model itself stays the untouched baseline.

    model: a ZeroShotModel or any nn.Module. The copy has its own modules and parameter objects, so moving or
    converting it leaves the baseline alone, but parameters that are not rounded share their storage with it
    (no extra memory): do not train one of the two in place. calibration: a data set, or `Statistics` that
    `calibrate` made once for several schemes of this model; needed by smoothquant and static activations only.

    Integer schemes replace every Linear that the scheme selects; "fp16" and "bf16" round every parameter, every buffer
    and the inputs of every Linear to 16 bits and compute in the model's own dtype; "fp32" only copies.
    smoothquant migrates within the groups that `Statistics.fed_by_norm` found and rounds other Linears as minmax does;
    a norm's output that the model also returns (CLIP's pooler_output) then comes back divided by s.

    Raises EdgelibError for an unknown scheme, NaN or inf in a parameter (named), a pattern that matches no layer, a
    group size that does not divide a layer, a model without Linear layers or already quantized, projections hidden in
    nn.MultiheadAttention, a missing or empty calibration set, and statistics of another model.
    """
    plan = parse_scheme(scheme)
    module = module_of(model)
    _check_model(module)
    targets = _targets(module, plan)
    statistics = _statistics(model, plan, targets, calibration) if plan.needs_calibration else None
    result = _rebuild(module, plan, targets, statistics)
    return result if model is module else model.with_module(result)


def _rebuild(module: nn.Module, plan: Scheme, targets: list[str], statistics: Statistics | None) -> nn.Module:
    result = shared_copy(module)
    if plan.weight == "fp32":
        return result
    if plan.method == "cast":
        _cast(result, FORMATS[plan.weight])
    layers = dict(result.named_modules())
    scales = _migrate(layers, plan, targets, statistics) if METHODS[plan.method].migrate else {}
    swaps = {layers[name]: _quant_linear(name, layers[name], scales.get(name), plan, statistics) for name in targets}
    return _swap(result, swaps)


def _quant_linear(name: str, linear: nn.Linear, scales: Tensor | None, plan: Scheme, statistics) -> QuantLinear:
    """Round one layer; scales [in] were divided out of its input and go into its weight."""
    weight = linear.weight.detach() if scales is None else linear.weight.detach() * scales
    try:
        encoded = METHODS[plan.method].round_weight(weight, FORMATS[plan.weight], plan.group_size)
    except EdgelibError as error:
        raise EdgelibError(f"layer {name!r}: {error}; or exclude the layer") from None
    activation, input_scale = FORMATS[plan.activation], None
    if plan.activation_granularity == "tensor":
        peaks = statistics.layers[name].abs_max.to(weight.device)
        peak = (peaks if scales is None else peaks / scales).amax()
        input_scale = (peak / activation.qmax).clamp_(min=torch.finfo(peak.dtype).tiny)
    return QuantLinear(encoded, linear.bias, linear.weight.dtype, activation, input_scale)


def _migrate(layers: dict, plan: Scheme, targets: list[str], statistics: Statistics) -> dict[str, Tensor]:
    """Fold 1 / s into every LayerNorm whose readers are all targets; return s [in] by reader."""
    scales = {}
    for norm, readers in statistics.fed_by_norm.items():
        if not set(readers).issubset(targets):
            continue
        weights = [layers[name].weight.detach() for name in readers]
        s = METHODS[plan.method].migrate(statistics.layers[readers[0]].abs_max, weights, plan.alpha)
        scales.update(dict.fromkeys(readers, s))
        for parameter in (layers[norm].weight, getattr(layers[norm], "bias", None)):
            if parameter is not None:
                parameter.data = parameter.detach() / s
    return scales


def _cast(module: nn.Module, format: Format) -> None:
    """Round every floating parameter and buffer of our own copy to a 16-bit format."""
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            rounded = format.round_rows(parameter.detach())
            if not torch.isfinite(rounded).all():
                peak = float(parameter.detach().abs().max())
                raise EdgelibError(
                    f"{name!r} does not fit into {format.name}: its largest value is {peak:.4g}; try bf16"
                )
            parameter.data = rounded
    for buffer in module.buffers():
        if buffer.is_floating_point():  # a mask may hold -inf, so overflow is no error here
            buffer.data = format.round_rows(buffer)


def _swap(module: nn.Module, replacements: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each replacement wherever its layer stands, also where one layer has several names."""
    if module in replacements:
        return replacements[module]
    for parent in module.modules():
        for key, child in parent._modules.items():
            if child in replacements:
                parent._modules[key] = replacements[child]
    return module


def _check_model(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, QuantLinear):
            raise EdgelibError(f"layer {name!r} is already quantized; quantize the baseline, which is still untouched")
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise EdgelibError(f"parameter {name!r} holds NaN or inf; reload the model from a good checkpoint")


def _targets(module: nn.Module, plan: Scheme) -> list[str]:
    """Return the names of the Linears to replace."""
    layers = dict(module.named_modules())
    linears = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not linears:
        raise EdgelibError(f"{type(module).__name__} has no nn.Linear layer, so there is nothing to quantize")
    for pattern in (*plan.targets, *plan.exclude):
        if not any(fnmatchcase(name, pattern) for name in linears):
            hint = f"{did_you_mean(pattern, linears)}, such as {', '.join(linears[:3])}"
            raise EdgelibError(f"pattern {pattern!r} matches none of the {len(linears)} Linear layers{hint}")
    # nn.MultiheadAttention reads the weight of its out_proj and never calls it
    packed = [f"{n}.out_proj" for n, layer in layers.items() if isinstance(layer, nn.MultiheadAttention)]
    hidden = [name for name in packed if plan.selects(name)]
    if hidden and plan.method != "cast":
        raise EdgelibError(
            f"{', '.join(hidden[:3])} ({len(hidden)} in all) belong to nn.MultiheadAttention, which keeps q, k, v in "
            "one parameter outside any Linear, so such attention would stay in floating point; accept that with "
            f'{{"preset": "{plan.name}", "exclude": {hidden[:1]}}}, or load a model with separate projections'
        )
    targets = [name for name in linears if plan.selects(name) and name not in packed]
    if not targets:
        raise EdgelibError(f"exclude={list(plan.exclude)} leaves no Linear layer to quantize")
    return targets


def _statistics(model, plan: Scheme, targets: list[str], calibration) -> Statistics:
    """Return the statistics that the scheme needs, checked against the model."""
    if calibration is None:
        raise EdgelibError(f"scheme {plan.name!r} needs a calibration set: pass quantize(model, scheme, calibration)")
    statistics = calibration if isinstance(calibration, Statistics) else calibrate(model, calibration)
    layers = dict(module_of(model).named_modules())
    for name in targets:
        seen = statistics.layers.get(name)
        same = name in statistics.unreached if seen is None else _describes(seen, layers[name].weight)
        if not same:
            raise EdgelibError(
                f"these statistics are of another model, they do not fit layer {name!r}: calibrate this one"
            )
    missing = [name for name in targets if name in statistics.unreached]
    if missing and plan.activation_granularity == "tensor":
        raise EdgelibError(f"{len(missing)} layers have no static scale: calibration never reached {missing[0]!r}")
    if missing:
        text = f"calibration never reached {len(missing)} layers, such as {missing[0]!r}: rounded without smoothing"
        warnings.warn(text, stacklevel=3)
    return statistics


def _describes(seen, weight: Tensor) -> bool:
    # a norm within 0.1 % admits a copy of the model in half precision, and tells an outlier twin from its original
    norm = seen.weight_norm
    return len(seen.abs_max) == weight.shape[1] and abs(weight_norm(weight) - norm) <= 1e-3 * norm
