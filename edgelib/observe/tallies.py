"""What a calibration pass keeps of the tensors that Linears read: sums that add up, in memory that does not grow.

A tally is made from one tensor and merged with others; the result does not depend on how the rows were cut into
batches, up to the order in which sums are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.ground.randomness import address, keys_for

MODALITIES = ("unknown", "image", "text")  # what a row can come from; a row's modality is an index into this
NEEDS = ("moments", "hessian", "rows", "percentiles")  # what can be kept; the moments always are
_ITEM_SHIFT = 24  # an item's rows have positions below 2**24
_FREE = torch.iinfo(torch.int64).max  # key of a place that no row has taken

_GRAM_BLOCK = 512
_MOMENT_ROWS = 64  # few enough to stay in a processor's cache for all three moments

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

    def keys(self, seed: int) -> Tensor:
        """A hash of (seed, modality, item, position) for each row, int64 [R]."""
        place = (self.item << _ITEM_SHIFT) + self.position
        keys = torch.empty_like(place)
        for code in self.modality.unique().tolist():
            own = self.modality == code
            keys[own] = keys_for(address("calibration rows", seed, MODALITIES[code]), place[own])
        return keys


@dataclass(frozen=True)
class Sample:
    """The `limit` rows with the smallest keys: a uniform sample without replacement, in whatever order they come.

    values float32 [limit, in] on the CPU, keys int64 [limit], index int64 [3, limit]: item, position, modality. Places
    not taken yet have the largest key.
    """

    values: Tensor
    keys: Tensor
    index: Tensor

    @staticmethod
    def empty(width: int, limit: int) -> Sample:
        """Room for `limit` rows."""
        keys = torch.full((limit,), _FREE)
        return Sample(torch.empty(limit, width), keys, torch.zeros(3, limit, dtype=torch.int64))

    @staticmethod
    def of(x: Tensor, index: RowIndex, wanted: Wanted) -> Sample:
        """The sample of the rows of x [R, in]; it has no free places."""
        keys = index.keys(wanted.seed)
        chosen = keys.topk(min(len(keys), wanted.row_limit), largest=False).indices
        places = torch.stack([index.item, index.position, index.modality])[:, chosen]
        return Sample(x[chosen.to(x.device)].float().cpu(), keys[chosen], places)

    def add(self, other: Sample) -> None:
        """Take over, in place, the rows of another sample that have smaller keys than own ones."""
        size = len(self.keys)
        chosen = torch.cat([self.keys, other.keys]).topk(size, largest=False).indices
        lost = torch.ones(size, dtype=torch.bool)
        lost[chosen[chosen < size]] = False
        new = chosen[chosen >= size] - size
        for mine, others in ((self.values, other.values), (self.keys, other.keys), (self.index.T, other.index.T)):
            mine[lost] = others[new]

    def sorted(self) -> tuple[Tensor, Tensor]:
        """The rows taken [n, in] and their index [3, n], by modality, item and position; own places are reused."""
        order = (self.keys != _FREE).nonzero()[:, 0]
        for column in (self.index[1], self.index[0], self.index[2]):
            order = order[column[order].argsort(stable=True)]
        n = len(order)
        self.values[:n], self.index[:, :n] = self.values[order], self.index[:, order]
        return self.values[:n], self.index[:, :n]


@dataclass
class Tally:
    """Moments of the rows of one input, and what else was wanted of them.

    peak, total and squares, float64 [in], are max |x| and the sums of |x| and x^2; rows counts them.
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
    def empty(width: int, device: torch.device, wanted: Wanted) -> Tally:
        """The tally of no rows."""
        gram = torch.zeros(width, width, device=device) if "hessian" in wanted.needs else None
        sample = Sample.empty(width, wanted.row_limit) if "rows" in wanted.needs else None
        counts = torch.zeros(_BUCKETS, dtype=torch.int64, device=device) if "percentiles" in wanted.needs else None
        peak, total, squares = torch.zeros(3, width, dtype=torch.float64, device=device)
        return Tally(peak, total, squares, 0, gram, sample, counts)

    @staticmethod
    def of(x: Tensor, index: RowIndex | None, wanted: Wanted) -> Tally:
        """Tally the rows of x [R, in], R at least 1, on x's `wide_device`; the index is needed for a sample."""
        x = x.float()
        near = x.to(wide_device(x.device))
        counts = bucket_counts(near.abs()) if "percentiles" in wanted.needs else None
        gram = gram_matrix(x).to(near.device) if "hessian" in wanted.needs else None
        sample = Sample.of(x, index, wanted) if "rows" in wanted.needs else None
        peak, total, squares = moments(near)
        return Tally(peak, total, squares, len(x), gram, sample, counts)

    def add(self, other: Tally) -> None:
        """Add another tally to this one in place."""
        torch.maximum(self.peak, other.peak, out=self.peak)
        self.total += other.total
        self.squares += other.squares
        self.rows += other.rows
        if self.gram is not None:
            self.gram += other.gram
        if self.sample is not None:
            self.sample.add(other.sample)
        if self.counts is not None:
            self.counts += other.counts


