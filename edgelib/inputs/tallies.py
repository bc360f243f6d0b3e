"""What a calibration pass keeps of the tensors that Linears read: sums that add up, in memory that does not grow.

A tally is made from one tensor and merged with others; the result does not depend on how the rows were cut into
batches, up to the order in which sums are rounded.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.inputs.randomness import address, keys_for

MODALITIES = ("unknown", "image", "text")  # what a row can come from; a row's modality is an index into this
NEEDS = ("moments", "hessian", "rows", "percentiles")  # what can be kept; the moments always are
_ITEM_SHIFT = 24  # an item's rows have positions below 2**24

# |x| in float32 is cut after 8 bits of mantissa: buckets of equal width within each power of two
_DROPPED_BITS = 15
_BUCKETS = 1 << (31 - _DROPPED_BITS)  # without the sign bit


@dataclass(frozen=True)
class Wanted:
    """What to keep beside the moments, and of how many rows a sample is made."""

    needs: Collection[str] = ("moments",)
    row_limit: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class RowIndex:
    """Where the rows of a tensor come from: item of the calibration set, position within it, modality; int64 [R]."""

    item: Tensor
    position: Tensor
    modality: Tensor

    def select(self, chosen: Tensor) -> RowIndex:
        """The entries at `chosen`."""
        return RowIndex(self.item[chosen], self.position[chosen], self.modality[chosen])


@dataclass(frozen=True)
class Sample:
    """Rows with the smallest keys: a uniform sample without replacement, whatever the order they came in."""

    values: Tensor  # float32 [n, in], on the CPU
    keys: Tensor  # int64 [n]
    index: RowIndex

    @staticmethod
    def of(x: Tensor, index: RowIndex, wanted: Wanted) -> Sample:
        """Sample the rows of x [R, in]; a row's key is a hash of (seed, modality, item, position)."""
        place = (index.item << _ITEM_SHIFT) + index.position
        keys = torch.empty_like(place)
        for code in index.modality.unique().tolist():
            own = index.modality == code
            keys[own] = keys_for(address("calibration rows", wanted.seed, MODALITIES[code]), place[own])
        chosen = _smallest(keys, wanted.row_limit)
        return Sample(x[chosen.to(x.device)].float().cpu(), keys[chosen], index.select(chosen))

    def merge(self, other: Sample, limit: int) -> Sample:
        """The sample of both, of at most `limit` rows."""
        keys = torch.cat([self.keys, other.keys])
        chosen = _smallest(keys, limit)
        pairs = zip(vars(self.index).values(), vars(other.index).values(), strict=True)
        index = RowIndex(*(torch.cat(pair) for pair in pairs)).select(chosen)
        old, new = chosen[chosen < len(self.keys)], chosen[chosen >= len(self.keys)] - len(self.keys)
        return Sample(torch.cat([self.values[old], other.values[new]]), keys[chosen], index)

    def in_order(self) -> Sample:
        """The same rows sorted by modality, item and position."""
        order = torch.arange(len(self.keys))
        for column in (self.index.position, self.index.item, self.index.modality):
            order = order[column[order].argsort(stable=True)]
        return Sample(self.values[order], self.keys[order], self.index.select(order))


def _smallest(keys: Tensor, limit: int) -> Tensor:
    """Positions of the `limit` smallest keys, in the order they stand in."""
    if len(keys) <= limit:
        return torch.arange(len(keys))
    return keys.topk(limit, largest=False).indices.sort().values


@dataclass
class Tally:
    """Moments of the rows of one input, and what else was wanted of them.

    peak float32 [in] is max |x|, total and squares float64 [in] are the sums of |x| and x^2, rows counts them.
    gram float32 [in, in] is the sum of x x^T, counts int64 [65536] a histogram of |x| (`bucket_counts`).
    """

    peak: Tensor
    total: Tensor
    squares: Tensor
    rows: int
    gram: Tensor | None = None
    sample: Sample | None = None
    counts: Tensor | None = None

    @staticmethod
    def of(x: Tensor, index: RowIndex | None, wanted: Wanted) -> Tally:
        """Tally the rows of x [R, in], R at least 1; the index is needed for a sample."""
        low, high = torch.aminmax(x, dim=0)
        peak = torch.maximum(high, -low).float()
        total = torch.linalg.vector_norm(x, 1, dim=0, dtype=torch.float64)
        gram = None
        if "hessian" in wanted.needs:
            wide = x.float()
            gram = wide.T @ wide
            squares = gram.diagonal().double()
        else:
            squares = torch.linalg.vector_norm(x, 2, dim=0, dtype=torch.float64).square()
        return Tally(
            peak, total, squares, len(x), gram,
            Sample.of(x, index, wanted) if "rows" in wanted.needs else None,
            bucket_counts(x) if "percentiles" in wanted.needs else None,
        )  # fmt: skip

    def merge(self, other: Tally, wanted: Wanted) -> Tally:
        """Add another tally to this one, in place where it can be, and return it."""
        self.peak = torch.maximum(self.peak, other.peak)
        self.total, self.squares, self.rows = (
            self.total + other.total, self.squares + other.squares, self.rows + other.rows,
        )  # fmt: skip
        if self.gram is not None:
            self.gram += other.gram
        if self.sample is not None:
            self.sample = self.sample.merge(other.sample, wanted.row_limit)
        if self.counts is not None:
            self.counts += other.counts
        return self


def bucket_counts(x: Tensor) -> Tensor:
    """Count |x| of every element into int64 [65536]: 256 buckets of equal width within each power of two."""
    bits = x.detach().float().abs().contiguous().view(torch.int32) >> _DROPPED_BITS
    return torch.bincount(bits.flatten(), minlength=_BUCKETS)


def bucket_tops() -> Tensor:
    """The largest float32 in each bucket [65536]; those of the last buckets are NaN."""
    return ((torch.arange(1, _BUCKETS + 1) << _DROPPED_BITS) - 1).to(torch.int32).view(torch.float32)
