"""Checks that arguments of every floor share."""

from __future__ import annotations

import operator
from decimal import Decimal
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.ground.records import shown


def whole_number(value: Any, name: str, at_least: int | None = None) -> int:
    """Return value as an int. Raises EdgelibError naming the argument if it is not a whole number, or too small."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (at_least is not None and number < at_least):
        bound = "" if at_least is None else f" of at least {at_least}"
        raise EdgelibError(f"{name} must be a whole number{bound}, got {shown(value)}")
    return number


def seed_number(value: Any) -> int:
    """Return a seed as an int; raises EdgelibError for one that is not whole, or has more than 64 bits."""
    seed = whole_number(value, "seed")
    if not -(2**63) <= seed < 2**64:
        raise EdgelibError(f"a seed is a whole number of at most 64 bits, got {shown(seed)}")
    return seed


def plain_number(value: float) -> str:
    """Return a finite number in as few digits as name it, without an exponent: "8" for 8.0, "99.9" for 99.90."""
    return f"{Decimal(repr(float(value))).normalize():f}"
