"""Sentences about the robustness gap: whether corruption costs a quantized model more than it costs the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgelib.report.claims.text import count_text, interval_text
from edgelib.report.figures.palette import label
from edgelib.stats.family import Family
from edgelib.stats.gap import AT_FLOOR, Gap
from edgelib.stats.paired import holm, minimum_detectable_effect


def twin_name(config: str) -> str:
    """What a sentence calls a config on a twin: "weight:8|w4a8-minmax" -> "W4A8 min-max on weight:8"."""
    twin, _, name = config.partition("|")
    return f"{label(name)} on {twin}"


def gap_summary(family: Family) -> str:
    """Count the verdicts on several gaps and name the one farthest from zero; keys: labels of the configurations."""
    estimated = [name for name in family if _known(family[name])]
    if not estimated:
        return f"no gap can be estimated ({_reasons(family)})"
    known = [family[name].effect for name in family.settled()]
    widen, narrow = sum(effect > 0 for effect in known), sum(effect < 0 for effect in known)
    largest = max(estimated, key=lambda name: abs(family[name].effect))
    test = family[largest]
    of, left = f"of {len(estimated)} configurations", len(family) - len(estimated)
    rest = f"; of {left} more the gap cannot be estimated ({_reasons(family)})" if left else ""
    if abs(test.effect) < 0.005:
        return f"none {of} widens or narrows the robustness gap: every one is 0.00 log odds{rest}"
    verbs = "widens" if widen == 1 else "widen", "narrows" if narrow == 1 else "narrow"
    finds = f"; one such test finds a gap of {test.mde:.2f} log odds four times in five"
    finds = finds if not known and math.isfinite(test.mde) else ""
    ends = [family[name].interval for name in estimated]
    within = "" if known else _farthest(*zip(*ends, strict=True))
    return (
        f"{widen} {of} {verbs[0]} the robustness gap and {narrow} "
        f"{verbs[1]} it (Holm-corrected); the gap farthest from zero is that of "
        f"{largest}, {test.effect:+.2f} log odds ({interval_text(test.interval, test.level, digits=2)}, "
        f"{count_text(test)}{finds}){within}{rest}"
    )


def _known(gap: Gap) -> bool:
    return math.isfinite(gap.effect) and not gap.unknown


def _reasons(family: Family) -> str:
    """Why some gaps of a family are not estimated, each reason once."""
    why = [family[name].unknown or AT_FLOOR for name in family if not _known(family[name])]
    return "; ".join(dict.fromkeys(why))


def _farthest(lows: Iterable[float], highs: Iterable[float]) -> str:
    """How far intervals reach, which is the margin of an equivalence that they show; "" where one has no end."""
    most = max((max(abs(low), abs(high)) for low, high in zip(lows, highs, strict=True)), default=math.inf)
    return f"; no interval reaches beyond {most:.2f}" if math.isfinite(most) else ""


def matched_claim(family: Family) -> str:
    """Say how many gaps remain (Holm-corrected) against a reference that guesses until its clean accuracy is equal."""
    gaps = list(family.tests.values())
    matched = [gap.scales.loc["matched logit"] for gap in gaps]
    ends = [(row.low, row.high) for row in matched if math.isfinite(row.effect) and not row.get("unknown", "")]
    estimated = len(ends)
    if not estimated:
        return "no gap to a reference of the same clean accuracy can be estimated"
    adjusted = holm([row.p for row in matched])
    known = [
        row.effect
        for row, gap, p in zip(matched, gaps, adjusted, strict=True)
        if (row.low > 0 or row.high < 0) and p < 1 - gap.level
    ]
    wide = [minimum_detectable_effect(row.se, gap.level) for row, gap in zip(matched, gaps, strict=True) if row.se > 0]
    finds = f"; each of these tests finds {max(wide):.2f} log odds four times in five" if wide and not known else ""
    finds += "" if known else _farthest(*zip(*ends, strict=True))
    more, less = sum(effect > 0 for effect in known), sum(effect < 0 for effect in known)
    return (
        "against a reference that is calculated to guess until its clean accuracy is the same, corruption costs "
        f"{more} of {estimated} configurations more and {less} less (Holm-corrected){finds}"
    )
