"""Calibration: what the inputs of every Linear look like, seen in one streaming pass.

One pass serves any number of schemes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.inputs.observe import Observer, observing


@dataclass(frozen=True)
class LayerStatistics:
    """Inputs of one Linear over the calibration set: per-channel max |x| and mean |x| [in], and rows seen.

    weight_norm is the Frobenius norm of the layer's weight: it tells statistics of another model apart.
    """

    abs_max: Tensor
    abs_mean: Tensor
    tokens: int
    weight_norm: float


@dataclass(frozen=True)
class Statistics:
    """What one calibration pass saw; it serves any number of schemes of the same model.

    layers: by qualified name of the Linear. unreached: Linears that no input came to.
    fed_by_norm: LayerNorm name -> the Linears that are its only readers, so that scales can be folded into it.
    """

    layers: dict[str, LayerStatistics]
    unreached: tuple[str, ...]
    fed_by_norm: dict[str, tuple[str, ...]]


def calibrate(model, calibration, batch_size: int = 32) -> Statistics:
    """Run `model` once over `calibration` and return the statistics of every Linear's input.

    model: a ZeroShotModel, whose `calibration_passes(dataset, batch_size)` also runs the text tower, and a data
    set; or a bare nn.Module and an iterable of its inputs (a tensor, a tuple or a mapping of keyword arguments).
    The model is not changed. The maxima do not depend on order or batch size; padding tokens count like others.
    Raises EdgelibError for an empty calibration set, for one of the wrong kind, and for NaN or inf, naming the first
    layer that met it.
    """
    module = module_of(model)
    with observing(module) as observer:
        for _ in _passes(model, calibration, batch_size):
            pass
    if not observer.totals:
        raise EdgelibError("calibration reached no Linear layer: the calibration set is empty, or the model has none")
    return _statistics(observer, dict(module.named_modules()))


def _statistics(observer: Observer, modules: dict[str, nn.Module]) -> Statistics:
    layers = {}
    for name, (peak, total, rows) in observer.totals.items():
        if not torch.isfinite(peak).all():
            raise EdgelibError(
                f"the inputs of layer {name!r} hold NaN or inf during calibration; check images and weights"
            )
        mean = (total / rows).float().cpu()
        layers[name] = LayerStatistics(peak.cpu(), mean, rows, weight_norm(modules[name].weight))
    unreached = tuple(name for name in observer.linears.values() if name not in layers)
    return Statistics(layers, unreached, observer.fed_by_norm())


def module_of(model) -> nn.Module:
    """Return the nn.Module of a ZeroShotModel, or the nn.Module itself; raises EdgelibError for anything else."""
    module = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(module, nn.Module):
        raise EdgelibError(f"expected a loaded model or an nn.Module, got {type(model).__name__}; use edgelib.load")
    return module


def weight_norm(weight: Tensor) -> float:
    """Return the Frobenius norm of a weight, summed in float64."""
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64))


def _passes(model, calibration, batch_size: int) -> Iterator[object]:
    if not isinstance(model, nn.Module):
        if not hasattr(calibration, "batches"):
            raise EdgelibError(
                f"a loaded model is calibrated on a data set, got {type(calibration).__name__}; "
                'pass edgelib.calibration_set("balanced"), or edgelib.dataset(...)'
            )
        yield from model.calibration_passes(calibration, batch_size)
        return
    if hasattr(calibration, "batches") or isinstance(calibration, Tensor | str):
        raise EdgelibError(
            f"a bare nn.Module is calibrated with an iterable of its own inputs, got {type(calibration).__name__}; "
            "load the model with edgelib.load to calibrate it on a data set, or pass [inputs, ...]"
        )
    for batch in calibration:
        if isinstance(batch, Mapping):
            yield model(**batch)
        else:
            yield model(*batch) if isinstance(batch, list | tuple) else model(batch)
