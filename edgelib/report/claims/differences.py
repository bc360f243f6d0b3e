"""Sentences about paired differences: the only way the book says that one thing has more of something than another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgelib.report.claims.text import count_text, interval_text, p_texts
from edgelib.report.figures.palette import label
from edgelib.stats.family import Family, Key
from edgelib.stats.paired import PairedDifference, settled


def difference_claim(
    difference: PairedDifference, first: str, second: str, quantity: str = "accuracy", adjusted: float | None = None
) -> str:
    """Say whether `first` has more or less of a quantity (a fraction) than `second`, in points, and how sure it is.

    adjusted: the p value corrected for a family of tests (Holm), which then decides with the interval.
    """
    interval = interval_text(difference.interval, difference.level, 100)
    support = f"{interval} points, {p_texts(difference.p, adjusted)}, {count_text(difference)}"
    if settled(difference, adjusted):
        more = "more" if difference.effect > 0 else "less"
        return f"{first} has {abs(100 * difference.effect):.1f} points {more} {quantity} than {second} ({support})"
    power = f"one such test finds a difference of {100 * difference.mde:.1f} points four times in five"
    among = " once all tests are counted" if settled(difference) else ""
    return (
        f"the {quantity} of {first} and {second} cannot be told apart{among} "
        f"(difference {100 * difference.effect:+z.1f} points, {support}; {power})"
    )


def difference_claims(
    family: Family,
    second: str,
    quantity: str = "accuracy",
    *,
    first: str = "{config}",
    where: str = "",
    keys: Iterable[Key] | None = None,
    words: Mapping[str, str] | None = None,
) -> list[str]:
    """Say a sentence per test of a family, all of them or those of `keys`, with p values adjusted over the family.

    first, second, quantity, where: templates that may name parts of the key, such as "on {twin}, "; configurations
    appear with their labels, other parts as `words` has them or as they are. Raises EdgelibError for an unknown key.
    """
    claims = []
    for key in family if keys is None else keys:
        test = family[key]
        parts = dict(zip(family.names, key if isinstance(key, tuple) else (key,), strict=True))
        said = {name: (words or {}).get(part) or label(part) for name, part in parts.items()}
        sides = first.format(**said), second.format(**said), quantity.format(**said)
        claims.append(where.format(**said) + difference_claim(test, *sides, family.adjusted[key]))
    return claims


def difference_summary(family: Family, alike: Iterable[Key] | None = None) -> str:
    """Count the verdicts on several differences to one reference and name the clearest; keys: what is compared.

    alike: keys whose points are hundredths of a score, all by default; where no loss is found, the largest loss that
    their intervals leave possible is said.
    """
    known = [family[key].effect for key in family.settled()]
    lose, gain = sum(effect < 0 for effect in known), sum(effect > 0 for effect in known)
    # in standard errors, because benchmarks count in different points
    clearest = max(family, key=lambda key: abs(family[key].effect) / max(family[key].mde, 1e-12))
    test = family[clearest]
    if not any(test.effect for test in family.tests.values()):
        return f"none of {len(family)} comparisons with the reference differs at all: {count_text(test)} say the same"
    finds = f", one such test finds {100 * test.mde:.1f} points four times in five" if not known else ""
    ends = [-100 * family[key].interval[0] for key in (family if alike is None else alike)]
    within = f"; no interval reaches a loss of more than {max(0.0, *ends):.1f} points" if ends and not lose else ""
    return (
        f"{lose} of {len(family)} comparisons with the reference show a loss and {gain} a gain (Holm-corrected); "
        f"the clearest difference, against its standard error, is that of {clearest}, {100 * test.effect:+z.1f} points "
        f"({interval_text(test.interval, test.level, 100)}, {count_text(test)}{finds}){within}"
    )
