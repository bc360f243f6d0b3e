"""Yes and no as data sets label them; free text as models answer it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from edgelib.errors import EdgelibError

_WORDS = re.compile(r"[^\W\d_]+")


def listed(values, what: str) -> list:
    """Return `values` as a list. Raises EdgelibError naming `what` for a text, a dict or a single value."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise EdgelibError(f"{what} must be a list with one entry per item, got {type(values).__name__} {values!r}")
    return list(values)


def yes_labels(labels, what: str = "labels") -> np.ndarray:
    """Return [n] booleans, True for yes, from "yes" / "no" in any case, from booleans or from 1 / 0.

    Raises EdgelibError naming the first label that is none of these.
    """
    return np.array([_is_yes(value, place, what) for place, value in enumerate(listed(labels, what))], dtype=bool)


def _is_yes(value, place: int, what: str) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
        return value.strip().lower() == "yes"
    if isinstance(value, (bool, np.bool_, int, np.integer)) and value in (0, 1):
        return bool(value)
    raise EdgelibError(f"{what} must be 'yes' or 'no' (or True and False), got {value!r} at position {place}")


def answer_texts(answers, what: str = "answers") -> list[str]:
    """Return free-text answers as a list of texts; an answer may stand in a record, {"answer": text}.

    Raises EdgelibError naming the first answer that is no text: a missing answer is an empty text.
    """
    texts = []
    for place, value in enumerate(listed(answers, what)):
        text = value.get("answer") if isinstance(value, Mapping) else value
        if not isinstance(text, str):
            raise EdgelibError(
                f"{what} must be texts, got {value!r} at position {place}; write a model's missing answer as ''"
            )
        texts.append(text)
    return texts


def spoken(text: str) -> str | None:
    """Return "yes" or "no" if exactly one of the two occurs as a word of the text, in any case, else None."""
    words = {"yes", "no"} & set(_WORDS.findall(text.lower()))
    return words.pop() if len(words) == 1 else None
