"""Calibration: what the inputs of every Linear look like, seen in one streaming pass.

One pass serves any number of schemes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.ground.checks import whole_number
from edgelib.ground.separate import separated
from edgelib.observe.attention import value_sources
from edgelib.observe.statistics import LayerStatistics, Statistics
from edgelib.observe.tallies import NEEDS, Tally, Wanted, wide_device
from edgelib.observe.watch import Observer, Pass, observing

__all__ = ["LayerStatistics", "Statistics", "calibrate", "module_of", "weight_norm"]


def calibrate(
    model,
    calibration,
    batch_size: int = 32,
    needs: str | Sequence[str] = ("moments",),
    seed: int = 0,
    *,
    row_limit: int = 1024,
) -> Statistics:
    """Run `model` once over `calibration` and return the statistics of every Linear's input.

    model: a ZeroShotModel, whose `calibration_passes(dataset, batch_size)` also runs the text tower, and a data
        set; or a bare nn.Module and an iterable of its inputs (a tensor, a tuple or a mapping of keyword arguments),
        batch first. It is not changed.
    needs: "moments" (always kept), "hessian" (in x in floats for each tensor that Linears read), "rows" (a sample of
        at most `row_limit` inputs, chosen by (seed, modality, item, position)) and "percentiles".

    Memory does not grow with the calibration set. Neither batch size nor order changes what is computed, only the last
    bits of sums; the rows of a bare module are numbered as they come, so there the order of the inputs matters. Prompts
    of one length run together: padding counts for a model that reads it (SigLIP), and for no other.
    Beside the pass a blank input is run twice (for a bare module its first batch), to learn which layers read the same
    tensor and what `Statistics.fed_by_value` holds.

    Raises EdgelibError for an unknown need, an empty calibration set, one of the wrong kind, and NaN or inf, naming the
    first layer that met it.
    """
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    for need in needs:
        choose(dict.fromkeys(NEEDS), need, "calibration need")
    wanted = Wanted(needs, whole_number(row_limit, "row_limit", at_least=1), whole_number(seed, "seed"))
    module = separated(module_of(model))
    if module is not module_of(model):
        model = module if isinstance(model, nn.Module) else model.with_module(module)
    steps, probe = passes_over(model, calibration, whole_number(batch_size, "batch_size", at_least=1))
    with observing(module) as first:
        probe(module)
    with observing(module, wanted) as observer:
        observer.reserve(first)
        for step in steps:
            observer.begin(step)
            step.run()
            broken = observer.first_not_finite()
            if broken is not None:
                raise EdgelibError(
                    f"the inputs of layer {broken!r} hold NaN or inf during calibration, or values too large to "
                    "square; check images and weights"
                )
    if not observer.tallies():
        raise EdgelibError("calibration reached no Linear layer: the calibration set is empty, or the model has none")
    return _statistics(observer, module, value_sources(module, probe, first.tallies()))


def _statistics(observer: Observer, module: nn.Module, fed_by_value: dict[str, str]) -> Statistics:
    modules = dict(module.named_modules())
    tallies = observer.tallies()
    # what needs room for a moment comes before what stays (see Observer.reserve)
    norms = {name: weight_norm(modules[name].weight) for name in tallies}
    own = {id(tally): tally for tally in tallies.values()}
    rows = {key: tally.sample.sorted() for key, tally in own.items() if tally.sample is not None}
    shared = {key: plain_fields(tally, *rows.get(key, ())) for key, tally in own.items()}
    layers = {name: LayerStatistics(weight_norm=norms[name], **shared[id(tally)]) for name, tally in tallies.items()}
    unreached = tuple(name for names in observer.linears.values() for name in names if name not in layers)
    fed_by_value = {out: value for out, value in fed_by_value.items() if out in layers}
    return Statistics(layers, unreached, observer.fed_by_norm(), fed_by_value)


def plain_fields(tally: Tally, rows: Tensor | None = None, index: Tensor | None = None) -> dict[str, Any]:
    """Return the fields of LayerStatistics that a tally and its sorted sample fill, on the CPU."""
    fields = {
        "abs_max": tally.peak.float().cpu(),
        "abs_mean": (tally.total / tally.rows).float().cpu(),
        "square_mean": (tally.squares / tally.rows).float().cpu(),
        "tokens": tally.rows,
    }
    if tally.gram is not None:
        fields["hessian"] = tally.gram.div_(tally.rows).cpu()
    if rows is not None:
        fields |= {"rows": rows, "row_items": index[0], "row_positions": index[1], "row_modalities": index[2]}
    if tally.counts is not None:
        fields["counts"] = tally.counts.cpu()
    return fields


def module_of(model) -> nn.Module:
    """Return the nn.Module of a ZeroShotModel, or the nn.Module itself; raises EdgelibError for anything else."""
    module = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(module, nn.Module):
        raise EdgelibError(f"expected a loaded model or an nn.Module, got {type(model).__name__}; use edgelib.load")
    return module


def weight_norm(weight: Tensor) -> float:
    """Return the Frobenius norm of a weight, summed in float64."""
    weight = weight.detach().to(wide_device(weight.device))
    return float(torch.linalg.vector_norm(weight, dtype=torch.float64))


def passes_over(model, calibration, batch_size: int = 32) -> tuple[Iterator[Pass], Callable[[nn.Module], object]]:
    """Return the runs over a calibration set, and a short one that takes any network of the same shape.

    Raises EdgelibError for a calibration set of the wrong kind.
    """
    if not isinstance(model, nn.Module):
        if not hasattr(calibration, "batches"):
            raise EdgelibError(
                f"a loaded model is calibrated on a data set, got {type(calibration).__name__}; "
                'pass edgelib.calibration_set("balanced"), or edgelib.dataset(...)'
            )
        return model.calibration_passes(calibration, batch_size), lambda module: model.with_module(module).probe()
    if hasattr(calibration, "batches") or isinstance(calibration, Tensor | str):
        raise EdgelibError(
            f"a bare nn.Module is calibrated with an iterable of its own inputs, got {type(calibration).__name__}; "
            "load the model with edgelib.load to calibrate it on a data set, or pass [inputs, ...]"
        )
    batches = iter(calibration)
    first = list(islice(batches, 1))
    steps = (Pass(partial(_call, model, batch)) for batch in chain(first, batches))
    return steps, lambda module: [_call(module, batch) for batch in first]


def _call(module: nn.Module, batch: object) -> object:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, list | tuple) else module(batch)
