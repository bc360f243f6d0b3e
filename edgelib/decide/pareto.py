"""Which configurations are worth a look, and which of them fit a device: dominance, regret and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd

from edgelib.decide.dominance import non_dominated
from edgelib.devices.device import GIB
from edgelib.errors import EdgelibError, choose, did_you_mean


@dataclass(frozen=True)
class Tier:
    """Budgets of a class of devices, {column: most}, with what is known to be wrong with them."""

    budgets: Mapping[str, float]
    platform: str
    note: str


# The tiers of EdgeVLM-Bench, as published; memory is that of the whole device, of which an operating system takes its
# share (of 8 GB on an Orin Nano about 5.2 are usable). Its latencies were taken on a workstation, not on these devices.
TIERS = {
    "embedded": Tier(
        dict(bytes=4 * GIB, latency_ms=150.0),
        "Jetson Nano / Xavier NX",
        "a Xavier NX has 8 or 16 GB; a Jetson Nano has no int8 tensor cores",
    ),
    "mobile": Tier(
        dict(bytes=8 * GIB, latency_ms=80.0),
        "Snapdragon 8 Gen 3",
        "a phone shares its memory with everything else that runs; time it on the phone",
    ),
    "edge-server": Tier(
        dict(bytes=16 * GIB, latency_ms=30.0),
        "Jetson AGX Orin",
        "an AGX Orin has 32 or 64 GB; 16 GB is an Orin NX",
    ),
}


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floats [n]; raises EdgelibError for an unknown column, other values than numbers, and NaN."""
    if not isinstance(frame, pd.DataFrame):
        raise EdgelibError(f"configurations must be a table with one row each, got {type(frame).__name__}")
    times = list(frame.columns).count(column)
    if times != 1:
        names = ", ".join(map(str, frame.columns))
        wrong = "unknown" if times == 0 else "repeated"
        raise EdgelibError(f"{wrong} column {column!r}{did_you_mean(column, frame.columns)}; the table has {names}")
    if len(frame) and not pd.api.types.is_numeric_dtype(frame[column]):
        raise EdgelibError(f"column {column!r} must hold numbers, got {frame[column].iloc[0]!r} in its first row")
    values = frame[column].to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(values).any():
        row = frame.index[np.isnan(values).argmax()]
        raise EdgelibError(f"column {column!r} is missing (NaN) in row '{row}'; measure it or drop the row")
    return values


def _names(columns, what: str) -> list[str]:
    if isinstance(columns, str):
        return [columns]
    try:
        return list(columns)
    except TypeError as error:
        raise EdgelibError(f"{what} must be a column or several, got {columns!r}") from error


def _criteria(frame: pd.DataFrame, maximize, minimize) -> np.ndarray:
    """The criteria as floats [n, d], higher is better."""
    up, down = _names(maximize, "maximize"), _names(minimize, "minimize")
    if not up and not down:
        raise EdgelibError("name at least one criterion, for example maximize=('accuracy',), minimize=('bytes',)")
    repeated = [column for i, column in enumerate(up + down) if column in (up + down)[:i]]
    if repeated:
        raise EdgelibError(f"criterion {repeated[0]!r} is named twice; a column has one direction")
    return np.column_stack([*(_numbers(frame, c) for c in up), *(-_numbers(frame, c) for c in down)])


def pareto_frontier(frame: pd.DataFrame, *, maximize=(), minimize=()) -> pd.DataFrame:
    """Return the rows of `frame` that no other row dominates, in their order and with their index.

    A row dominates another if it is no worse in every criterion and better in one; rows that are equal in all of them
    stay or go together. maximize, minimize: a column or several, numbers without NaN.
    Raises EdgelibError for no criterion, an unknown column, one named twice, values that are no numbers, and NaN.
    """
    return frame[non_dominated(_criteria(frame, maximize, minimize))]


def frontier_regret(frame: pd.DataFrame, *, maximize=(), minimize=()) -> pd.DataFrame:
    """Return `pareto_frontier` with a column regret in [0, 1], lower is better: what a row may turn out to cost.

    A row's loss in a criterion is its distance from the best value, as a share of the range on the frontier; its regret
    is its largest loss. It is the regret for the worst choice of weights if a weighted sum decides: the maximum over
    weights of (best weighted sum - the row's), which a weight of 1 on one criterion attains (Savage, 1951).
    Raises EdgelibError as `pareto_frontier`, and for infinite values.
    """
    front = pareto_frontier(frame, maximize=maximize, minimize=minimize)
    values = _criteria(front, maximize, minimize)
    if not np.isfinite(values).all():
        raise EdgelibError("regret needs finite criteria, but the frontier has infinite values; drop those rows")
    if len(front) == 0:
        return front.assign(regret=pd.Series(dtype=float))
    span = np.ptp(values, axis=0)
    return front.assign(regret=((values.max(axis=0) - values) / np.where(span > 0, span, 1)).max(axis=1))


def _budgets(tier) -> dict[str, float]:
    """{column: most} of a tier's name or of a mapping, checked."""
    if isinstance(tier, str):
        return dict(choose(TIERS, tier.strip().lower().replace(" ", "-").replace("_", "-"), "tier").budgets)
    budgets = tier.budgets if isinstance(tier, Tier) else tier
    if not isinstance(budgets, Mapping) or not budgets:
        raise EdgelibError(
            f"a tier is one of {', '.join(TIERS)} or a dict of budgets such as {{'bytes': 4e9, 'latency_ms': 80}}, "
            f"got {tier!r}"
        )
    for column, most in budgets.items():
        if not isinstance(most, Real) or isinstance(most, bool) or not float(most) > 0:
            raise EdgelibError(f"the budget of {column!r} must be a number above 0, got {most!r}")
    return dict(budgets)


def _over(frame: pd.DataFrame, budgets: Mapping[str, float]) -> np.ndarray:
    """Which row exceeds which budget, [n, budgets]."""
    return np.column_stack([_numbers(frame, column) > most for column, most in budgets.items()])


def feasible(frame: pd.DataFrame, tier) -> pd.DataFrame:
    """Return the rows of `frame` within every budget, in their order and with their index; maybe none (see `binding`).

    tier: a name in TIERS ("embedded", "mobile", "edge-server": columns bytes and latency_ms), or a dict of budgets
    {column: most}, each above 0 and inclusive, in the column's own unit.
    Raises EdgelibError for an unknown tier or column, a budget that is no number above 0, and NaN in a column.
    """
    return frame[~_over(frame, _budgets(tier)).any(axis=1)]


def binding(frame: pd.DataFrame, tier) -> pd.DataFrame:
    """Return one row per budget, which tells whether it binds and by how much:

    - column, budget; lowest: the least any row needs; over: how many rows exceed it;
    - over_alone: how many rows exceed it and no other, which are those that a larger budget would admit;
    - needed: the least budget that admits a row while the others stay, NaN if no row is within the others;
    - short_by: needed - budget, 0 where a row is feasible already, NaN as needed.
    Arguments and errors as `feasible`.
    """
    budgets = _budgets(tier)
    over, table = _over(frame, budgets), []
    for place, (column, most) in enumerate(budgets.items()):
        values, others = _numbers(frame, column), np.delete(over, place, axis=1).any(axis=1)
        needed = values[~others].min() if (~others).any() else np.nan
        table.append(
            dict(
                column=column,
                budget=float(most),
                lowest=values.min() if len(values) else np.nan,
                over=int(over[:, place].sum()),
                over_alone=int((over[:, place] & ~others).sum()),
                needed=needed,
                short_by=np.maximum(needed - most, 0.0),
            )
        )
    return pd.DataFrame(table)
