"""Which layers get how many bits: the cheapest loss of a byte budget, by integer programming.

    minimise  sum_l sum_f loss[l, f] x[l, f]   subject to   sum_l sum_f bytes[l, f] x[l, f] <= budget,
              one format per layer, x in {0, 1}

Losses of single layers are added up, which is right to first order; whether the sum holds is for a measurement of the
whole model to show. HAWQ (Dong et al., 2019) and AutoQuantize solve the same problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from scipy import optimize, sparse

from edgelib.errors import EdgelibError, choose

_TRIES = 20  # choices over budget by less than the solver's tolerance before the smallest one is taken


@dataclass(frozen=True)
class Allocation:
    """A format per layer. loss: the sum of the layers' losses; least_loss: what no choice within the budget can beat
    (the linear relaxation); bytes of the choice, at most budget."""

    formats: pd.Series
    loss: float
    least_loss: float
    bytes: float
    budget: float


def _matched(losses: pd.DataFrame, sizes: pd.DataFrame) -> None:
    for name, table in (("losses", losses), ("sizes", sizes)):
        if not isinstance(table, pd.DataFrame) or table.empty:
            raise EdgelibError(f"{name} must be a table with a row per layer and a column per format")
        bad = ~np.isfinite(table.to_numpy(dtype=float, na_value=np.nan))
        if bad.any():
            layer, column = np.argwhere(bad)[0]
            raise EdgelibError(
                f"{name} of layer {table.index[layer]!r} in {table.columns[column]!r} is NaN or infinite"
            )
    if list(losses.index) != list(sizes.index) or list(losses.columns) != list(sizes.columns):
        raise EdgelibError("losses and sizes must have the same layers and formats, in the same order")
    if not losses.index.is_unique or not losses.columns.is_unique or (sizes.to_numpy() <= 0).any():
        raise EdgelibError("layers and formats must be named once each, and sizes must be above 0 bytes")


def _joined(table: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """The table summed over layers that must share a format."""
    unknown = [layer for layer in groups if layer not in table.index]
    if unknown:
        choose(dict.fromkeys(table.index), unknown[0], "layer")
    return table.groupby([groups.get(layer, layer) for layer in table.index], sort=False).sum()


def allocate(
    losses: pd.DataFrame, sizes: pd.DataFrame, budget: float, *, groups: Mapping[str, str] | None = None
) -> Allocation:
    """Return the format of every layer that minimises the summed loss within a budget of bytes.

    losses, sizes: layers (rows) by formats (columns), bytes above 0. groups: {layer: name} of layers that must share a
    format, such as q, k and v of one attention.
    Raises EdgelibError for tables that do not match, NaN, a budget that is no number above 0, and a budget below the
    smallest model, naming what is missing.
    """
    _matched(losses, sizes)
    if isinstance(budget, bool) or not isinstance(budget, Real) or not budget > 0:
        raise EdgelibError(f"budget must be a number of bytes above 0, got {budget!r}")
    groups = dict(groups or {})
    cost, size = _joined(losses, groups), _joined(sizes, groups)

    def named(chosen: np.ndarray) -> pd.Series:
        of_group = dict(zip(cost.index, cost.columns[chosen], strict=True))
        given = [of_group[groups.get(layer, layer)] for layer in losses.index]
        return pd.Series(given, index=losses.index, name="format")

    smallest = named(size.to_numpy(float).argmin(axis=1))
    least = total(sizes, smallest)
    if least > budget:
        short = f"the smallest takes {least:,.0f}, {least - budget:,.0f} more"
        raise EdgelibError(f"no choice of formats fits {budget:,.0f} bytes: {short}")
    layers, formats = cost.shape
    one_each = sparse.kron(sparse.eye(layers), np.ones((1, formats)))
    # Losses and bytes are scaled, because the solver's tolerances are absolute.
    flat, shares = cost.to_numpy(float).ravel(), size.to_numpy(float).reshape(1, -1) / float(budget)
    scale = np.abs(flat).max() or 1.0
    limits = [optimize.LinearConstraint(one_each, 1, 1), optimize.LinearConstraint(shares, -np.inf, 1)]
    least_loss = _solved(flat / scale, limits, whole=False).fun * scale
    for _ in range(_TRIES):
        taken = _solved(flat / scale, limits, whole=True).x
        found = named(taken.reshape(layers, formats).argmax(axis=1))
        if total(sizes, found) <= budget:
            break
        # It fits to a tolerance only: all but this one.
        limits.append(optimize.LinearConstraint(taken.round()[None], -np.inf, layers - 1))
    else:
        found = smallest
    return Allocation(
        formats=found,
        loss=total(losses, found),
        least_loss=float(least_loss),
        bytes=total(sizes, found),
        budget=float(budget),
    )


def _solved(cost: np.ndarray, limits: list[optimize.LinearConstraint], *, whole: bool) -> optimize.OptimizeResult:
    found = optimize.milp(
        cost, constraints=limits, bounds=optimize.Bounds(0, 1), integrality=int(whole), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        raise EdgelibError(f"the solver found no allocation: {found.message}")
    return found


def total(table: pd.DataFrame, formats: pd.Series | str) -> float:
    """Return the sum of a table over layers, each in its format, or all in one; no order of layers changes it."""
    if isinstance(formats, str):
        return math.fsum(table[choose({c: c for c in table.columns}, formats, "format")])
    return math.fsum(table.at[layer, formats[layer]] for layer in table.index)
