"""Sentences made from test objects: the only way the book says that one thing is better than another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgelib.measure.gap import Gap
from edgelib.measure.statistics import PairedDifference, holm


class Sentence(str):
    """Text that a notebook shows, and other pages quote, without quotation marks."""

    __slots__ = ()
    __repr__ = str.__str__


def p_text(p: float) -> str:
    """A p value as text: "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_text(interval: tuple[float, float], level: float, scale: float = 1.0, digits: int = 1) -> str:
    """An interval as text: "95 % interval 1.2 to 3.4"."""
    low, high = (scale * x + 0.0 for x in interval)
    return f"{100 * level:g} % interval {low:.{digits}f} to {high:.{digits}f}"


def difference_claim(
    difference: PairedDifference, first: str, second: str, quantity: str = "accuracy", adjusted: float | None = None
) -> str:
    """Say whether `first` has more or less of a quantity (a fraction) than `second`, in points, and how sure it is.

    adjusted: the p value corrected for a family of tests (Holm), which then decides with the interval.
    """
    interval = interval_text(difference.interval, difference.level, 100)
    support = f"{interval} points, {_p_texts(difference.p, adjusted)}, n = {difference.n:,}"
    if settled(difference, adjusted):
        more = "more" if difference.effect > 0 else "less"
        return f"{first} has {abs(100 * difference.effect):.1f} points {more} {quantity} than {second} ({support})"
    power = f"a difference of {100 * difference.mde:.1f} points would have been found four times in five"
    return (
        f"the {quantity} of {first} and {second} cannot be told apart "
        f"(difference {100 * difference.effect:+.1f} points, {support}; {power})"
    )


def settled(test: PairedDifference | Gap, adjusted: float | None = None) -> bool:
    """Whether the sign of an effect is known: its interval excludes zero, and so does the (adjusted) p value."""
    low, high = test.interval
    return (low > 0 or high < 0) and (test.p if adjusted is None else adjusted) < 1 - test.level


def _p_texts(p: float, adjusted: float | None) -> str:
    return p_text(p) if adjusted is None else f"{p_text(p)}, Holm-adjusted {p_text(adjusted)}"


def bullets(claims: Iterable[str]) -> str:
    """Claims as a Markdown list of sentences."""
    return "\n".join(f"- {claim[0].upper()}{claim[1:]}." for claim in claims)


def gap_claim(gap: Gap, name: str, adjusted: float | None = None) -> str:
    """Say what a configuration does to the robustness gap, on the log-odds scale, and how sure it is."""
    if not math.isfinite(gap.effect):
        return f"the gap of {name} cannot be estimated: it is at the level of guessing (n = {gap.n:,} images)"
    interval = interval_text(gap.interval, gap.level, digits=2)
    numbers = f"{gap.effect:+.2f} log odds, {interval}, {_p_texts(gap.p, adjusted)}, n = {gap.n:,} images"
    if not settled(gap, adjusted):
        known = math.isfinite(gap.mde)
        power = f"; a gap of {gap.mde:.2f} would have been found four times in five" if known else ""
        return f"for {name} the sign of the gap stays open ({numbers}{power})"
    verdict, effect = ("widens", "more") if gap.effect > 0 else ("narrows", "less")
    return f"{name} {verdict} the robustness gap: corruption costs it {effect} than it costs the reference ({numbers})"


def gap_summary(gaps: Mapping[str, Gap]) -> str:
    """Count the verdicts on several configurations, Holm-corrected over them, and name the largest gap.

    gaps: label of each configuration -> its gap.
    """
    estimated = {name: gap for name, gap in gaps.items() if math.isfinite(gap.effect)}
    if not estimated:
        return "no gap can be estimated: every configuration is at the level of guessing"
    adjusted = holm([gap.p for gap in gaps.values()])
    known = [gap.effect for gap, p in zip(gaps.values(), adjusted, strict=True) if settled(gap, p)]
    widen, narrow = sum(effect > 0 for effect in known), sum(effect < 0 for effect in known)
    largest = max(estimated, key=lambda name: abs(estimated[name].effect))
    test = estimated[largest]
    return (
        f"{widen} of {len(gaps)} configurations {'widens' if widen == 1 else 'widen'} the robustness gap and {narrow} "
        f"{'narrows' if narrow == 1 else 'narrow'} it (Holm-corrected); the largest gap is that of {largest}, "
        f"{test.effect:+.2f} log odds ({interval_text(test.interval, test.level, digits=2)}, n = {test.n:,} images)"
    )
