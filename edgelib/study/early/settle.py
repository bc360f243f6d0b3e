"""A sweep that leaves each configuration as soon as it is known whether it keeps a margin on corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from edgelib.corruptions.condition import Condition
from edgelib.errors import EdgelibError
from edgelib.stats.paired import check_level, rng_for
from edgelib.stats.sequential.betting import interval_after, settled_after
from edgelib.stats.sequential.stopping import BREAKS, KEEPS
from edgelib.study.classifier_grid import Built, ClassifierGrid, Variant
from edgelib.study.early.drawn import Drawn
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

FIRST, GROWTH = 0.02, 1.2  # share of the outcomes in the first round; by what they have grown after each other one


def sweep_until_settled(
    grid: ClassifierGrid, store: CellStore, margin: float, *, level: float = 0.95, **how: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (table, rows): of each variant whether it keeps the margin, and the outcomes that were computed.

    A variant keeps the margin if its accuracy over all of its corrupted cells is at most `margin` below that of its
    model's reference in these cells. Outcomes (an image in a condition) are drawn by the grid's seed, without
    replacement and in rounds; after each, variants that a confidence sequence has settled are left. All verdicts
    together are those of the complete grid with probability `level`: each is tested at 1 - (1 - level) / their number.
    table: the marks of a variant, verdict ("keeps" or "breaks"), decided_at (outcomes that were enough), n (computed),
    of (all that there are), share = n / of, stopped (n < of), loss so far (reference minus variant, a fraction) with
    low and high, which hold however early one stops, each end at the level of the verdict.
    rows: as of `sweep`, of what was computed, with the number of the round: incomplete where a variant was stopped.
    The store keeps the outcomes of a round under names that say which images they are of: another margin or level takes
    them, a complete grid does not. how: executor, workers, cluster, patience and progress, as `sweep` takes them.
    Raises EdgelibError for a margin outside [0, 1) and a grid without corrupted cells or anything to compare, and as
    `sweep` does.
    """
    if not 0 <= margin < 1:
        raise EdgelibError(f"margin must lie from 0 to below 1, in shares of the images, got {margin!r}")
    asked = _asked(grid)
    if not asked.compared:
        raise EdgelibError("nothing to stop early: name a corruption and a configuration beside the reference")
    each = 1 - (1 - check_level(level)) / len(asked.compared)
    correct = {v: np.full(len(asked.order), np.nan) for v in grid.variants}
    found: dict[Variant, dict] = {}
    parts = []
    for number, (start, stop) in enumerate(_rounds(len(asked.order))):
        still_open = [v for v in asked.compared if v not in found]
        if not still_open:
            break
        drawn = asked.drawn(still_open, start, stop)
        rows = sweep(drawn, store, **how)
        parts.append(rows.assign(round=number))
        asked.note(drawn, rows["correct"].to_numpy(float), correct)
        for variant in still_open:
            seen = asked.order[:stop][asked.own[variant][asked.order[:stop]]]
            lost = correct[grid.reference(variant.model)][seen] - correct[variant][seen]
            if (row := _verdict(lost, margin, each, int(asked.own[variant].sum()))) is not None:
                found[variant] = asked.marks(variant) | row
    return pd.DataFrame([found[v] for v in asked.compared]), pd.concat(parts, ignore_index=True)


def _verdict(lost: np.ndarray, margin: float, level: float, of: int) -> dict | None:
    """What is known of a variant that lost so much on the outcomes drawn so far; None where it is still open."""
    settled = settled_after(-lost, -margin, level=level, population=of) if len(lost) else None
    if settled is None or settled.above is None:
        return None
    means = np.union1d(np.linspace(-1, 1, 401), margin)
    low, high = interval_after(lost, level=2 * level - 1, population=of, means=means)
    return {
        "verdict": KEEPS if settled.above else BREAKS,
        "decided_at": settled.n,
        "n": len(lost),
        "of": of,
        "share": len(lost) / of,
        "stopped": len(lost) < of,
        "loss": float(lost.mean()),
        "low": low,
        "high": high,
    }


def _rounds(n: int) -> Iterator[tuple[int, int]]:
    """Where rounds of n outcomes begin and end."""
    start, stop = 0, max(1, round(FIRST * n))
    while start < n:
        yield start, min(stop, n)
        start, stop = stop, max(stop + 1, round(GROWTH * stop))


@dataclass(frozen=True)
class _Asked:
    """The outcomes of a grid in a random order: numbers of (condition, image), the image counting fastest.

    own: of each variant that is compared, which of them it has in common with its reference. built: what the last part
    built.
    """

    grid: ClassifierGrid
    places: tuple[Condition, ...]
    own: dict[Variant, np.ndarray]
    order: np.ndarray
    built: list[Built]

    @property
    def n(self) -> int:
        """Images of a corrupted condition."""
        return self.grid.items(self.places[0])

    @property
    def compared(self) -> list[Variant]:
        """Variants that have something to be compared in."""
        return list(self.own)

    def marks(self, variant: Variant) -> dict:
        """What names a variant in a table."""
        marks = self.grid.columns(variant, self.places[0])
        return {name: value for name, value in marks.items() if name not in ("corruption", "severity")}

    def drawn(self, variants: Sequence[Variant], start: int, stop: int) -> Drawn:
        """The study of a part of the order, for some variants and their references."""
        n, members = self.n, {*variants, *(self.grid.reference(v.model) for v in variants)}
        wanted = np.any([self.own[v] for v in variants], axis=0)
        codes = np.sort(self.order[start:stop])
        place, image = np.divmod(codes[wanted[codes]], n)
        positions = {self.places[p]: image[place == p] for p in np.unique(place)}
        kept = tuple(v for v in self.grid.variants if v in members)
        return Drawn(self.grid, kept, positions, self.grid.batch_size, self.built)

    def note(self, drawn: Drawn, outcomes: np.ndarray, correct: dict[Variant, np.ndarray]) -> None:
        """Enter the outcomes of a study of a part, in the order of its rows."""
        start = 0
        for variant, condition in drawn.cells():
            positions = drawn.positions[condition]
            stop = start + len(positions)
            correct[variant][self.places.index(condition) * self.n + positions] = outcomes[start:stop]
            start = stop


def _asked(grid: ClassifierGrid) -> _Asked:
    has: dict[Variant, set[Condition]] = {v: set() for v in grid.variants}
    for variant, condition in grid.cells():
        if condition.severity:
            has[variant].add(condition)
    places = tuple(dict.fromkeys(condition for _, condition in grid.cells() if condition.severity))
    n, own = (grid.items(places[0]) if places else 0), {}
    for variant in grid.variants:
        reference = grid.reference(variant.model)
        common = [place in has[variant] and place in has[reference] for place in places]
        if variant != reference and any(common):
            own[variant] = np.repeat(common, n)
    order = rng_for(grid.seed, "order of outcomes").permutation(len(places) * n)
    return _Asked(grid, places, own, order, [])
