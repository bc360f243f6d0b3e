"""Round a network unit by unit, each Linear from inputs that have passed the rounded layers before it.

GPTQ's own code calibrates like that (Frantar et al., ICLR 2023), and GPTAQ (Li et al., ICML 2025, arXiv:2504.02692)
compares with what the unrounded network gives to the same Linear. Memory: the statistics of one group of Linears and,
for each calibration item, what one block reads (of both networks where they are compared); it does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgelib.ground.convolutions import MATRIX, SeparateConvolution
from edgelib.observe.calibrate import plain_fields, weight_norm
from edgelib.observe.statistics import LayerStatistics
from edgelib.observe.tallies import Tally, Wanted
from edgelib.quant.linear import QuantLinear
from edgelib.quant.scheme import Scheme
from edgelib.quant.sequential.units import Call, Unit, called, hooked, owner_of, run_unit, units_of

Passes = Callable[[nn.Module], Iterable[Callable[[], object]]]  # the runs of a network over the calibration set
Make = Callable[[str, nn.Linear, LayerStatistics | None], QuantLinear]


class _Reached(Exception):
    """Raised to end a run once the unit that it is for has been called."""


@torch.no_grad()
def round_in_order(
    reference: nn.Module,
    result: nn.Module,
    targets: Sequence[str],
    scheme: Scheme,
    passes: Passes,
    probe: Callable[[nn.Module], object],
    make: Make,
) -> None:
    """Replace the targets of `result` in place, in the order in which the network calls them.

    reference: a copy of the same network that stays as it is. passes: the runs of a given network over the calibration
    set; probe: a short run of a given network. make: rounds one Linear from its statistics, None where no calibration
    input reached it. Statistics are of inputs as the scheme rounds them where it finds scales token by token; `drift`
    is kept where the method compares.
    """
    networks = [result, reference] if scheme.compares else [result]
    modes = [(layer, layer.training) for network in networks for layer in network.modules()]
    for network in networks:
        network.eval()
    calls: list[list[Call]] = []
    last: Unit | None = None
    for unit in units_of(reference, targets, lambda: probe(reference)):
        if unit.follows and last is not None:
            calls = [
                [call.of(run_unit(network.get_submodule(last.name), call)) for call in own]
                for network, own in zip(networks, calls, strict=True)
            ]
        else:
            calls = [_calls_of(network, unit, passes) for network in networks]
        last = unit
        _round_unit(networks, unit, calls, scheme, make)
    for layer, mode in modes:
        layer.training = mode


def _calls_of(network: nn.Module, unit: Unit, passes: Passes) -> list[Call]:
    """How the runs over the calibration set call a unit; one that is a block ends the run."""
    found: list[Call] = []
    alone = unit.targets == [unit.name] or unit.targets == [unit.name + MATRIX]

    def before(_, args: tuple, kwargs: dict) -> None:
        found.append(called(args, kwargs))
        if not alone:
            raise _Reached

    with hooked(network, [unit.name], before):
        for run in passes(network):
            try:
                run()
            except _Reached:
                continue
    return found


def _round_unit(networks: list[nn.Module], unit: Unit, calls: list[list[Call]], scheme: Scheme, make: Make) -> None:
    """Round the targets of one unit, those that read one tensor together, in the order in which it reads them."""
    result, left, start = networks[0], list(unit.targets), 0
    while left:
        group: list[str] = []
        while not group and start < len(calls[0]):
            group = _first_readers(result, unit, left, calls[0][start])
            start += not group
        seen = None
        if group:
            start = 0
            seen = _statistics(networks, unit, group[0], calls, scheme)
        group = group or list(left)
        for name in group:
            linear = result.get_submodule(name)
            own = None if seen is None else replace(seen, weight_norm=weight_norm(linear.weight))
            parent, _, key = name.rpartition(".")
            setattr(result.get_submodule(parent), key, make(name, linear, own))
            left.remove(name)


def _first_readers(network: nn.Module, unit: Unit, left: Sequence[str], call: Call) -> list[str]:
    """Which of the Linears read the first tensor that any of them reads in a call of the unit."""
    readers: list[tuple[str, Tensor]] = []
    owners = {owner_of(name): name for name in left}

    def before(name: str, args: tuple, kwargs: dict) -> None:
        readers.append((owners[name], called(args, kwargs).state))

    with hooked(network, list(owners), before):
        run_unit(network.get_submodule(unit.name), call)
    return list(dict.fromkeys(name for name, x in readers if x is readers[0][1]))


def _statistics(
    networks: list[nn.Module], unit: Unit, name: str, calls: list[list[Call]], scheme: Scheme
) -> LayerStatistics:
    """What a Linear of a unit reads over all calls, in the network that is rounded and beside it in the reference."""
    wanted = Wanted(sorted(scheme.own_needs - {"rows"}))
    tally: Tally | None = None
    drift: Tensor | None = None
    for both in zip(*calls, strict=True):
        rows = [_inputs_of(network, unit, name, call) for network, call in zip(networks, both, strict=True)]
        x = rows[0]
        if not len(x):
            continue
        if scheme.activation_granularity == "token":
            x = scheme.activation_format.round_rows(x)
        own = Tally.of(x, None, wanted)
        if tally is None:
            tally = Tally.empty(x.shape[1], own.peak.device, wanted)
        tally.add(own)
        if len(rows) > 1 and rows[1].shape == x.shape:  # a mixture may send other tokens to an expert
            part = (rows[1] - x).float().T @ x.float()
            drift = part if drift is None else drift.add_(part)
    return LayerStatistics(
        weight_norm=0.0, drift=None if drift is None else drift.div_(tally.rows).cpu(), **plain_fields(tally)
    )


def _inputs_of(network: nn.Module, unit: Unit, name: str, call: Call) -> Tensor:
    """The rows [n, in] that a Linear of a unit reads in one call of it."""
    owner, rows = network.get_submodule(owner_of(name)), []
    linear = network.get_submodule(name)

    def before(_, args: tuple, kwargs: dict) -> None:
        x = called(args, kwargs).state
        x = owner.rows(x).reshape(-1, linear.in_features) if isinstance(owner, SeparateConvolution) else x
        rows.append(x.detach().reshape(-1, x.shape[-1]))

    with hooked(network, [owner_of(name)], before):
        run_unit(network.get_submodule(unit.name), call)
    return torch.cat(rows) if rows else linear.weight.new_empty(0, linear.in_features)