def wide_device(device: torch.device) -> torch.device:
    """Return where float64 is computed for tensors on `device`: there, or on the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def moments(x: Tensor) -> Tensor:
    """Return max |x|, sum |x| and sum x^2 of the columns of x [R, in], float64 [3, in]."""
    peak, total, squares = torch.zeros(3, x.shape[1], dtype=torch.float64, device=x.device)
    for block in x.split(_MOMENT_ROWS if x.device.type == "cpu" else len(x)):
        magnitude = block.abs()
        torch.maximum(peak, magnitude.amax(0).double(), out=peak)
        total += magnitude.sum(0)
        squares += magnitude.square_().sum(0)
    return torch.stack([peak, total, squares])


def gram_matrix(x: Tensor) -> Tensor:
    """Return x^T x of x [R, in], exactly symmetric: only blocks on and above the diagonal are multiplied."""
    width = x.shape[1]
    gram = x.new_empty(width, width)
    for start in range(0, width, _GRAM_BLOCK):
        rows = slice(start, start + _GRAM_BLOCK)
        for other in range(start, width, _GRAM_BLOCK):
            columns = slice(other, other + _GRAM_BLOCK)
            part = x[:, rows].T @ x[:, columns]
            gram[rows, columns] = part
            if other > start:
                gram[columns, rows] = part.T
    return gram


def bucket_counts(magnitude: Tensor) -> Tensor:
    """Count float32 values of at least 0 into int64 [65536]: 256 buckets of equal width within each power of two."""
    bits = magnitude.contiguous().view(torch.int32) >> _DROPPED_BITS
    return torch.bincount(bits.flatten(), minlength=_BUCKETS)


def bucket_tops() -> Tensor:
    """The largest float32 in each bucket [65536]; those of the last buckets are NaN."""
    return ((torch.arange(1, _BUCKETS + 1) << _DROPPED_BITS) - 1).to(torch.int32).view(torch.float32)


def counted_percentile(counts: Tensor, q: float, peak: float) -> float:
    """Return the smallest value that at least q % of the values in `bucket_counts` do not exceed; 100 is their `peak`.

    It is the largest value of its bucket, at most the peak: never below the exact order statistic (numpy's
    "inverted_cdf") and above it by less than one part in 256. The largest value of all is the peak itself; denormals
    below it are 0, as zeros and they share buckets.
    """
    total = int(counts.sum())
    rank = min(max(math.ceil(total * (q / 100)), 1), total)
    if rank == total:
        return peak
    bucket = int(torch.searchsorted(counts.cumsum(0), rank))
    top = min(float(bucket_tops()[bucket]), peak)
    return top if top >= torch.finfo(torch.float32).tiny else 0.0
