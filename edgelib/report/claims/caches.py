"""Sentences about caches: what causes a loss, and which cache is shown to lose little enough."""

from __future__ import annotations

from edgelib.report.claims.text import count_text, interval_text, p_text
from edgelib.stats.ladder import Attribution, Recovery
from edgelib.stats.paired import settled


def recovery_claim(recovery: Recovery, name: str, baseline: str, quantity: str = "accuracy") -> str:
    """Say whether a setting is shown to lose less of a quantity than the margin, and how sure it is."""
    test = recovery.test
    numbers = (
        f"difference {100 * test.effect:+.1f} points, {interval_text(test.interval, 1 - 2 * recovery.alpha, 100)} "
        f"points, Holm-adjusted {p_text(recovery.adjusted)}, n = {test.n:,} items"
    )
    shown = "is shown to lose" if recovery.non_inferior else "is not shown to lose"
    return f"{name} {shown} less than {100 * test.margin:g} points of {quantity} against {baseline} ({numbers})"


def attribution_claim(attribution: Attribution, quantity: str = "accuracy") -> str:
    """Say how a loss is shared out to its factors, the largest part first, or that there is no loss to share out."""
    total = attribution.total
    numbers = f"{interval_text(total.interval, total.level, 100)} points, {p_text(total.p)}, {count_text(total)}"
    if not settled(total) or total.effect < 0:
        return f"no loss of {quantity} is shown that could be shared out ({100 * total.effect:.1f} points, {numbers})"
    ordered = sorted(attribution.parts.items(), key=lambda part: -part[1].effect)
    parts = [
        f"{factor} {100 * part.effect:.1f} points ({interval_text(part.interval, part.level, 100)})"
        for factor, part in ordered
    ]
    return f"of {100 * total.effect:.1f} points of {quantity} lost ({numbers}), {', '.join(parts)}"
