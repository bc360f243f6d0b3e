"""Confidence sequences by betting: intervals for a mean that hold after every item at once, so that one may stop.

Whoever bets against a mean that is true cannot expect to win: the wealth is a martingale, and by Ville's inequality it
ever reaches 1 / alpha with probability alpha at most, however often one looks. Means against which the wealth got there
are excluded. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2024), with
the bets that they call aGRAPA; `population` is their sampling without replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelib.errors import EdgelibError
from edgelib.stats.paired import check_level

_MOST = 0.9  # of the wealth that a bet can lose
_GUESSES, _SQUARE = 10, 0.25  # items that the first guess counts for, of mean 0 and of this mean square
_TOLERANCE = 1e-9
_AT_ONCE = 1 << 21  # numbers in a table of wealth: 16 MiB


@dataclass(frozen=True)
class Settled:
    """When a mean was known to lie above or below a threshold. n: items that it took, all where it never was.

    above: True, False, or None where it is still open.
    """

    n: int
    above: bool | None


def log_wealth(values, means, *, population: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (above, below) [T, M]: log wealth after each value, of bets that the mean lies above, or below, each mean.

    values: [T] in [-1, 1], such as differences of paired outcomes, in random order; means: [M] in [-1, 1]. Wealth
    starts at 1; no bet sees the value that it is about. population: how many items there are in all, whose mean is
    meant and of which `values` are drawn without replacement; None: the mean of items like these. inf: a mean that the
    rest of the population cannot bring about.
    Raises EdgelibError for values that are no numbers in [-1, 1], means outside it, and more values than items.
    """
    x, m = _bounded(values, "values"), _bounded(means, "means")
    if population is not None and population < len(x):
        raise EdgelibError(f"population must be at least the {len(x)} values drawn from it, got {population!r}")
    return _bets(x, m, population), _bets(-x, -m, population)


def confidence_sequence(
    values, *, level: float = 0.95, population: int | None = None, step: float = 0.005
) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) [T]: after each value, an interval for the mean; all of them hold at once with `level`.

    They only shrink. step: means that are tried lie so far apart, and ends are rounded outwards to them. Values and
    population as for `log_wealth`; raises EdgelibError as it does.
    """
    means = np.linspace(-1, 1, max(2, round(2 / step) + 1))
    bar = np.log(2 / (1 - check_level(level)))
    above, below = log_wealth(values, means, population=population)
    excluded = np.maximum.accumulate(np.maximum(above, below), axis=0) >= bar
    open_to = ~excluded
    first, last = open_to.argmax(axis=1), len(means) - 1 - open_to[:, ::-1].argmax(axis=1)
    some = open_to.any(axis=1)  # a mean between two that are tried can be all that is left
    low = np.where(some, means[np.maximum(first - 1, 0)], np.nan)
    high = np.where(some, means[np.minimum(last + 1, len(means) - 1)], np.nan)
    return _kept(low), _kept(high)


def interval_after(
    values, *, level: float = 0.95, population: int | None = None, means: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the last interval of a confidence sequence, from one tried mean to another.

    It holds with `level` however the number of values was chosen; each end alone with (1 + level) / 2. means: those
    that are tried, ascending; None for steps of 0.005. Takes little memory. Values, population and errors as for
    `log_wealth`.
    """
    tried = np.linspace(-1, 1, 401) if means is None else np.asarray(means, dtype=float)
    bar = np.log(2 / (1 - check_level(level)))
    chunks = np.array_split(tried, -(-len(tried) * np.size(values) // _AT_ONCE))
    best = [[wealth.max(axis=0) for wealth in log_wealth(values, some, population=population)] for some in chunks]
    above, below = (np.concatenate(side) < bar for side in zip(*best, strict=True))
    first = int(above.argmax()) if above.any() else len(tried)
    last = len(tried) - 1 - int(below[::-1].argmax()) if below.any() else -1
    return float(tried[max(first - 1, 0)]), float(tried[min(last + 1, len(tried) - 1)])


def settled_after(values, threshold: float, *, level: float = 0.95, population: int | None = None) -> Settled:
    """Return after how many values, in their order, it is known on which side of a threshold their mean lies.

    The verdict is wrong with probability 1 - level at most, whenever one stops: the mean lies on one side only, so each
    side is tested at that level. With a population, all of its items settle what is left: a mean at the threshold
    counts as above. Values and errors as for `log_wealth`.
    """
    bar = np.log(1 / (1 - check_level(level)))
    above, below = (wealth[:, 0] >= bar for wealth in log_wealth(values, [threshold], population=population))
    n = len(above)
    when = [int(reached.argmax()) if reached.any() else n for reached in (above, below)]
    if when[0] != when[1]:
        return Settled(min(when) + 1, when[0] < when[1])
    whole = population is not None and n == population
    return Settled(n, bool(np.mean(values) >= threshold - _TOLERANCE) if whole else None)


def _bets(x: np.ndarray, means: np.ndarray, population: int | None) -> np.ndarray:
    """Log wealth [T, M] of bets that the mean lies above each of `means`."""
    before = np.arange(len(x))
    total, squares = (np.concatenate([[0.0], np.cumsum(v)[:-1]]) for v in (x, x * x))
    guess = (total / (before + _GUESSES))[:, None]
    variance = ((squares + _GUESSES * _SQUARE) / (before + _GUESSES))[:, None] - guess**2
    if population is None:
        rest = np.broadcast_to(means, (len(x), len(means)))
    else:
        rest = (population * means - total[:, None]) / (population - before)[:, None]  # the mean that is left to come
    edge = guess - rest
    share = np.clip(edge / (variance + edge**2), 0, _MOST / np.maximum(1 + rest, _TOLERANCE))
    wealth = np.cumsum(np.log1p(share * (x[:, None] - rest)), axis=0)
    impossible = np.maximum.accumulate(rest < -1 - _TOLERANCE, axis=0)
    return np.where(impossible, np.inf, wealth)


def _kept(ends: np.ndarray) -> np.ndarray:
    """The last end that there was, where every mean that is tried is excluded."""
    place = np.maximum.accumulate(np.where(np.isnan(ends), 0, np.arange(len(ends))))
    return ends[place]


def _bounded(values, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not ((array >= -1) & (array <= 1)).all():
        raise EdgelibError(f"{what} must be a list of numbers from -1 to 1, got {values!r}"[:300])
    return array
