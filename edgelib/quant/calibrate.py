"""Calibration: what the inputs of every Linear look like, seen in one streaming pass.

The pass runs under a `TorchFunctionMode`, which sees each `F.linear` and each LayerNorm output as the model
runs. Nothing is attached to the modules, so nothing can be left behind, and memory holds two vectors per layer.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgelib.errors import EdgelibError

# Functions that may hand their argument back unchanged; any other use of a LayerNorm output forbids folding into it.
_PASS_THROUGH = {"contiguous", "to", "float", "type_as", "dropout"}


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


class _Observer(TorchFunctionMode):
    """Watches F.linear and F.layer_norm calls that use parameters of one module."""

    def __init__(self, module: nn.Module):
        super().__init__()
        uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        self.tied = {key for key, count in uses.items() if count > 1}
        self.linears, self.norms = {}, {}
        for name, layer in module.named_modules():
            key = id(getattr(layer, "weight", None))
            if isinstance(layer, nn.Linear):
                self.linears[key] = name
            elif isinstance(layer, nn.LayerNorm | nn.RMSNorm) and layer.weight is not None and key not in self.tied:
                self.norms[key] = name
        self.totals: dict[str, list] = {}  # linear -> [max |x|, sum |x| (float64), rows]
        self.sources: dict[str, set] = {}  # linear -> the norms whose outputs it read, None for any other tensor
        self.unfoldable: set[str] = set()
        self._made_by: dict[int, tuple[weakref.ref, str]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.linear and id(_argument(args, kwargs, 1, "weight")) in self.linears:
            weight = _argument(args, kwargs, 1, "weight")
            self._saw_linear(_argument(args, kwargs, 0, "input"), weight)
            return result
        self._saw_other(func, args, kwargs, result)
        if func in (F.layer_norm, F.rms_norm):
            name = self.norms.get(id(_argument(args, kwargs, 2, "weight")))
            if name is not None:
                key = id(result)
                self._made_by[key] = weakref.ref(result, lambda _: self._made_by.pop(key, None)), name
        return result

    def _norm_of(self, x: object) -> str | None:
        made = self._made_by.get(id(x))
        return made[1] if made and made[0]() is x else None

    def _saw_linear(self, x: Tensor, weight: Tensor) -> None:
        name, norm = self.linears[id(weight)], self._norm_of(x)
        self.sources.setdefault(name, set()).add(norm)
        if norm and id(weight) in self.tied:
            self.unfoldable.add(norm)
        magnitude = x.detach().reshape(-1, x.shape[-1]).abs()
        if not magnitude.numel():
            return
        peak, total = magnitude.amax(0).float(), magnitude.sum(0, dtype=torch.float64)
        seen = self.totals.setdefault(name, [peak, torch.zeros_like(total), 0])
        seen[0], seen[1], seen[2] = torch.maximum(seen[0], peak), seen[1] + total, seen[2] + len(magnitude)

    def _saw_other(self, func, args, kwargs, result) -> None:
        for x in _tensors((args, kwargs)):
            norm = self._norm_of(x)
            unchanged = result is x and getattr(func, "__name__", "") in _PASS_THROUGH
            if norm and not unchanged and any(True for _ in _tensors(result)):
                self.unfoldable.add(norm)

    def fed_by_norm(self) -> dict[str, tuple[str, ...]]:
        """Return the norms all of whose readers are Linears that read nothing else."""
        mixed = {norm for sources in self.sources.values() if len(sources) > 1 for norm in sources}
        groups: dict[str, tuple[str, ...]] = {}
        for name, sources in self.sources.items():
            for norm in sources - {None} - mixed - self.unfoldable:
                groups[norm] = (*groups.get(norm, ()), name)
        return groups


def _argument(args, kwargs, position: int, name: str):
    # F.layer_norm(input, normalized_shape, weight) and F.linear(input, weight) are called both ways
    return args[position] if len(args) > position else kwargs.get(name)


def _tensors(value) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


@contextmanager
def observing(module: nn.Module) -> Iterator[_Observer]:
    """Watch `module` in evaluation mode while the block runs; training flags come back on exit, error or not."""
    training = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        with _Observer(module) as observer, torch.no_grad():
            yield observer
    finally:
        for layer, flag in training.items():
            layer.training = flag


def calibrate(model, calibration, batch_size: int = 32) -> Statistics:
    """Run `model` once over `calibration` and return the statistics of every Linear's input.

    model: a ZeroShotModel, whose `calibration_passes(dataset, batch_size)` also runs the text tower, and a data
    set; or a bare nn.Module and an iterable of its inputs (a tensor, a tuple or a mapping of keyword arguments).
    The model is not changed. The maxima do not depend on order or batch size; padding tokens count like others.
    Raises EdgelibError for an empty calibration set and for NaN or inf, naming the first layer that met it.
    """
    module = module_of(model)
    with observing(module) as observer:
        for _ in _passes(model, calibration, batch_size):
            pass
    if not observer.totals:
        raise EdgelibError("calibration reached no Linear layer: the calibration set is empty, or the model has none")
    return _statistics(observer, dict(module.named_modules()))


def _statistics(observer: _Observer, modules: dict[str, nn.Module]) -> Statistics:
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
