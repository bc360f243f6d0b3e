"""Sentences about speed, devices and choices, made from the objects that carry the evidence."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.measure.allocation import Allocation
from edgelib.measure.choice import TierChoice
from edgelib.measure.frontier import Frontier
from edgelib.measure.projection import Projection, Validation
from edgelib.measure.statistics import PairedDifference
from edgelib.report.claims import difference_claim, interval_text, settled

# Columns of budgets in words: how to print a value of it.
_UNITS = {"bytes": (2**20, "MiB"), "latency_ms": (1, "ms"), "energy_mj": (1, "mJ")}


def amount(column: str, value: float) -> str:
    """A value of a cost column with its unit: "225 MiB", "12.5 ms"."""
    scale, unit = _UNITS.get(column, (1, column))
    shown = value / scale
    return f"{shown:,.0f} {unit}" if abs(shown) >= 100 else f"{shown:.3g} {unit}"


def speedup_claim(row: pd.Series, name: str, baseline: str, machine: str) -> str:
    """Say how many times as fast as a baseline something was measured to be, or that quartiles leave it open.

    row: one row of `speedup_table`.
    """
    spread = f"{row.low:.2f} to {row.high:.2f} by opposite quartiles" if pd.notna(row.low) else "no quartiles"
    if pd.notna(row.low) and row.low <= 1 <= row.high:
        return (
            f"on {machine}, {name} and {baseline} cannot be told apart in speed (measured {row.speedup:.2f}x, {spread})"
        )
    verdict = f"{row.speedup:.2f} times as fast as" if row.speedup >= 1 else f"{1 / row.speedup:.2f} times slower than"
    return f"on {machine}, {name} is measured to be {verdict} {baseline} ({spread})"


def validation_claim(validation: Validation) -> str:
    """Say how far projections are from published measurements of devices that they have not seen."""
    rows = validation.by_step.set_index("step")
    whole = rows.loc["all"]
    decode = f", {100 * rows.loc['decode', 'error']:.0f} % for tokens" if "decode" in rows.index else ""
    return (
        f"projections onto devices that they have not seen miss {whole.n:.0f} published measurements by "
        f"{100 * whole.error:.0f} % on average{decode} (median {100 * whole.median_error:.0f} %, {whole.devices:.0f} "
        f"devices); {100 * whole.coverage:.0f} % lie inside their {100 * validation.level:g} % interval"
    )


def speed_ratio_claim(row: pd.Series, low: float, high: float, device: str) -> str:
    """Say what speed-up of narrow weights was measured and projected for one model on one device."""
    inside = "inside" if low <= row.measured <= high else "outside"
    both = f"measured {row.measured:.2f}x, projected {row.projected:.2f}x"
    return f"{row.model}, {row.weight} weights, {device}: {both} ({inside} the interval {low:.2f} to {high:.2f})"


def projection_text(projection: Projection, digits: int = 3) -> str:
    """A projected time with its interval: "12.5 (8.1 to 19.2)"."""

    def text(ms: float) -> str:
        return f"{ms:,.0f}" if ms >= 10 ** (digits - 1) else f"{ms:.{digits}g}"

    low, high = projection.interval
    return f"{text(projection.ms)} ({text(low)} to {text(high)})"


def tier_claim(choice: TierChoice, table: pd.DataFrame, labels: Mapping[str, str], costs: list[str]) -> str:
    """Say what to ship within a tier, or which budget forbids it and by how much.

    table: index config with criteria and costs; labels: config -> label; costs: columns to quote.
    """
    where = f"{choice.tier} ({choice.device})"
    refused = f"; {len(choice.illegal)} of {choice.n} do not run there" if choice.illegal else ""
    if choice.choice is None:
        if choice.binds is None:
            reasons = "; ".join(dict.fromkeys(choice.illegal.values()))
            return f"{where}: none of {choice.n} configurations runs there ({reasons})"
        binds = choice.binds
        only = "alone would have to grow" if binds["alone"] else "is exceeded by most and would have to grow"
        return (
            f"{where}: no legal configuration is within the budgets; that of {binds['column']}, "
            f"{amount(binds['column'], binds['budget'])}, {only} by {amount(binds['column'], binds['short_by'])}, to "
            f"{amount(binds['column'], binds['needed'])}{refused}"
        )
    row = table.loc[choice.choice]
    quoted = ", ".join(amount(column, row[column]) for column in costs)
    sure = f", on the frontier with probability {row['probability']:.2f}" if "probability" in table else ""
    evidence = f"{choice.regret:.2f} of the range{sure}; {quoted}"
    within = f"of {choice.n_feasible} within the budgets"
    return f"{where}: {within}, {labels[choice.choice]} has the least regret ({evidence}){refused}"


def frontier_claim(frontier: Frontier, labels: Mapping[str, str]) -> str:
    """Say which configurations are on the frontier for sure, and how large it is."""
    table = frontier.table
    sure = [labels[c] for c in table.index[table["probability"] >= 0.95]]
    open_ = int(((table["probability"] > 0.05) & (table["probability"] < 0.95)).sum())
    named = ", ".join(sure) if sure else "none"
    runs = f" and {frontier.n_runs} calibration draws" if frontier.n_runs > 1 else ""
    size = interval_text(frontier.hypervolume_interval, frontier.level, 100, 0)
    return (
        f"{len(sure)} of {len(table)} configurations are on the frontier in at least 95 % of resamplings ({named}) and "
        f"{open_} may or may not be; the frontier dominates {100 * frontier.hypervolume:.0f} % of the box ({size}, "
        f"n = {frontier.n_items:,} images{runs})"
    )


def allocation_claim(
    found: Allocation, uniform: str, uniform_loss: float, tests: Mapping[str, PairedDifference]
) -> str:
    """Say whether a mix of formats beats the uniform scheme of the same bytes, on its own loss and in accuracy.

    tests: {quantity: mixed minus uniform}.
    """
    kept = 100 * found.loss / uniform_loss if uniform_loss > 0 else 100.0
    parts = [difference_claim(test, "the mix", uniform, quantity) for quantity, test in tests.items()]
    wins = any(settled(test) and test.effect > 0 for test in tests.values())
    loses = any(settled(test) and test.effect < 0 for test in tests.values())
    verdict = "is beaten by" if loses else "beats" if wins else "is not shown to beat"
    mix = f"at no more than {amount('bytes', found.budget)} of weights, a mix of {found.formats.nunique()} formats"
    return f"{mix} {verdict} {uniform} (summed divergence {kept:.0f} % of it): {'; '.join(parts)}"
