"""Mixed precision: a model whose layers follow different schemes."""

from __future__ import annotations

from collections.abc import Mapping

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.modules import shared_copy, swapped
from edgelib.ground.separate import separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.quantize import quantize, target_layers
from edgelib.quant.scheme import Scheme
from edgelib.quant.scheme import scheme as parse_scheme


def quantize_mixed(model, schemes: Mapping[str, str | Mapping | Scheme], calibration=None):
    """Return a copy of `model` in which each named layer follows its own scheme; layers left out stay as they are.

    schemes: {name of a Linear: scheme}, "fp32" for a layer that stays. calibration: as `quantize`. A scheme that moves
    scales between layers (smoothquant, awq, mbq), rotates or casts the whole model is refused: it changes more than its
    layer.
    Raises EdgelibError for such schemes, for names that are no Linear of the model, and as `quantize`.
    """
    module = separated(module_of(model))
    layers = target_layers(module, parse_scheme("w8a8-minmax"))
    by_scheme: dict[Scheme, list[str]] = {}
    for name, spec in schemes.items():
        scheme = parse_scheme(spec)
        if name not in layers:
            raise EdgelibError(
                f"unknown layer {name!r}{did_you_mean(name, layers)}; the model has {len(layers)} Linears"
            )
        if not scheme.only_copies and (scheme.method == "cast" or scheme.alpha is not None or scheme.rotated):
            raise EdgelibError(
                f"layer {name!r}: {scheme.name} acts on more than the layer; choose minmax, gptq or imatrix for a mix"
            )
        by_scheme.setdefault(scheme, []).append(name)
    result = shared_copy(module)
    for scheme, names in by_scheme.items():
        if scheme.only_copies:
            continue
        only = parse_scheme({**scheme.to_dict(), "targets": names, "exclude": []})
        part = module_of(quantize(model, only, calibration))
        result = swapped(result, {result.get_submodule(name): part.get_submodule(name) for name in names})
    return result if model is module_of(model) else model.with_module(result)
