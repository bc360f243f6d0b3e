"""What was decided for each layer of a quantized model, and where every parameter went, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from edgelib.errors import EdgelibError
from edgelib.ground.convolutions import is_patch_embedding
from edgelib.ground.separate import separated, weights_outside_linears
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import check_groups, target_layers
from edgelib.quant.scheme import scheme_for

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "method": "",
    "ratio": float("nan"),
    "clip_share": float("nan"),
    "damping": float("nan"),
    "loss": float("nan"),
    "loss_rtn": float("nan"),
    "fallback": "",
}


def quantization_report(model) -> pd.DataFrame:
    """Return one row per quantized layer, in the model's order.

    layer, method. ratio: the alpha of the migration that the layer took part in, NaN where nothing could absorb one
    (or the search preferred none). clip_share: share of weight groups with a range below their largest weight.
    damping: what GPTQ's Hessian took, as a share of its mean diagonal. loss, loss_rtn: mean squared error of the
    layer's output on the calibration set, inputs rounded as the scheme rounds them, relative to the output's mean
    square, with the method and with round-to-nearest on the same format; NaN where calibration did not keep what that
    takes: "rows" where inputs are rounded below 16 bits, elsewhere a "hessian". fallback: why the layer was rounded to
    nearest instead, else empty.
    `.attrs` sums up what `parameter_report` says of the other parameters: "quantized", the share of all floating
    parameters that are quantized, and "kept", the shares of the others by why they are not.
    Raises EdgelibError for a model that holds no quantized layer.
    """
    import pandas as pd

    rows = [
        {"layer": name} | {column: layer.notes.get(column, empty) for column, empty in COLUMNS.items()}
        for name, layer in _quantized(model)
    ]
    report, parameters = pd.DataFrame(rows), parameter_report(model)
    shares = parameters.groupby(parameters["kept"], sort=True)["count"].sum() / parameters["count"].sum()
    report.attrs = {
        "quantized": float(shares.get("", 0.0)),
        "kept": {str(why): float(share) for why, share in shares.items() if why},
    }
    return report


def parameter_report(model) -> pd.DataFrame:
    """Return one row for every floating parameter of a quantized model, so that none is left out without a word.

    parameter: its name. count: its numbers. format: what they are rounded to, empty where they are as before. kept: why
    they are as before, else empty. Parameters that layers share have one row.
    Raises EdgelibError for a model that holds no quantized layer.
    """
    import pandas as pd

    module, layers = module_of(model), dict(_quantized(model))
    cast = next((layer.format.name for layer in layers.values() if layer.notes.get("method") == "cast"), "")
    rows = []
    for name, layer in layers.items():
        rows.append((f"{name}.weight", layer.weight.numel(), layer.format.name, ""))
    for name, count, why in _others(module):
        rows.append((name, count, cast, "" if cast else why))
    return pd.DataFrame(rows, columns=["parameter", "count", "format", "kept"])


def parameter_plan(model, scheme="w8a8-minmax") -> pd.DataFrame:
    """Return what `parameter_report` will say of the model once `quantize` has rounded it, without rounding anything.

    It takes shapes alone, so a model without weights (`edgelib.architecture`) will do. Raises EdgelibError as
    `quantize` does for a scheme that does not fit the model.
    """
    import pandas as pd

    module, scheme = separated(module_of(model)), scheme_for(model, scheme)
    targets = target_layers(module, scheme)
    check_groups(module, scheme, targets)
    cast = scheme.weight if scheme.method == "cast" else ""
    weights = {} if cast else {f"{name}.weight": module.get_submodule(name).weight.numel() for name in targets}
    rows = [(name, count, scheme.weight, "") for name, count in weights.items()]
    rows += [(name, count, cast, "" if cast else why) for name, count, why in _others(module) if name not in weights]
    return pd.DataFrame(rows, columns=["parameter", "count", "format", "kept"])


def _quantized(model) -> list[tuple[str, QuantLinear]]:
    layers = [(name, layer) for name, layer in module_of(model).named_modules() if isinstance(layer, QuantLinear)]
    if not layers:
        raise EdgelibError("this model holds no quantized layer; pass what edgelib.quantize returned")
    return layers


def _others(module: nn.Module) -> Iterator[tuple[str, int, str]]:
    """Name, size and kind of the floating parameters that are in no quantized weight."""
    stacks = {key for keys in weights_outside_linears(module).values() for key in keys}
    layers = dict(module.named_modules())
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            owner, _, key = name.rpartition(".")
            yield name, parameter.numel(), _why(layers[owner], key, name in stacks)


def _why(owner: nn.Module, key: str, stack: bool) -> str:
    """Why a parameter of a layer stays as it is."""
    if stack:
        return "weights outside any Linear, which the scheme leaves out"
    if key.endswith("bias"):
        return "a bias"
    if is_patch_embedding(owner):
        return "a patch embedding"
    if "norm" in type(owner).__name__.lower():
        return "a norm"
    kinds = {
        nn.Linear: "a Linear that the scheme leaves out",
        nn.Embedding: "an embedding table",
        nn.modules.conv._ConvNd: "a convolution",
    }
    return next((why for kind, why in kinds.items() if isinstance(owner, kind)), "a parameter outside any Linear")
