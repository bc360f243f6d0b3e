"""Which layers get how many bits: the cheapest loss of a byte budget, by integer programming.

    minimise  sum_l sum_f loss[l, f] x[l, f]   subject to   sum_l sum_f bytes[l, f] x[l, f] <= budget,
              one format per layer, x in {0, 1}

Losses of single layers are added up, which is right to first order; whether the sum holds is for a measurement of the
whole model to show. HAWQ (Dong et al., 2019) and AutoQuantize solve the same problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from scipy import optimize, sparse

from edgelib.errors import EdgelibError, choose


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
    least = float(size.min(axis=1).sum())
    if least > budget:
        short = f"the smallest takes {least:,.0f}, {least - budget:,.0f} more"
        raise EdgelibError(f"no choice of formats fits {budget:,.0f} bytes: {short}")
    layers, formats = cost.shape
    one_each = sparse.kron(sparse.eye(layers), np.ones((1, formats)))
    within = optimize.LinearConstraint(size.to_numpy().reshape(1, -1), -np.inf, budget)
    limits = [optimize.LinearConstraint(one_each, 1, 1), within]
    # Scaled, because the solver's tolerances are absolute.
    flat = cost.to_numpy(float).ravel()
    scale = np.abs(flat).max() or 1.0
    solved = {
        whole: optimize.milp(flat / scale, constraints=limits, bounds=optimize.Bounds(0, 1), integrality=whole)
        for whole in (0, 1)
    }
    if any(result.x is None for result in solved.values()):
        raise EdgelibError(f"the solver found no allocation: {solved[1].message}")
    chosen = solved[1].x.reshape(layers, formats).argmax(axis=1)
    of_group = dict(zip(cost.index, cost.columns[chosen], strict=True))
    named = pd.Series([of_group[groups.get(layer, layer)] for layer in losses.index], index=losses.index, name="format")
    return Allocation(
        formats=named, loss=total(losses, named), least_loss=float(solved[0].fun * scale), bytes=total(sizes, named),
        budget=float(budget),
    )  # fmt: skip


def total(table: pd.DataFrame, formats: pd.Series | str) -> float:
    """Return the sum of a table over layers, each in its format, or all in one."""
    if isinstance(formats, str):
        return float(table[choose({c: c for c in table.columns}, formats, "format")].sum())
    return float(sum(table.at[layer, formats[layer]] for layer in table.index))
