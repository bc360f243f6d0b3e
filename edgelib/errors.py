"""Errors that name the wrong value, the allowed ones and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class EdgelibError(ValueError):
    """A mistake in what was asked for; its text is one paragraph that says how to mend it."""


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest allowed name, or an empty string."""
    by_folded = {str(a).lower(): str(a) for a in allowed}
    close = difflib.get_close_matches(str(name).lower(), by_folded, n=1, cutoff=0.6)
    return f" (did you mean {by_folded[close[0]]!r}?)" if close else ""


def choose(table, name, kind: str):
    """Return table[name].

    Raises EdgelibError naming the wrong `kind`, the closest match and every allowed name.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    allowed = sorted(map(str, table))
    raise EdgelibError(f"unknown {kind} {name!r}{did_you_mean(name, allowed)}; choose from {', '.join(allowed)}")


@contextmanager
def about(what: Callable[..., str], *which: object) -> Iterator[None]:
    """Put what(*which) before the text of an EdgelibError that leaves the block: which of many things it is about."""
    try:
        yield
    except EdgelibError as error:
        raise EdgelibError(f"{what(*which)}: {error}") from None
