"""Quantize a model: a copy whose Linear layers hold rounded weights and round their inputs.

Everything here is simulated: values lie on the grid of the format, arithmetic stays in floating point.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn
from tqdm import tqdm

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.formats.blocks import widened
from edgelib.formats.table import FORMATS, Encoded, Format, check_group_size, decode
from edgelib.ground.convolutions import MATRIX
from edgelib.ground.modules import shared_copy, swapped
from edgelib.ground.separate import linears, separated, weights_outside_linears
from edgelib.observe.calibrate import (
    LayerStatistics,
    Statistics,
    calibrate,
    module_of,
    passes_over,
    weight_norm,
)
from edgelib.quant.folding import fold, places
from edgelib.quant.linear import QuantLinear
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.layer import Layer, Migration
from edgelib.quant.methods.loss import has_loss, output_error, output_power
from edgelib.quant.methods.rtn import nearest, round_layer
from edgelib.quant.mixes.resolve import Part, layer_schemes, rounded_table, table_type
from edgelib.quant.mixes.stacked import Stacked
from edgelib.quant.rotation.decoder import rotated
from edgelib.quant.scheme import Scheme, scheme_for
from edgelib.quant.sequential.walk import round_in_order


def quantize(model, scheme: str | Mapping | Scheme, calibration=None, *, losses: bool = True):
    """Return a copy of `model` quantized by a scheme; the model itself stays the untouched baseline.

    model: a loaded model or any nn.Module. The copy has its own modules and parameter objects, so moving or
    converting it leaves the baseline alone, but parameters that are not rounded share their storage with it
    (no extra memory): do not train one of the two in place. calibration: a data set, or `Statistics` that
    `calibrate(model, data, needs=needs_of(schemes))` made once for several schemes of this model; it may be left out
    for a scheme whose `needs` are empty, where Statistics only serve to tell the losses. A scheme that `walks`
    (-sequential, gptaq) or rotates (-rotated) calibrates another network than the model, so it takes the set itself.

    "gguf-q4_k_m" and its like give each tensor the type that it has in llama.cpp's file of that name, the output and
    the table of tokens included (`edgelib.mix_report` lists them).

    "fp16" and "bf16" round every parameter, every buffer that a checkpoint holds and the inputs of every Linear to 16
    bits and compute in the model's own dtype; "fp32" only copies. All other schemes replace every Linear that they
    select; of a GenerativeModel the decoder's, unless they name others. A migration (smoothquant, awq, mbq) needs
    something that can absorb it exactly: a norm whose readers are all selected, or, for awq, the value projection of
    the same attention. A Linear behind an activation function has neither: awq only clips it, the others round it to
    nearest. A norm's output that the model also returns (CLIP's pooler_output) comes back divided by s.
    `quantization_report` tells what was decided for each layer; losses=False leaves out its columns of losses, for
    those who make many models and never look.

    `nn.MultiheadAttention` and the experts of a mixture come back as Linears, one for each projection of each expert,
    and convolutions as products of one matrix (`edgelib.ground.separate`): rows of a matrix are output channels, tokens
    are the patches that the kernel covers, and groups share statistics. Patch embeddings stay as they are unless a
    pattern names them alone, such as "*patch_embedding". `parameter_report` accounts for all parameters, quantized or
    not.

    Raises EdgelibError for an unknown scheme, NaN or inf in a parameter (named), a pattern that matches no layer, a
    group size that does not divide a layer, a model without Linear layers or already quantized, weights in a form that
    no Linear reads and that would stay in floating point (with their share of the bytes), a missing or empty
    calibration set, and statistics of another model or without a part that the scheme needs. Warns of layers that
    calibration never reached: they are rounded to nearest.
    """
    bare = model is module_of(model)
    module = separated(module_of(model))
    if module is not module_of(model):
        model = module if bare else model.with_module(module)
    scheme = scheme_for(model, scheme)
    if (named := separated(module, scheme.targets)) is not module:
        module = named
        model = module if bare else model.with_module(module)
    _check_model(module)
    if scheme.rotated:
        module = rotated(model)
        model = module if bare else model.with_module(module)
    targets = target_layers(module, scheme)
    check_groups(module, scheme, targets)
    if scheme.looks_itself:
        _require_set(scheme, calibration)
    if scheme.walks:
        result = _walked(model, module, scheme, targets, calibration, losses)
        return result if bare else model.with_module(result)
    statistics = None
    if scheme.needs_calibration:
        statistics = _statistics(model, scheme, targets, calibration)
    elif losses and scheme.method != "cast" and not scheme.rotated and isinstance(calibration, Statistics):
        statistics = calibration
        _require_of(module, targets, statistics)
    result = _rebuild(module, scheme, targets, statistics, spend=statistics is not calibration, losses=losses)
    return result if bare else model.with_module(result)


def _rebuild(
    module: nn.Module, scheme: Scheme, targets: list[str], statistics: Statistics | None, *, spend: bool, losses: bool
) -> nn.Module:
    """Round the targets of a copy; spend: drop each layer's statistics after use, because nobody else wants them."""
    result = shared_copy(module)
    if scheme.only_copies:
        return result
    if scheme.method == "cast":
        _cast(result, FORMATS[scheme.weight])
    layers = dict(result.named_modules())
    migrations, swaps, where = {}, {}, places(scheme, targets, statistics)
    mixed = layer_schemes(module, scheme, targets)
    # shown on a terminal only, and only for what takes long
    with tqdm(
        total=len(where) + len(targets), desc=scheme.name, unit="step", delay=5, disable=None, leave=False
    ) as bar:
        for absorber, readers in where:
            migrations |= dict.fromkeys(readers, fold(layers, absorber, readers, scheme, statistics))
            bar.update()
        for name in targets:
            parts = mixed.get(name, [Part("", layers[name].out_features, scheme)])
            swaps[layers[name]] = _quant_linears(name, layers[name], migrations.get(name), parts, statistics, losses)
            if spend and statistics is not None:
                statistics.layers.pop(name, None)
            bar.update()
    table = table_type(module, scheme, targets)
    if table is not None:
        embedding = layers[table[0]]
        embedding.weight = nn.Parameter(rounded_table(embedding.weight.detach(), table[1]), requires_grad=False)
    return swapped(result, swaps)


