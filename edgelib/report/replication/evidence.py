"""What a row of a published claim was tested by: the published tables of the chapters, and how a verdict is reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.ground.records import one_line

HOLDS, CONTRADICTED, OPEN, UNTESTED = "holds here", "contradicted", "open", "not tested here"


class Missing(Exception):
    """A table or a row that a claim would be tested by is not there; says which."""


@dataclass(frozen=True)
class Finding:
    """tested: what was done, on what. number: what came out, with its interval. verdict: one of four words."""

    tested: str
    number: str
    verdict: str


class Tables:
    """The published tables of the chapters: book/data of a checkout, or another folder laid out like it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, chapter: str, name: str, **where: object) -> pd.DataFrame:
        """Return the rows of a table in which every named column has the given value.

        Raises Missing for a table that is not published and for rows that it lacks, EdgelibError for one that cannot
        be read or lacks a column.
        """
        path = self.folder / f"{chapter}-{name}.csv"
        if not path.is_file():
            raise Missing(f"{chapter} has published no table '{name}'")
        try:
            rows = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise EdgelibError(f"cannot read {path.name} ({one_line(error)}); publish {chapter} anew") from None
        lacking = [column for column in where if column not in rows]
        if lacking:
            raise EdgelibError(f"{path.name} lacks {', '.join(lacking)}; publish {chapter} anew")
        for column, value in where.items():
            rows = rows[rows[column] == value]
        if not len(rows):
            said = ", ".join(map(str, where.values())) or "rows"
            raise Missing(f"{chapter} did not run {said}" if where else f"the table '{name}' of {chapter} is empty")
        return rows


def points(row: Mapping, scale: float = 100.0, digits: int = 1) -> str:
    """A difference with its interval, in points: "-1.2 points (-2.4 to +0.1)"; scale 1 where it has points already."""
    value, low, high = (scale * row[key] + 0.0 for key in ("effect", "low", "high"))
    ends = [f"{end:+.{digits}f}" if math.isfinite(end) else "open" for end in (low, high)]
    return f"{value:+.{digits}f} points ({' to '.join(ends)})"


def direction(row: Mapping, sign: int) -> str:
    """The verdict on a claim that an effect is above (sign 1) or below 0 (sign -1), by its interval and adjusted p."""
    low, high, p = row["low"], row["high"], row.get("p_holm", 0.0)
    known = (low > 0 or high < 0) and p < 0.05
    if not known:
        return OPEN
    return HOLDS if sign * row["effect"] > 0 else CONTRADICTED


def within(row: Mapping, margin: float) -> str:
    """The verdict on a claim that an effect lies within +-margin: open where the interval reaches over an end."""
    if -margin < row["low"] and row["high"] < margin:
        return HOLDS
    return CONTRADICTED if row["low"] > margin or row["high"] < -margin else OPEN


def as_large(row: Mapping, loss: float) -> str:
    """The verdict on a claim that so much is lost (a fraction): contradicted where the interval excludes it."""
    if row["low"] > -loss:
        return CONTRADICTED
    return HOLDS if row["high"] < 0 and row.get("p_holm", 0.0) < 0.05 else OPEN


def amount(found: float, said: float, tolerance: float) -> str:
    """The verdict on a published amount: whether ours is within a relative tolerance of it."""
    return HOLDS if abs(found / said - 1) <= tolerance else CONTRADICTED


Reader = Callable[[Tables, Mapping], Finding]
READERS: dict[str, dict[str, Reader]] = {}


def reads(source: str, claim: str) -> Callable[[Reader], Reader]:
    """Register the function that finds the evidence on one claim of a source."""

    def register(reader: Reader) -> Reader:
        READERS.setdefault(source, {})[claim] = reader
        return reader

    return register
