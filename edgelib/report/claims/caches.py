"""Sentences about caches: what causes a loss, and which cache is shown to lose little enough."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.report.claims.text import count_text, interval_text, p_text, points_text
from edgelib.stats.ladder import Attribution, Recovery
from edgelib.stats.paired import settled


def recovery_claim(recovery: Recovery, name: str, baseline: str, quantity: str = "accuracy") -> str:
    """Say whether a setting is shown to lose less of a quantity than the margin, and how sure it is."""
    test = recovery.test
    numbers = (
        f"difference {100 * test.effect:+z.1f} points, {interval_text(test.interval, 1 - 2 * recovery.alpha, 100)} "
        f"points, Holm-adjusted {p_text(recovery.adjusted)}, n = {test.n:,} items"
    )
    shown = "is shown to lose" if recovery.non_inferior else "is not shown to lose"
    return f"{name} {shown} less than {points_text(test.margin)} of {quantity} against {baseline} ({numbers})"


def lost(attribution: Attribution) -> bool:
    """Whether anything is shown to be lost that could be shared out."""
    return settled(attribution.total) and attribution.total.effect > 0


def attribution_claim(attribution: Attribution, quantity: str = "accuracy") -> str:
    """Say how a loss is shared out to its factors, the largest part first, or that there is no loss to share out."""
    total = attribution.total
    numbers = f"{interval_text(total.interval, total.level, 100)} points, {p_text(total.p)}, {count_text(total)}"
    if not lost(attribution):
        finds = f"one such test finds {100 * total.mde:.1f} points four times in five"
        shown = f"no loss of {quantity} is shown that could be shared out"
        return f"{shown} ({100 * total.effect:.1f} points, {numbers}; {finds})"
    ordered = sorted(attribution.parts.items(), key=lambda part: -part[1].effect)
    parts = [
        f"{factor} {100 * part.effect:.1f} points ({interval_text(part.interval, part.level, 100)})"
        for factor, part in ordered
    ]
    return f"of {100 * total.effect:.1f} points of {quantity} lost ({numbers}), {', '.join(parts)}"


def largest_loss_claim(attributions: Mapping[tuple[str, str], Attribution]) -> str:
    """Say which (twin, experiment) loses most and how that is shared out, or that none is shown to lose anything."""
    key = max(attributions, key=lambda key: attributions[key].total.effect)
    if not lost(attributions[key]):
        largest = max(attribution.total.mde for attribution in attributions.values())
        return (
            f"none of the {len(attributions)} experiments of the ladder is shown to lose anything; each of these tests "
            f"finds {100 * largest:.1f} points four times in five"
        )
    return (
        f"the largest loss of the ladder is on {key[0]}, in the experiment on {key[1]}: "
        f"{attribution_claim(attributions[key])}"
    )


def fault_claim(attributions: Mapping[tuple[str, str], Attribution]) -> str:
    """Say what the planted fault costs where it costs most: scales that are lost between writing and reading."""
    key = max(attributions, key=lambda key: attributions[key].total.effect)
    return (
        f"a fault planted on purpose, scales that are lost between writing and reading, costs most on {key[0]}: "
        f"{attribution_claim(attributions[key])}"
    )


def cheapest_claim(
    recovered: Mapping[tuple[str, str], Recovery], bytes_of: pd.Series, exact: str, labels: Mapping[str, str]
) -> str:
    """Say which caches that are shown to be non-inferior on every twin take the fewest bytes, or that none is shown.

    bytes_of: bytes per token by cache, with the exact one. labels: cache -> what to call it.
    """
    failed = {cache for (_, cache), recovery in recovered.items() if not recovery.non_inferior}
    mended = [cache for cache in labels if cache not in failed]
    if not mended:
        return "no cache of the list is shown to be non-inferior on the plain model and on every twin"
    least = bytes_of[mended].min()
    cheapest = "; ".join(labels[cache] for cache in mended if bytes_of[cache] == least)
    return (
        f"of caches shown to be non-inferior on the plain model and on every twin, {least:,.0f} of "
        f"{bytes_of[exact]:,.0f} bytes per token (predicted) is the least: {cheapest}"
    )
