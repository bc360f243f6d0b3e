"""Watch a network run: what reaches each Linear, and which Linears read which LayerNorm.

The watching is a `TorchFunctionMode`, which sees each `F.linear` and each LayerNorm output as the network runs. Nothing
is attached to the modules, so nothing can be left behind, and memory holds one tally per tensor that Linears read.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgelib.ground.convolutions import SeparateConvolution
from edgelib.observe.tallies import MODALITIES, RowIndex, Tally, Wanted

_PRODUCTS = {"mul", "__mul__", "__rmul__"}  # how an RMSNorm of transformers ends: weight times what it normalised
# Functions that may hand their argument back unchanged; any other use of a LayerNorm output forbids folding into it.
_PASS_THROUGH = {"contiguous", "to", "float", "type_as", "dropout"}


@dataclass(frozen=True)
class Pass:
    """One run of a network over part of a calibration set, and where the rows that its layers read come from.

    run: runs the network, batch first. items: int64 [B], the item behind each entry of the batch, None where nobody
    knows. modality: one of MODALITIES, or its index for every token, int64 [B, T].
    """

    run: Callable[[], object]
    items: Tensor | None = None
    modality: str | Tensor = "unknown"


@dataclass
class _Reading:
    """The tensor that was read last, its tally, and the Linears that have read it."""

    tensor: weakref.ref
    version: int | None
    tally: Tally
    readers: tuple[str, ...]

    def is_of(self, x: Tensor) -> bool:
        # an inference tensor does not count its changes, so nobody knows whether it still is what was read
        return self.version is not None and self.tensor() is x and self.version == x._version


class Observer(TorchFunctionMode):
    """Watches F.linear and F.layer_norm calls that use parameters of one module, and the products of its RMSNorms.

    Linears that read the same tensor (q, k and v) share its tally: one is kept for each set of readers. Linears that
    share one weight are taken for one: a call does not say whose it is, so each is told all that the weight multiplies.
    """

    def __init__(self, module: nn.Module, wanted: Wanted | None = None):
        super().__init__()
        self.wanted = wanted or Wanted()
        uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        self.tied = {key for key, count in uses.items() if count > 1}
        self.linears: dict[int, tuple[str, ...]] = {}
        self.norms: dict[int, str] = {}
        for name, layer in module.named_modules():
            key = id(getattr(layer, "weight", None))
            if isinstance(layer, nn.Linear):
                self.linears[key] = (*self.linears.get(key, ()), name)
            elif _is_norm(layer) and layer.weight is not None and key not in self.tied:
                self.norms[key] = name
        self.sources: dict[str, set] = {}  # linear -> the norms whose outputs it read, None for any other tensor
        self.unfoldable: set[str] = set()
        self._made_by: dict[int, tuple[weakref.ref, str]] = {}
        self._tallies: dict[tuple[str, ...], Tally] = {}
        self._reading: _Reading | None = None
        self._pass: Pass | None = None
        self._rows: Counter[str] = Counter()  # that each Linear has read in all
        self._rows_of_item: Counter[str] = Counter()  # that it has read of every item in this pass

    def saw_rows(self, rows: Tensor, weight: Tensor) -> None:
        """Take rows [N, places, in] for the input of the Linear with this weight: what a convolution reads."""
        self._saw_linear(rows, weight)

    def begin(self, step: Pass) -> None:
        """Say what the next run is about; without it the rows of a Linear are numbered as they come."""
        self.commit()
        self._pass = step
        self._rows_of_item.clear()

    def reserve(self, other: Observer) -> None:
        """Make room for what an observer of the same network has seen, before a run mixes it with activations.

        The C library cannot give back the memory between small blocks that stay, so a late tally costs far more than
        its size.
        """
        for readers, tally in other._tallies.items():
            self._tallies[readers] = Tally.empty(len(tally.peak), tally.peak.device, self.wanted)

    def tallies(self) -> dict[str, Tally]:
        """Tally by Linear, in the order they were reached; Linears that always read together have the same object."""
        self.commit()
        found: dict[str, list[Tally]] = {name: [] for name in self.sources}
        for readers, tally in self._tallies.items():
            for name in readers if tally.rows else ():
                found[name].append(tally)
        return {name: _sum_of(parts, self.wanted) for name, parts in found.items() if parts}

    def first_not_finite(self) -> str | None:
        """The first Linear whose inputs hold NaN, inf, or values whose squares do not add up."""
        self.commit()
        broken = (names[0] for names, tally in self._tallies.items() if not torch.isfinite(tally.squares).all())
        return next(broken, None)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.linear and id(_argument(args, kwargs, 1, "weight")) in self.linears:
            weight = _argument(args, kwargs, 1, "weight")
            self._saw_linear(_argument(args, kwargs, 0, "input"), weight)
            return result
        self._saw_other(func, args, kwargs, result)
        name = self._norm_called(func, args, kwargs)
        if name is not None:
            key = id(result)
            self._made_by[key] = weakref.ref(result, lambda _: self._made_by.pop(key, None)), name
        return result

    def _norm_called(self, func, args, kwargs) -> str | None:
        """The norm whose output a call returns: that of a norm function, or of a product with a norm's weight."""
        if func in (F.layer_norm, F.rms_norm):
            return self.norms.get(id(_argument(args, kwargs, 2, "weight")))
        if getattr(func, "__name__", "") in _PRODUCTS:
            return next((self.norms[id(x)] for x in args if id(x) in self.norms), None)
        return None

    def _norm_of(self, x: object) -> str | None:
        made = self._made_by.get(id(x))
        return made[1] if made and made[0]() is x else None

    def _saw_linear(self, x: Tensor, weight: Tensor) -> None:
        names, norm = self.linears[id(weight)], self._norm_of(x)
        for name in names:
            self.sources.setdefault(name, set()).add(norm)
        if norm and id(weight) in self.tied:
            self.unfoldable.add(norm)
        if not x.numel():
            return
        if self._reading is not None and self._reading.is_of(x):
            self._reading.readers += names
            return
        self.commit()
        flat = x.detach().reshape(-1, x.shape[-1])
        tally = Tally.of(flat, self._index(names[0], x.shape[:-1]), self.wanted)
        version = None if x.is_inference() else x._version
        self._reading = _Reading(weakref.ref(x), version, tally, names)

    def commit(self) -> None:
        """Add the tally of the last tensor to that of its readers, who are all known once another one is read."""
        if self._reading is None:
            return
        readers, tally = self._reading.readers, self._reading.tally
        if readers not in self._tallies:
            self._tallies[readers] = Tally.empty(len(tally.peak), tally.peak.device, self.wanted)
        self._tallies[readers].add(tally)
        each = self._rows_per_item(tally.rows)
        for name in readers:
            self._rows[name] += tally.rows
            self._rows_of_item[name] += each
        self._reading = None

    def _rows_per_item(self, rows: int) -> int:
        """Rows of each item of the pass in a tensor of so many rows; 0 if they do not share them evenly."""
        items = None if self._pass is None else self._pass.items
        return 0 if items is None or rows % len(items) else rows // len(items)

    def _index(self, name: str, shape: torch.Size) -> RowIndex | None:
        """Item, position and modality of the rows of a batch-first tensor."""
        if "rows" not in self.wanted.needs:
            return None
        rows, step = shape.numel(), self._pass or Pass(lambda: None)
        each = self._rows_per_item(rows)
        if each:
            item = step.items.cpu().repeat_interleave(each)
            position = (self._rows_of_item[name] + torch.arange(each)).repeat(len(step.items))
        else:
            item, position = self._rows[name] + torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
        if isinstance(step.modality, str):
            return RowIndex(item, position, torch.full((rows,), MODALITIES.index(step.modality)))
        known = step.modality.shape == shape
        return RowIndex(item, position, step.modality.cpu().flatten() if known else torch.zeros_like(item))

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


