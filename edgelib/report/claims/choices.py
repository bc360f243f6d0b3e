"""Sentences about choices: what to ship within a budget, what is on the frontier, whether a mix of formats pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from edgelib.decide.allocation import Allocation
from edgelib.decide.choice import TierChoice
from edgelib.decide.frontier import Frontier
from edgelib.report.claims.differences import difference_claims
from edgelib.report.claims.text import interval_text, spread_text
from edgelib.stats.family import Family

# Columns of budgets in words: how to print a value of it.
_UNITS = {"bytes": (2**20, "MiB"), "latency_ms": (1, "ms"), "energy_mj": (1, "mJ")}


def amount(column: str, value: float) -> str:
    """A value of a cost column with its unit: "225 MiB", "12.5 ms"."""
    scale, unit = _UNITS.get(column, (1, column))
    shown = value / scale
    return f"{shown:,.0f} {unit}" if abs(shown) >= 100 else f"{shown:.3g} {unit}"


def tier_claim(choice: TierChoice, table: pd.DataFrame, labels: Mapping[str, str], costs: list[str]) -> str:
    """Say what to ship within a tier, or which budget forbids it and by how much.

    table: index config with criteria and costs, and <cost>_low and _high where a cost is projected; labels: config ->
    label; costs: columns to quote.
    """
    where = f"{choice.tier} ({choice.device})"
    refused = (
        f"; {len(choice.illegal)} of {choice.n} do not run there or lack a published rate" if choice.illegal else ""
    )
    if choice.choice is None:
        if choice.binds is None:
            reasons = "; ".join(dict.fromkeys(choice.illegal.values()))
            return f"{where}: none of {choice.n} configurations runs there ({reasons})"
        binds = choice.binds
        only = (
            "alone would have to grow"
            if binds["alone"]
            else "is what the nearest one exceeds most and would have to grow"
        )
        return (
            f"{where}: no legal configuration is within the budgets; that of {binds['column']}, "
            f"{amount(binds['column'], binds['budget'])}, {only} by {amount(binds['column'], binds['short_by'])}, to "
            f"{amount(binds['column'], binds['needed'])}{refused}"
        )
    row = table.loc[choice.choice]
    quoted = ", ".join(_quoted(column, row) for column in costs)
    sure = f", on the frontier with probability {row['probability']:.2f}" if "probability" in table else ""
    evidence = f"{choice.regret:.2f} of the range{sure}; {quoted}"
    within = f"of {choice.n_feasible} within the budgets"
    return f"{where}: {within}, {labels[choice.choice]} has the least regret ({evidence}){refused}"


def _quoted(column: str, row: pd.Series) -> str:
    """A cost with its unit, and with its interval where it is projected."""
    if pd.isna(row.get(f"{column}_low")):
        return amount(column, row[column])
    scale, unit = _UNITS.get(column, (1, column))
    numbers = (row[name] / scale for name in (column, f"{column}_low", f"{column}_high"))
    return f"projected {spread_text(*numbers)} {unit}"


def frontier_claim(frontier: Frontier, labels: Mapping[str, str], costs: Sequence[str]) -> str:
    """Say which configurations are on the frontier for sure, and how large it is.

    costs: columns of the frontier; a configuration that alone has the least of one is on it whatever its accuracy, so
    it is named apart.
    """
    table = frontier.table
    cheapest = {c: table.index[table[c] == table[c].min()] for c in costs}
    given = list(dict.fromkeys(configs[0] for configs in cheapest.values() if len(configs) == 1))
    apart = f", beside {', '.join(labels[c] for c in given)}, which nothing undercuts" if given else ""
    table = table.drop(index=given)
    sure = [labels[c] for c in table.index[table["probability"] >= 0.95]]
    open_ = int(((table["probability"] > 0.05) & (table["probability"] < 0.95)).sum())
    named = ", ".join(sure) if sure else "none"
    runs = f" and {frontier.n_runs} calibration draws" if frontier.n_runs > 1 else ""
    size = interval_text(frontier.hypervolume_interval, frontier.level, 100, 0)
    return (
        f"{len(sure)} of {len(table)} configurations are on the frontier in at least 95 % of resamplings ({named}) and "
        f"{open_} may or may not be{apart}; the frontier dominates {100 * frontier.hypervolume:.0f} % of the box from "
        f"the worst to the best value of every criterion ({size}, n = {frontier.n_items:,} images{runs})"
    )


def allocation_claim(allocation: Allocation, uniform: str, uniform_loss: float, tests: Family) -> str:
    """Say whether a mix of formats beats the uniform scheme of the same bytes, on its own loss and in accuracy.

    tests: by quantity, mixed minus uniform.
    """
    kept = 100 * allocation.loss / uniform_loss if uniform_loss > 0 else 100.0
    parts = difference_claims(tests, uniform, "{quantity}", first="the mix")
    known = [tests[key].effect for key in tests.settled()]
    loses, wins = any(effect < 0 for effect in known), any(effect > 0 for effect in known)
    verdict = "is beaten by" if loses else "beats" if wins else "is not shown to beat"
    n = allocation.formats.nunique()
    mix = f"at no more than {amount('bytes', allocation.budget)} of weights, a mix of {n} formats"
    return f"{mix} {verdict} {uniform} (summed divergence {kept:.0f} % of it): {'; '.join(parts)}"