def _walked(model, module: nn.Module, scheme: Scheme, targets: list[str], calibration, losses: bool) -> nn.Module:
    """Round the targets of a copy one after the other, each from inputs that have passed those before it."""
    bare = module is model
    items = list(calibration) if bare and not hasattr(calibration, "batches") else calibration
    result, unreached = shared_copy(module), []

    def passes(network: nn.Module):
        steps, _ = passes_over(network if bare else model.with_module(network), items)
        return (step.run for step in steps)

    def make(name: str, linear: nn.Linear, seen: LayerStatistics | None) -> QuantLinear:
        unreached.extend([] if seen else [name])
        if seen is None and scheme.activation_granularity == "tensor":
            raise EdgelibError(f"calibration never reached layer {name!r}, so that it has no static scale: exclude it")
        bar.update()
        own = None if seen is None else Statistics({name: seen}, (), {})
        return _quant_linear(name, linear, None, scheme, own, losses)

    with tqdm(total=len(targets), desc=scheme.name, unit="layer", delay=5, disable=None, leave=False) as bar:
        round_in_order(shared_copy(module), result, targets, scheme, passes, passes_over(model, items)[1], make)
    _warn_of(unreached, stacklevel=4)
    return result


def _quant_linears(
    name: str,
    linear: nn.Linear,
    migration: Migration | None,
    parts: list[Part],
    statistics: Statistics | None,
    losses: bool,
) -> nn.Module:
    """Round one layer, whose rows a mix may give schemes of their own."""
    if len(parts) == 1:
        return _quant_linear(name, linear, migration, parts[0].scheme, statistics, losses)
    rows = [part.rows for part in parts]
    biases = [None] * len(parts) if linear.bias is None else linear.bias.detach().split(rows)
    made = {}
    for part, weight, bias in zip(parts, linear.weight.detach().split(rows), biases, strict=True):
        own = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        own.weight = nn.Parameter(weight, requires_grad=False)
        own.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        made[part.name] = _quant_linear(name, own, migration, part.scheme, statistics, losses)
    return Stacked(made)


