"""Sentences made from test objects: the only way the book says that one thing is better than another."""

from __future__ import annotations

from edgelib.measure.gap import Gap
from edgelib.measure.statistics import PairedDifference


def p_text(p: float) -> str:
    """A p value as text: "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_text(interval: tuple[float, float], level: float, scale: float = 1.0, digits: int = 1) -> str:
    """An interval as text: "95 % interval 1.2 to 3.4"."""
    low, high = (scale * x + 0.0 for x in interval)
    return f"{100 * level:g} % interval {low:.{digits}f} to {high:.{digits}f}"


def difference_claim(difference: PairedDifference, first: str, second: str, quantity: str = "accuracy") -> str:
    """Say whether `first` has more or less of a quantity (a fraction) than `second`, in points, and how sure it is."""
    low, high = difference.interval
    size = f"{abs(100 * difference.effect):.1f} points"
    if low > 0 or high < 0:
        verdict = f"{first} has {size} {'more' if difference.effect > 0 else 'less'} {quantity} than {second}"
        tail = ""
    else:
        size = f"{100 * difference.effect:+.1f} points"
        verdict = f"the {quantity} of {first} and {second} cannot be told apart (difference {size})"
        tail = f"; a difference of {100 * difference.mde:.1f} points would have been found four times in five"
    return (
        f"{verdict} ({interval_text(difference.interval, difference.level, 100)} points, {p_text(difference.p)}, "
        f"n = {difference.n:,}{tail})"
    )


def gap_verdict(gap: Gap) -> str:
    """One word for the sign of a robustness gap: "widens", "narrows", or "leaves open" when the interval holds zero."""
    low, high = gap.interval
    return "widens" if low > 0 else "narrows" if high < 0 else "leaves open"


def gap_claim(gap: Gap, name: str) -> str:
    """Say what a configuration does to the robustness gap, on the log-odds scale, with all that backs it."""
    interval = interval_text(gap.interval, gap.level, digits=2)
    numbers = f"{gap.effect:+.2f} log odds, {interval}, {p_text(gap.p)}, n = {gap.n:,} images"
    verdict = gap_verdict(gap)
    if verdict == "leaves open":
        power = f"a gap of {gap.mde:.2f} would have been found four times in five"
        return f"for {name} the sign of the gap stays open ({numbers}; {power})"
    effect = "more" if verdict == "widens" else "less"
    return f"{name} {verdict} the robustness gap: corruption costs it {effect} than it costs the reference ({numbers})"
