"""Watch a network run: what reaches each Linear, and which Linears read which LayerNorm.

The watching is a `TorchFunctionMode`, which sees each `F.linear` and each LayerNorm output as the network runs. Nothing
is attached to the modules, so nothing can be left behind, and memory holds two vectors per layer.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Functions that may hand their argument back unchanged; any other use of a LayerNorm output forbids folding into it.
_PASS_THROUGH = {"contiguous", "to", "float", "type_as", "dropout"}


class Observer(TorchFunctionMode):
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
def observing(module: nn.Module) -> Iterator[Observer]:
    """Watch `module` in evaluation mode while the block runs; training flags come back on exit, error or not."""
    training = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        with Observer(module) as observer, torch.no_grad():
            yield observer
    finally:
        for layer, flag in training.items():
            layer.training = flag


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters are new objects on the same storage; buffers are copied."""
    # new Parameter objects, because Module.to() and .half() rewrite the .data of the old ones
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


def norm_readers(module: nn.Module, run: Callable[[], object]) -> dict[str, tuple[str, ...]]:
    """Call run(), which runs `module`, and return LayerNorm name -> the Linears that are its only readers."""
    with observing(module) as observer:
        run()
    return observer.fed_by_norm()
