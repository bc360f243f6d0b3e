"""Folding: where a migration's 1 / s goes, exactly and free of charge at run time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from edgelib.formats.blocks import widened
from edgelib.observe.calibrate import Statistics
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.layer import Layer, Migration
from edgelib.quant.scheme import Scheme


def places(scheme: Scheme, targets: Sequence[str], statistics: Statistics | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return (absorber, the Linears that read what it makes) wherever the scheme's method can migrate.

    A norm scales its output by weight and bias. The input of an output projection mixes the rows of the value
    projection channel by channel, so dividing row c of the latter, and its bias, divides channel c of the former's
    input. A place is left out unless every Linear involved is a target.
    """
    method, pairs = METHODS[scheme.method], []
    if method.migrate is None or statistics is None:
        return pairs
    if "norm" in method.absorbers:
        pairs += [(norm, readers) for norm, readers in statistics.fed_by_norm.items() if set(readers) <= set(targets)]
    if "value" in method.absorbers:
        fed = statistics.fed_by_value.items()
        pairs += [(value, (reader,)) for reader, value in fed if {reader, value} <= set(targets)]
    return pairs


def fold(layers: dict[str, nn.Module], absorber: str, readers: Sequence[str], scheme: Scheme, statistics) -> Migration:
    """Let `absorber` take up 1 / s in place, and return the migration that its readers still have to take up.

    layers: the modules of our own copy by name. Parameters become new tensors: the baseline shares the old ones.
    """
    seen = [Layer(n, widened(layers[n].weight.detach()), scheme, statistics.layers[n]) for n in readers]
    migration = METHODS[scheme.method].migrate(seen)
    for parameter in (layers[absorber].weight, getattr(layers[absorber], "bias", None)):
        if parameter is not None:
            scales = migration.scales if parameter.dim() == 1 else migration.scales[:, None]
            parameter.data = (parameter.detach() / scales.to(parameter.device)).to(parameter.dtype)
    return migration
