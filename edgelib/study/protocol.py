"""What a study is: which cells there are, what names each of them, how they are computed and scored.

A cell is a variant of a model at a place where variants are compared. Nothing here runs anything: the code behind a
finished cell is that of its study, so the engine can change and cells stay.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Generic, TypeVar

import pandas as pd
from torch import nn

from edgelib.errors import EdgelibError

Variant = TypeVar("Variant")
Place = TypeVar("Place")
Built = TypeVar("Built")


class Study(ABC, Generic[Variant, Place, Built]):
    """What `sweep` asks of a study. Variants and places are values that can be keys; processes get copies of a study.

    Attributes: variants, all of them, each once. most_kept: bytes of copies of networks that a worker keeps at once,
    beside half of the memory that is free, which no study goes beyond.
    """

    variants: tuple[Variant, ...]
    most_kept: ClassVar[float] = math.inf

    @abstractmethod
    def cells(self) -> Iterator[tuple[Variant, Place]]:
        """Every cell, in the order of the rows."""

    @abstractmethod
    def spec(self, variant: Variant, place: Place) -> dict:
        """Plain values that name a cell: nothing else may change its rows. "code" is the version of what computes."""

    @abstractmethod
    def columns(self, variant: Variant, place: Place) -> dict:
        """What the rows of a cell are marked with."""

    @abstractmethod
    def module(self, variant: Variant) -> nn.Module:
        """The network that a variant is a copy of; says how many variants fit into memory together."""

    @abstractmethod
    def build(self, group: Sequence[Variant]) -> Built:
        """What the cells of some variants share, made once for all places."""

    @abstractmethod
    def evaluate(self, built: Built, place: Place, todo: Sequence[Variant]) -> dict[Variant, pd.DataFrame]:
        """Rows of one place for some of the variants that were built."""

    def score(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sweep with a column `correct` or `score`; most studies store it already."""
        return rows

    def effort(self, place: Place, todo: Sequence[Variant]) -> float:
        """How long a place takes beside others; the longest go first, so that no worker is left alone at the end."""
        return 0.0

    def shards(self, place: Place) -> list[tuple[int, int]]:
        """Where long cells of a place may be cut: first and last-plus-one item of each shard; none for short cells.

        Depends on the study alone and not on workers, so that a cell has the same bytes wherever it is computed.
        """
        return []

    def part(self, start: int, stop: int) -> Study[Variant, Place, Built]:
        """The study of the items from `start` up to `stop`. Raises EdgelibError where cells cannot be cut."""
        raise EdgelibError(f"cells of {type(self).__name__} cannot be cut into parts")

    def items(self, place: Place) -> int:
        """Items of a place, for studies that have `part`; 0 where cells cannot be cut."""
        return 0

    def stages(self, place: Place) -> Iterator[str]:
        """Do what all variants share of a place, yielding the name of each step when it is done, for those who time it.

        Nothing where a study does not tell it apart from the variants' own work.
        """
        yield from ()

    def for_thread(self) -> Study[Variant, Place, Built]:
        """The study for one more thread of this process; itself where evaluating changes no shared network."""
        return self
