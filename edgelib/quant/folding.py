"""Folding: where a migration's 1 / s goes, exactly and free of charge at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from edgelib.quant.calibrate import Statistics
from edgelib.quant.grid import widened
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.layer import Layer, Migration
from edgelib.quant.scheme import Scheme


def fold(
    layers: dict[str, nn.Module],
    plan: Scheme,
    targets: Sequence[str],
    statistics: Statistics | None,
    step: Callable[[], object] = lambda: None,
) -> dict[str, Migration]:
    """Let norms and value projections absorb 1 / s, in place; return for each reader the migration it has to take.

    layers: the modules of our own copy by name. A norm scales its output by weight and bias. The input of an output
    projection mixes the rows of the value projection channel by channel, so dividing row c of the latter (and its
    bias) divides channel c of the former's input. Both are left alone unless every layer involved is a target.
    """
    method, migrations = METHODS[plan.method], {}
    if method.migrate is None or statistics is None:
        return migrations

    def migrate(readers: Sequence[str]) -> Tensor:
        seen = [Layer(n, widened(layers[n].weight.detach()), plan, statistics.layers[n]) for n in readers]
        found = method.migrate(seen)
        migrations.update(dict.fromkeys(readers, found))
        step()
        return found.scales

    if "norm" in method.absorbers:
        for norm, readers in statistics.fed_by_norm.items():
            if set(readers).issubset(targets):
                _divide(layers[norm], migrate(readers))
    if "value" in method.absorbers:
        for reader, value in statistics.fed_by_value.items():
            if {reader, value}.issubset(targets) and reader not in migrations:
                _divide(layers[value], migrate([reader]))
    return migrations


def _divide(layer: nn.Module, scales: Tensor) -> None:
    """Divide the outputs of a norm or a Linear by scales, in new tensors: the baseline shares the old ones."""
    for parameter in (layer.weight, getattr(layer, "bias", None)):
        if parameter is not None:
            shaped = scales if parameter.dim() == 1 else scales[:, None]
            parameter.data = (parameter.detach() / shaped.to(parameter.device)).to(parameter.dtype)
