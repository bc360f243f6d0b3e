"""Which rows of an array are beaten in every column at once: maxima by divide and conquer.

Comparing all pairs of 100,000 rows takes minutes. Halving the rows on one column and comparing the halves on the
others takes n log(n)^(d - 2) steps for d > 2 columns (Kung, Luccio and Preparata, 1975).
"""

from __future__ import annotations

import numpy as np

_PAIRS = 4096  # so few pairs are compared all at once


def non_dominated(values) -> np.ndarray:
    """Return [n] booleans: True for a row of values [n, d] that no row dominates; higher is better in every column.

    A row dominates another if it is at least as high in every column and higher in one. Equal rows do not dominate
    each other. Infinite values are ordered as usual; NaN must not occur.
    """
    values = np.asarray(values, dtype=float) + 0.0  # so that -0.0 and 0.0 are one value
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    rows, place = np.unique(values, axis=0, return_inverse=True)  # ascending, first column first; equal rows are one
    keep = np.zeros(len(rows), dtype=bool)
    keep[_maxima(rows, np.arange(len(rows)))] = True
    return keep[place.ravel()]


def _maxima(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Those of the positions `at` whose rows, distinct and ascending, no other of them dominates."""
    if len(at) ** 2 <= _PAIRS:
        # Each row reaches itself; being distinct, another that reaches it dominates it.
        return at[(rows[at, None] >= rows[at]).all(axis=2).sum(axis=0) == 1]
    low, high = _maxima(rows, at[: len(at) // 2]), _maxima(rows, at[len(at) // 2 :])
    return np.concatenate([low[~_reached(rows[high, 1:], rows[low, 1:])], high])


def _reached(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each row of b [m, d], whether some row of a [n, d] is at least as high in every column."""
    if len(a) == 0 or len(b) == 0 or a.shape[1] == 0:
        return np.full(len(b), len(a) > 0)
    if a.shape[1] == 1:
        return b[:, 0] <= a[:, 0].max()
    if len(a) * len(b) <= _PAIRS:
        return np.asarray((a[:, None] >= b).all(axis=2).any(axis=0))
    if a.shape[1] == 2:
        return _reached_in_two(a, b)
    first = np.concatenate([a[:, 0], b[:, 0]])
    pivot = np.partition(first, len(first) // 2)[len(first) // 2]
    if pivot == first.min():
        if pivot == first.max():
            return _reached(a[:, 1:], b[:, 1:])
        pivot = first[first > pivot].min()
    a_high, b_high = a[:, 0] >= pivot, b[:, 0] >= pivot
    reached = np.empty(len(b), dtype=bool)
    reached[b_high] = _reached(a[a_high], b[b_high])
    reached[~b_high] = _reached(a[~a_high], b[~b_high]) | _reached(a[a_high, 1:], b[~b_high, 1:])
    return reached


def _reached_in_two(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`_reached` for two columns: the highest second value among the rows of a from each first value upwards."""
    a = a[np.argsort(a[:, 0])]
    highest = np.append(np.maximum.accumulate(a[::-1, 1])[::-1], -np.inf)
    start = np.searchsorted(a[:, 0], b[:, 0], side="left")
    return (start < len(a)) & (highest[start] >= b[:, 1])
