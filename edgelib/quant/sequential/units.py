"""The pieces of a network that are calibrated one after the other: blocks of its lists, and Linears outside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.convolutions import MATRIX

CACHES = ("past_key_values", "past_key_value", "use_cache")  # arguments that a block can do without


class Call(NamedTuple):
    """How a module was called: its positional and keyword arguments, without caches."""

    args: tuple
    kwargs: dict

    @property
    def state(self) -> Tensor:
        """The tensor that flows from block to block: the first argument, or hidden_states by name."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    def of(self, state: Tensor) -> Call:
        """The same call with another state."""
        if self.args:
            return Call((state, *self.args[1:]), self.kwargs)
        return Call((), self.kwargs | {"hidden_states": state})


@dataclass
class Unit:
    """A module whose targets are calibrated by running it alone.

    follows: whether each of its calls takes what the unit before gave and is like the call of that one, so that outputs
    can be handed on; else its calls are those of a run of the whole network.
    """

    name: str
    targets: list[str] = field(default_factory=list)
    follows: bool = False


def called(args: tuple, kwargs: dict) -> Call:
    """Return a call without caches; raises EdgelibError where no tensor is its first argument or hidden_states."""
    kwargs = {key: value for key, value in kwargs.items() if key not in CACHES}
    call = Call(args, kwargs)
    if not isinstance(args[0] if args else kwargs.get("hidden_states"), Tensor):
        raise EdgelibError(
            "a block of this network is not called with a tensor as its first argument or hidden_states, so that it "
            "cannot be calibrated alone: choose gptq without -sequential"
        )
    return call


def state_of(output: Any) -> Any:
    """What a block hands on: its output, or the first part of it."""
    return output[0] if isinstance(output, tuple | list) else output


def run_unit(unit: nn.Module, call: Call) -> Tensor:
    """Run a module as it was called and return what it hands on."""
    return state_of(unit(*call.args, **call.kwargs))


def owner_of(name: str) -> str:
    """The module whose call is the call of a Linear: itself, or the convolution whose matrix it is."""
    return name.removesuffix(MATRIX)


@contextmanager
def hooked(module: nn.Module, names: Sequence[str], before: Callable, after: Callable | None = None) -> Iterator[None]:
    """Call before(name, args, kwargs) and after(name, output) around each call of the modules called `names`."""
    hooks = []
    for name in names:
        layer = module.get_submodule(name)
        hooks.append(layer.register_forward_pre_hook(partial(_before, before, name), with_kwargs=True))
        if after is not None:
            hooks.append(layer.register_forward_hook(partial(_after, after, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _before(act: Callable, name: str, _, args: tuple, kwargs: dict) -> None:
    act(name, args, kwargs)


def _after(act: Callable, name: str, _, args: tuple, output: Any) -> None:
    act(name, output)


def units_of(module: nn.Module, targets: Sequence[str], run: Callable[[], object]) -> list[Unit]:
    """Return the units that hold the targets, in the order in which run(), which runs the network once, calls them.

    A unit is a child of an outermost `nn.ModuleList`, called once in a run; a target elsewhere is one by itself, as are
    those of a block that is called more often or not as a whole. Targets that are not reached come last, each alone.
    """
    blocks = [f"{name}.{key}" if name else key for name, own in _outermost_lists(module) for key, _ in own]
    inside = {target: block for block in blocks for target in targets if target.startswith(f"{block}.")}
    order: list[str] = []
    calls: dict[str, list[Call]] = {}
    given: dict[str, list[Any]] = {}

    def before(name: str, args: tuple, kwargs: dict) -> None:
        order.append(name)
        if name in blocks:
            calls.setdefault(name, []).append(called(args, kwargs))

    def after(name: str, output: Any) -> None:
        given.setdefault(name, []).append(state_of(output))

    owners = {owner_of(target): target for target in targets}
    watched = [*dict.fromkeys(inside.values())]
    with torch.no_grad(), hooked(module, watched, before, after), hooked(module, list(owners), before):
        run()
    whole = {name for name in watched if order.count(name) == 1}
    units: dict[str, Unit] = {}
    for name in [*dict.fromkeys(order), *(o for o in owners if o not in order)]:
        if name in owners and inside.get(owners[name]) not in whole:
            units[name] = Unit(name, [owners[name]])
        elif name in whole:
            units[name] = Unit(name, [t for t in targets if inside.get(t) == name])
    found = list(units.values())
    for unit, last in zip(found[1:], found, strict=False):
        if unit.name in whole and last.name in whole:
            mine, theirs = calls[unit.name][0], calls[last.name][0]
            unit.follows = mine.state is given[last.name][0] and _alike(mine.of(theirs.state), theirs)
    return found


def _outermost_lists(module: nn.Module) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    seen: list[str] = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ModuleList) and not any(name.startswith(f"{other}.") for other in seen):
            seen.append(name)
            yield name, list(layer.named_children())


def _alike(a: Any, b: Any) -> bool:
    """Whether two arguments are the same objects, or equal where they are no tensors."""
    if a is b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and type(a) is type(b) and a == b