def _quant_linear(
    name: str,
    linear: nn.Linear,
    migration: Migration | None,
    scheme: Scheme,
    statistics: Statistics | None,
    losses: bool,
) -> QuantLinear:
    """Round one layer; the migration's scales [in] were divided out of its input and go into its weight."""
    seen = None if statistics is None else statistics.layers.get(name)
    layer = original = Layer(name, widened(linear.weight.detach()), scheme, seen)
    notes: dict[str, object] = {"method": scheme.method}
    if migration is not None:
        layer = original.scaled(migration.scales)
        notes |= migration.notes
    if scheme.needs_calibration and seen is None:
        notes["fallback"] = "calibration never reached it"
    act = round_layer if "fallback" in notes else METHODS[scheme.method].round_weight
    encoded, decided = act(layer)
    notes |= {**decided, **(_losses(original, layer, encoded) if losses else {})}
    static = layer.input_scale() if scheme.activation_granularity == "tensor" else None
    return QuantLinear(encoded, linear.bias, linear.weight.dtype, scheme.activation_format, static, notes)


def _losses(original: Layer, layer: Layer, encoded: Encoded) -> dict[str, float]:
    """Return the layer's output error, and that of rounding it to nearest, relative to the power of the output."""
    if not has_loss(layer):
        return {}
    plain = nearest(original.weight, original.scheme.weight_format, original.scheme.group_size)
    power = output_power(original).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return {
        "loss": float(output_error(layer, decode(encoded)).sum() / power),
        "loss_rtn": float(output_error(original, plain).sum() / power),
    }


def _cast(module: nn.Module, format: Format) -> None:
    """Round every floating parameter and saved buffer of our own copy to a 16-bit format."""
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            rounded = format.round_rows(parameter.detach())
            if not torch.isfinite(rounded).all():
                peak = float(parameter.detach().abs().max())
                raise EdgelibError(
                    f"{name!r} does not fit into {format.name}: its largest value is {peak:.4g}; try bf16"
                )
            parameter.data = rounded
    for layer in module.modules():
        # what a constructor computes, such as rotary frequencies, is not rounded in a 16-bit model of transformers
        for key in layer._buffers.keys() - layer._non_persistent_buffers_set:
            buffer = layer._buffers[key]
            if buffer is not None and buffer.is_floating_point():  # a mask may hold -inf: overflow is no error here
                buffer.data = format.round_rows(buffer)


def _check_model(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, QuantLinear):
            raise EdgelibError(f"layer {name!r} is already quantized; quantize the baseline, which is still untouched")
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise EdgelibError(f"parameter {name!r} holds NaN or inf; reload the model from a good checkpoint")


def target_layers(module: nn.Module, scheme: Scheme) -> list[str]:
    """Return the names of the Linears to replace, of a module that `separated` has returned.

    Raises EdgelibError for a pattern that matches nothing, for a scheme that leaves nothing to replace, and for weights
    outside any Linear that would stay in floating point beside those that it rounds.
    """
    names, outside = linears(module), weights_outside_linears(module)
    if not names:
        raise EdgelibError(f"{type(module).__name__} has no nn.Linear layer, so there is nothing to quantize")
    convolutions = [name.removesuffix(MATRIX) for name in names if name.endswith(MATRIX)]
    for pattern in (*scheme.targets, *scheme.exclude):
        if not any(fnmatchcase(name, pattern) for name in (*names, *convolutions, *outside)):
            hint = f"{did_you_mean(pattern, names)}, such as {', '.join(names[:3])}"
            raise EdgelibError(f"pattern {pattern!r} matches none of the {len(names)} Linear layers{hint}")
    # nn.MultiheadAttention reads the weight of its out_proj and never calls it
    unread = {f"{name}.out_proj" for name, m in module.named_modules() if isinstance(m, nn.MultiheadAttention)}
    targets = [name for name in names if scheme.selects(name) and name not in unread]
    if scheme.method != "cast":
        _require_reached(module, scheme, targets, outside)
    if not targets:
        raise EdgelibError(f"exclude={list(scheme.exclude)} leaves no Linear layer to quantize")
    return targets


