"""One configuration for a device and its budgets: what is legal, what fits, and the least regret among the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from edgelib.decide.pareto import Tier, binding, feasible, frontier_regret
from edgelib.errors import EdgelibError


@dataclass(frozen=True)
class TierChoice:
    """What to ship within a tier's budgets, or why nothing can be.

    choice: the feasible configuration of least regret, None if there is none; regret: its largest loss against the best
    feasible value of a criterion, as a share of the range on the feasible frontier. others: feasible ones on the
    frontier. illegal: {config: reason}. binds: {column, budget, needed, short_by} of the budget to raise, if any.
    """

    tier: str
    device: str
    choice: str | None
    regret: float
    others: tuple[str, ...]
    n: int
    n_feasible: int
    illegal: Mapping[str, str]
    binds: Mapping[str, Any] | None


def choose_for_tier(
    table: pd.DataFrame,
    tier: str | Tier | Mapping,
    device: str,
    *,
    maximize,
    minimize,
    illegal: Mapping[str, str] | None = None,
    name: str | None = None,
) -> TierChoice:
    """Return the configuration to ship within a tier, among those that are legal on its device.

    table: index config, the criteria and the columns of the budgets as numbers. illegal: {config: why it does not run}.
    Where nothing is feasible, binds names the one budget that has to grow the least, relative to itself, to admit a
    legal configuration, or, if no single one suffices, the one that the nearest configuration exceeds by most: nearest
    is whose largest excess is the least.
    Raises EdgelibError as `feasible` and `frontier_regret`, and for an empty table.
    """
    if len(table) == 0:
        raise EdgelibError("there is no configuration to choose from; evaluate at least one")
    illegal = dict(illegal or {})
    unknown = [config for config in illegal if config not in table.index]
    if unknown:
        raise EdgelibError(f"illegal names {unknown[0]!r}, which the table lacks; it has {', '.join(table.index)}")
    legal = table[~table.index.isin(list(illegal))]
    within = feasible(legal, tier)
    shown = name or (tier if isinstance(tier, str) else "tier")
    common: dict[str, Any] = dict(tier=shown, device=device, n=len(table), n_feasible=len(within), illegal=illegal)
    if len(within) == 0:
        return TierChoice(choice=None, regret=np.nan, others=(), binds=_binds(legal, tier), **common)
    front = frontier_regret(within, maximize=maximize, minimize=minimize)
    cheap = [minimize] if isinstance(minimize, str) else list(minimize)
    front = front.sort_values(["regret", *cheap], kind="stable")  # of equals the one that costs less
    others = tuple(map(str, front.index[1:]))
    regret = float(front["regret"].iloc[0])
    return TierChoice(choice=str(front.index[0]), regret=regret, others=others, binds=None, **common)


def _binds(legal: pd.DataFrame, tier) -> dict | None:
    if len(legal) == 0:
        return None
    bound = binding(legal, tier)
    single = bound[bound["needed"].notna() & (bound["short_by"] > 0)]
    if len(single):
        row = single.loc[(single["needed"] / single["budget"]).idxmin()]
        needed = row["needed"]
    else:
        shares = legal[list(bound["column"])].to_numpy(float) / bound["budget"].to_numpy()
        nearest = shares.max(axis=1).argmin()
        row = bound.loc[shares[nearest].argmax()]
        needed = legal[row["column"]].iloc[nearest]
    return dict(
        column=str(row["column"]),
        budget=float(row["budget"]),
        needed=float(needed),
        short_by=float(needed - row["budget"]),
        alone=bool(len(single)),
    )