def _is_norm(layer: nn.Module) -> bool:
    """Whether it is a LayerNorm or an RMSNorm; transformers has one of its own in each family, with the same forward.

    Those that scale by 1 + weight never multiply by the weight itself, so that they are not seen as norms in a run.
    """
    ours = type(layer).__name__.endswith("RMSNorm") and [n for n, _ in layer.named_parameters()] == ["weight"]
    return isinstance(layer, nn.LayerNorm | nn.RMSNorm) or ours


def _sum_of(parts: list[Tally], wanted: Wanted) -> Tally:
    """The only part itself, or a new tally of all."""
    if len(parts) == 1:
        return parts[0]
    whole = Tally.empty(len(parts[0].peak), parts[0].peak.device, wanted)
    for part in parts:
        whole.add(part)
    return whole


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
def observing(module: nn.Module, wanted: Wanted | None = None) -> Iterator[Observer]:
    """Watch `module` in evaluation mode while the block runs; training flags come back on exit, error or not."""
    training = {layer: layer.training for layer in module.modules()}
    convolutions = [layer for layer in module.modules() if isinstance(layer, SeparateConvolution)]
    module.eval()
    try:
        with Observer(module, wanted) as observer, torch.no_grad():
            for layer in convolutions:
                layer.watch = observer.saw_rows
            yield observer
    finally:
        for layer in convolutions:
            del layer.watch
        for layer, flag in training.items():
            layer.training = flag


def norm_readers(module: nn.Module, run: Callable[[], object]) -> dict[str, tuple[str, ...]]:
    """Call run(), which runs `module`, and return LayerNorm name -> the Linears that are its only readers."""
    with observing(module) as observer:
        run()
    return observer.fed_by_norm()