def _require_reached(module: nn.Module, scheme: Scheme, targets: list[str], outside: dict[str, list[str]]) -> None:
    """Raise EdgelibError for weights outside any Linear that the scheme means and cannot round.

    It means those that its patterns name, and those in a block of which it rounds a layer, unless it excludes them.
    """
    meant = [
        name
        for name in outside
        if not any(fnmatchcase(name, pattern) for pattern in scheme.exclude)
        and (scheme.selects(name) or any(target.startswith(_block(name)) for target in targets))
    ]
    if not meant:
        return
    sizes = {name: p.numel() * p.element_size() for name, p in module.named_parameters()}
    share = sum(sizes.get(key, 0) for name in meant for key in outside[name]) / sum(sizes.values())
    raise EdgelibError(
        f"{', '.join(meant[:3])} ({len(meant)} in all) hold {share:.1%} of the bytes of all parameters outside any "
        "Linear layer, in a form that is not known here, so that they would stay in floating point; accept that with "
        f'{{"preset": "{scheme.name}", "exclude": {meant[:3]}}}, or load a model with separate Linear layers'
    )


def _block(name: str) -> str:
    """How the names of everything begin that stands in the block of a layer: two levels up, if it has two."""
    above = name.split(".")[:-1]
    return "".join(f"{part}." for part in above[:-1] or above)


def check_groups(module: nn.Module, scheme: Scheme, targets: list[str]) -> None:
    """Raise EdgelibError for the first layer that the group size does not divide, before anything takes time."""
    for name in targets if scheme.group_size is not None else ():
        try:
            check_group_size(scheme.group_size, module.get_submodule(name).in_features)
        except EdgelibError as error:
            raise EdgelibError(f"layer {name!r}: {error}; or exclude the layer") from None


def _require_set(scheme: Scheme, calibration) -> None:
    """Raise EdgelibError unless there is a calibration set for a scheme that looks at it itself."""
    if calibration is None:
        raise EdgelibError(f"scheme {scheme.name!r} needs a calibration set: pass quantize(model, scheme, calibration)")
    if isinstance(calibration, Statistics):
        raise EdgelibError(
            f"scheme {scheme.name!r} calibrates a network that is rounded in part or rotated, which statistics of the "
            "model as it is cannot tell: pass the calibration set itself, quantize(model, scheme, calibration)"
        )


def _statistics(model, scheme: Scheme, targets: list[str], calibration) -> Statistics:
    """Return the statistics that the scheme needs, checked against the model."""
    if calibration is None:
        raise EdgelibError(f"scheme {scheme.name!r} needs a calibration set: pass quantize(model, scheme, calibration)")
    needs = sorted(scheme.own_needs)
    known = isinstance(calibration, Statistics)
    statistics = calibration if known else calibrate(model, calibration, needs=needs)
    _require_of(module_of(model), targets, statistics)
    for name in targets:
        seen = statistics.layers.get(name)
        lacking = [need for need in needs if seen is not None and not seen.holds(need)]
        if lacking:
            raise EdgelibError(
                f"scheme {scheme.name!r} needs {', '.join(lacking)} of layer {name!r}, which these statistics do not "
                f"hold: calibrate(model, data, needs={needs})"
            )
    missing = [name for name in targets if name in statistics.unreached]
    if missing and scheme.activation_granularity == "tensor":
        raise EdgelibError(f"{len(missing)} layers have no static scale: calibration never reached {missing[0]!r}")
    _warn_of(missing, stacklevel=4)
    return statistics


def _warn_of(missing: list[str], stacklevel: int) -> None:
    if missing:
        text = f"calibration never reached {len(missing)} layers, such as {missing[0]!r}: rounded to nearest"
        warnings.warn(text, stacklevel=stacklevel)


def _require_of(module: nn.Module, targets: list[str], statistics: Statistics) -> None:
    """Raise EdgelibError unless the statistics are of this model."""
    layers = dict(module.named_modules())
    for name in targets:
        seen = statistics.layers.get(name)
        same = name in statistics.unreached if seen is None else _describes(seen, layers[name].weight)
        if not same:
            raise EdgelibError(
                f"these statistics are of another model, they do not fit layer {name!r}: calibrate this one"
            )


def _describes(seen, weight: torch.Tensor) -> bool:
    # a norm within 0.1 % admits a copy of the model in half precision, and tells an outlier twin from its original
    norm = seen.weight_norm
    return len(seen.abs_max) == weight.shape[1] and abs(weight_norm(weight) - norm) <= 1e-3 * norm
