"""Checks that arguments of every floor share."""

from __future__ import annotations

import operator
from typing import Any

from edgelib.errors import EdgelibError


def whole_number(value: Any, name: str, at_least: int | None = None) -> int:
    """Return value as an int. Raises EdgelibError naming the argument if it is not a whole number, or too small."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (at_least is not None and number < at_least):
        bound = "" if at_least is None else f" of at least {at_least}"
        raise EdgelibError(f"{name} must be a whole number{bound}, got {value!r}")
    return number
