"""Sentences made from test objects: the only way the book says that one thing is better than another."""

from __future__ import annotations

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


def difference_claim(difference: PairedDifference, first: str, second: str, quantity: str = "accuracy") -> str:
    """Say whether `first` has more or less of a quantity (a fraction) than `second`, in points, and how sure it is."""
    low, high = difference.interval
    interval = interval_text(difference.interval, difference.level, 100)
    support = f"{interval} points, {p_text(difference.p)}, n = {difference.n:,}"
    if low > 0 or high < 0:
        more = "more" if difference.effect > 0 else "less"
        return f"{first} has {abs(100 * difference.effect):.1f} points {more} {quantity} than {second} ({support})"
    power = f"a difference of {100 * difference.mde:.1f} points would have been found four times in five"
    return (
        f"the {quantity} of {first} and {second} cannot be told apart "
        f"(difference {100 * difference.effect:+.1f} points, {support}; {power})"
    )


def bullets(claims: Iterable[str], adjusted: Iterable[float]) -> str:
    """Claims as a Markdown list of sentences, each with its p value adjusted for the family (Holm)."""
    lines = [f"- {c[0].upper()}{c[1:]}; Holm-adjusted {p_text(p)}." for c, p in zip(claims, adjusted, strict=True)]
    return "\n".join(lines)


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


def gap_summary(gaps: Mapping[str, Gap]) -> str:
    """Count the verdicts on several configurations, Holm-corrected over them, and name the largest gap.

    gaps: label of each configuration -> its gap.
    """
    if not gaps:
        return "there is no configuration besides the reference"
    adjusted = holm([gap.p for gap in gaps.values()])
    verdicts = [
        gap_verdict(gap) if p < 1 - gap.level else "leaves open" for gap, p in zip(gaps.values(), adjusted, strict=True)
    ]
    widen, narrow = verdicts.count("widens"), verdicts.count("narrows")
    counted = f"{widen} of {len(gaps)} configurations {'widens' if widen == 1 else 'widen'} the robustness gap"
    counted += f" and {narrow} {'narrows' if narrow == 1 else 'narrow'} it"
    largest = max(gaps, key=lambda name: abs(gaps[name].effect))
    test = gaps[largest]
    interval = interval_text(test.interval, test.level, digits=2)
    return (
        f"{counted} (Holm-corrected); the largest gap is that of {largest}, {test.effect:+.2f} log odds "
        f"({interval}, n = {test.n:,} images)"
    )
