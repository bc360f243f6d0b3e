"""Words of sentences: p values, intervals, counts and lists; what every kind of claim is made of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from edgelib.stats.gap import Gap
from edgelib.stats.paired import PairedDifference


class Sentence(str):
    """Text that a notebook shows, and other pages quote, without quotation marks."""

    __slots__ = ()
    __repr__ = str.__str__


_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_KEPT = re.compile(r"\\.|(`+)")  # a character behind its backslash, or what may open a code span
_OPENS = re.compile(r"[{\[$]")  # roles, attributes and substitutions (programs, to the book's parser); links; formulas
_BEGINS = re.compile(r"(?=[#>%+~:|=*_(-]|```)|[0-9]+(?=[.)](?: |$))")  # what opens a block where a line begins so


def without_tags(text: str) -> str:
    """Markdown in which what looks like an HTML tag or an autolink is shown as it is written, not obeyed.

    Names of models, devices, classes and data come from outside; nothing that a chapter says has tags of its own.
    """
    return _TAG.sub("&lt;", text)


def as_written(text: str) -> str:
    """One line of Markdown in which names from outside are shown as they are written, not obeyed.

    They are no tags, formulas, links, roles or substitutions and open no block. Code spans, which our own sentences
    have, stay, and so does a character behind a backslash.
    """
    text, parts, at = " ".join(text.split()), [], 0
    if begins := _BEGINS.match(text):
        text = f"{begins[0]}\\{text[begins.end() :]}"
    while kept := _KEPT.search(text, at):
        end = kept.end()
        if kept[1] and (close := re.compile(f"(?<!`){kept[1]}(?!`)").search(text, end)):
            end = close.end()
        parts += [_disarmed(text[at : kept.start()]), text[kept.start() : end]]
        at = end
    return "".join([*parts, _disarmed(text[at:])])


def _disarmed(text: str) -> str:
    return without_tags(_OPENS.sub(r"\\\g<0>", text))


def p_text(p: float) -> str:
    """A p value as text: "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_texts(p: float, adjusted: float | None) -> str:
    """A p value as text, followed by the one adjusted for a family of tests, if there is one."""
    return p_text(p) if adjusted is None else f"{p_text(p)}, Holm-adjusted {p_text(adjusted)}"


def fixed(value: float, digits: int = 1) -> str:
    """A number with so many decimals: "1.2"; what rounds to zero has no sign."""
    return f"{value:z.{digits}f}"


def interval_text(interval: tuple[float, float], level: float, scale: float = 1.0, digits: int = 1) -> str:
    """An interval as text: "95 % interval 1.2 to 3.4"; one end, or no interval, where the other is infinite."""
    low, high = (scale * x for x in interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        known = f"above {fixed(low, digits)}" if math.isfinite(low) else f"below {fixed(high, digits)}"
        none = "no interval: too few images to say"
        return f"{100 * level:g} % interval {known}" if math.isfinite(low) or math.isfinite(high) else none
    return f"{100 * level:g} % interval {fixed(low, digits)} to {fixed(high, digits)}"


def spread_text(value: float, low: float, high: float, digits: int = 3) -> str:
    """A number with its interval, in so many digits and never with an exponent: "150 (16.8 to 1,340)"."""

    def text(x: float) -> str:
        return f"{x:,.0f}" if x >= 10 ** (digits - 1) else f"{x:.{digits}g}"

    return f"{text(value)} ({text(low)} to {text(high)})"


def count_text(test: PairedDifference | Gap) -> str:
    """What a test looked at: "n = 600 images", or "n = 786 items of 80 images" where images share items.

    Of a gap with more clean items: "n = 240 images, and 960 clean".
    """
    items = "" if test.n == test.n_clusters else f"{test.n:,} items of "
    clean = getattr(test, "n_clean", test.n)
    return f"n = {items}{test.n_clusters:,} images{'' if clean == test.n else f', and {clean:,} clean'}"


def points_text(margin: float) -> str:
    """A margin in points: "1 point", "0.5 points"."""
    return f"{100 * margin:g} point{'' if round(100 * margin, 9) == 1 else 's'}"


def names_text(names: Iterable[str], most: int = 3, word: str = "and") -> str:
    """Names as a list in words, at most so many of them: "A, B and C", "A, B, C and 2 others".

    Names that hold commas themselves are kept apart by semicolons: "A, fast; B; and C". word: "and", or "or" where one
    of them is meant.
    """
    names = list(names)
    last = [f"{len(names) - most} others"] if len(names) > most + 1 else names[-1:]
    first = names[: most if len(names) > most + 1 else -1]
    if not any("," in name for name in names):
        return f" {word} ".join(filter(None, [", ".join(first), *last]))
    return f"; {word} ".join(filter(None, ["; ".join(first), *last]))


def one_of(names: Iterable[str], most: int = 3) -> str:
    """Names of which one is to be taken: "A", or "one of A, B or C"."""
    names = list(names)
    return names[0] if len(names) == 1 else f"one of {names_text(names, most, 'or')}"


def bullets(claims: Iterable[str]) -> str:
    """Claims as a Markdown list of sentences, each as it is written: a name in it is no markup."""
    return "\n".join(f"- {as_written(f'{claim[:1].upper()}{claim[1:]}.')}" for claim in map(str.strip, claims))
