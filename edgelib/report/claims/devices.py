"""Sentences about speed, devices and choices, made from the objects that carry the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from edgelib.decide.allocation import Allocation
from edgelib.decide.choice import TierChoice
from edgelib.decide.frontier import Frontier
from edgelib.devices.projection import Projection, Validation
from edgelib.report.claims.base import difference_claim, interval_text, settled
from edgelib.stats.paired import PairedDifference, holm

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
    """Say how far projections are from published measurements of devices that they have not seen, step by step."""
    words = {"decode": "tokens", "prefill": "prompts", "encode": "images"}
    parts = [
        f"of {words[row.step]} by {100 * row.error:.0f} % on average ({row.n} points of {row.devices} "
        f"{'device' if row.devices == 1 else 'devices'}, {100 * row.coverage:.0f} % inside)"
        for row in validation.by_step.itertuples()
        if row.step in words
    ]
    return (
        f"projections with {100 * validation.level:g} % intervals onto devices that they have not seen miss published "
        f"times {', '.join(parts)}"
    )


def speed_ratio_claim(row: pd.Series, low: float, high: float, device: str) -> str:
    """Say what speed-up of narrow weights was measured and projected for one model on one device."""
    inside = "inside" if low <= row.measured <= high else "outside"
    both = f"measured {row.measured:.2f}x, projected {row.projected:.2f}x"
    return f"{row.model}, {row.weight} weights, {device}: {both} ({inside} the interval {low:.2f} to {high:.2f})"


def projection_text(projection: Projection, digits: int = 3) -> str:
    """A projected time with its interval: "12.5 (8.1 to 19.2)"."""
    return spread_text(projection.ms, *projection.interval, digits)


def spread_text(value: float, low: float, high: float, digits: int = 3) -> str:
    """A number with its interval, in so many digits and never with an exponent: "150 (16.8 to 1,340)"."""

    def text(x: float) -> str:
        return f"{x:,.0f}" if x >= 10 ** (digits - 1) else f"{x:.{digits}g}"

    return f"{text(value)} ({text(low)} to {text(high)})"


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
    given = list(dict.fromkeys(found[0] for found in cheapest.values() if len(found) == 1))
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


def allocation_claim(
    found: Allocation, uniform: str, uniform_loss: float, tests: Mapping[str, PairedDifference]
) -> str:
    """Say whether a mix of formats beats the uniform scheme of the same bytes, on its own loss and in accuracy.

    tests: {quantity: mixed minus uniform}, Holm-corrected over them.
    """
    kept = 100 * found.loss / uniform_loss if uniform_loss > 0 else 100.0
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    parts = [difference_claim(test, "the mix", uniform, name, adjusted[name]) for name, test in tests.items()]
    known = [test.effect for name, test in tests.items() if settled(test, adjusted[name])]
    loses, wins = any(effect < 0 for effect in known), any(effect > 0 for effect in known)
    verdict = "is beaten by" if loses else "beats" if wins else "is not shown to beat"
    mix = f"at no more than {amount('bytes', found.budget)} of weights, a mix of {found.formats.nunique()} formats"
    return f"{mix} {verdict} {uniform} (summed divergence {kept:.0f} % of it): {'; '.join(parts)}"
