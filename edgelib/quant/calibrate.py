"""Calibration: what the inputs of every Linear look like, seen in one streaming pass.

One pass serves any number of schemes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.inputs.columns import whole_number
from edgelib.inputs.observe import Observer, Pass, observing
from edgelib.inputs.tallies import NEEDS, Tally, Wanted
from edgelib.quant.statistics import LayerStatistics, Statistics

__all__ = ["LayerStatistics", "Statistics", "calibrate", "module_of", "weight_norm"]


def calibrate(
    model, calibration, batch_size: int = 32, needs: str | Sequence[str] = ("moments",), seed: int = 0,
    *, row_limit: int = 1024,
) -> Statistics:  # fmt: skip
    """Run `model` once over `calibration` and return the statistics of every Linear's input.

    model: a ZeroShotModel, whose `calibration_passes(dataset, batch_size)` also runs the text tower, and a data
        set; or a bare nn.Module and an iterable of its inputs (a tensor, a tuple or a mapping of keyword arguments).
        It is not changed.
    needs: "moments" (always kept), "hessian" (in x in floats for each tensor that Linears read), "rows" (a sample of
        at most `row_limit` inputs, chosen by (seed, modality, item, position)) and "percentiles".

    Neither batch size nor order changes what is computed, only the last bits of sums.
    Raises EdgelibError for an unknown need, an empty calibration set, one of the wrong kind, and NaN or inf, naming the
    first layer that met it.
    """
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    for need in needs:
        choose(dict.fromkeys(NEEDS), need, "calibration need")
    wanted = Wanted(needs, whole_number(row_limit, "row_limit", at_least=1), whole_number(seed, "seed"))
    module = module_of(model)
    with observing(module, wanted) as observer:
        for step in _passes(model, calibration, whole_number(batch_size, "batch_size", at_least=1)):
            observer.begin(step)
            step.run()
    tallies = observer.tallies()
    if not tallies:
        raise EdgelibError("calibration reached no Linear layer: the calibration set is empty, or the model has none")
    return _statistics(observer, tallies, dict(module.named_modules()))


def _statistics(observer: Observer, tallies: dict[str, Tally], modules: dict[str, nn.Module]) -> Statistics:
    layers, shared = {}, {}
    for name, tally in tallies.items():
        if not torch.isfinite(tally.squares).all():
            raise EdgelibError(
                f"the inputs of layer {name!r} hold NaN or inf during calibration; check images and weights"
            )
        if id(tally) not in shared:
            shared[id(tally)] = _plain(tally)
        layers[name] = LayerStatistics(weight_norm=weight_norm(modules[name].weight), **shared[id(tally)])
    unreached = tuple(name for name in observer.linears.values() if name not in layers)
    return Statistics(layers, unreached, observer.fed_by_norm(), {})


def _plain(tally: Tally) -> dict[str, object]:
    """The fields of LayerStatistics that a tally fills, on the CPU."""
    fields = {
        "abs_max": tally.peak.cpu(),
        "abs_mean": (tally.total / tally.rows).float().cpu(),
        "square_mean": (tally.squares / tally.rows).float().cpu(),
        "tokens": tally.rows,
    }
    if tally.gram is not None:
        fields["hessian"] = tally.gram.div_(tally.rows).cpu()
    if tally.sample is not None:
        sample = tally.sample.in_order()
        fields |= {
            "rows": sample.values, "row_items": sample.index.item, "row_positions": sample.index.position,
            "row_modalities": sample.index.modality,
        }  # fmt: skip
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
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64))


def _passes(model, calibration, batch_size: int) -> Iterator[Pass]:
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
            yield Pass(partial(model, **batch))
        else:
            yield Pass(partial(model, *batch) if isinstance(batch, list | tuple) else partial(model, batch))
