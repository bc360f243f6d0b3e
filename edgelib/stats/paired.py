"""Intervals and tests for paired per-item outcomes: every difference in the book is one of these objects.

The unit of resampling is the cluster (the image): items of one image are drawn together. Numbers depend on the data and
the seed only, neither on the order of the items nor on the names of the clusters.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from scipy import signal, stats
from statsmodels.stats.multitest import multipletests

from edgelib.errors import EdgelibError
from edgelib.ground.checks import seed_number
from edgelib.ground.records import shown

REPLICATES = 2000
FLIPS = 9999
_CHUNK = 4_000_000  # elements of one block of bootstrap weights: 32 MB
_EXACT_TOTAL = 1_000_000  # the exact sign-flip distribution has two entries per unit of the summed differences


def rng_for(seed: int, *key: object) -> np.random.Generator:
    """Return the generator named by (seed, key); the same name gives the same stream everywhere."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise EdgelibError(f"seed must be a whole number of at least 0, got {shown(seed)}")
    return np.random.default_rng([seed_number(seed), zlib.crc32(repr(key).encode())])


def check_level(level: float) -> float:
    """Return `level` if it is a confidence level strictly between 0 and 1; raises EdgelibError otherwise."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise EdgelibError(f"level must lie strictly between 0 and 1, for example 0.95; got {level!r}")
    return level


def check_replicates(n: int, what: str = "n_boot") -> int:
    """Return `n` if it is a whole number of at least 100; raises EdgelibError naming `what` otherwise."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 100:
        raise EdgelibError(f"{what} must be a whole number of at least 100 replicates, got {n!r}")
    return int(n)


def wilson(p, n, level: float = 0.95):
    """Return (low, high), the Wilson score interval of a proportion p seen on n independent items, within [0, 1].

    p: accuracy in [0, 1], number or array; n: items, at least 1. Wilson (1927).
    Raises EdgelibError for values out of range.
    """
    z = stats.norm.isf((1 - check_level(level)) / 2)
    p, n = np.asarray(p, dtype=float), np.asarray(n, dtype=float)
    if not ((p >= 0) & (p <= 1)).all() or not (n >= 1).all():
        raise EdgelibError(f"wilson needs p in [0, 1] and n of at least 1, got p = {p!r}, n = {n!r}")
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.clip((middle - half) / (1 + z * z / n), 0, 1), np.clip((middle + half) / (1 + z * z / n), 0, 1)


def replicates(sums, sizes, n_boot: int, rng: np.random.Generator, counts=None):
    """Return (means [1 + n_boot, K], totals [1 + n_boot]) of the cluster bootstrap; row 0 is the data themselves.

    sums: [G, K] outcome sums per cluster; sizes: [G] items per cluster; counts: [G] how many clusters each row stands
    for (1 by default). Each replicate draws as many clusters as there are, with replacement, and returns sum / size, so
    clusters may differ in size. Whole-number sums are added exactly in float32, whatever the number of threads.
    """
    sampled = drawn_sums(np.column_stack([sums, sizes]), n_boot, rng, counts)
    return sampled[:, :-1] / sampled[:, -1:], sampled[:, -1]


def drawn_sums(columns, n_boot: int, rng: np.random.Generator, counts=None) -> np.ndarray:
    """Return sums over clusters [1 + n_boot, K] of columns [G, K], resampled as in `replicates`; row 0 is the data."""
    n_boot = check_replicates(n_boot)
    counts = np.ones(len(columns), dtype=int) if counts is None else counts
    exact = (columns == np.round(columns)).all() and np.abs(columns).max() * counts.sum() < 2**24
    columns = columns.astype(np.float32 if exact else np.float64)
    drawn, step = [counts.astype(columns.dtype)[None] @ columns], max(1, _CHUNK // len(counts))
    for start in range(0, n_boot, step):
        weights = rng.multinomial(counts.sum(), counts / counts.sum(), size=min(step, n_boot - start))
        drawn.append(weights.astype(columns.dtype) @ columns)
    return np.concatenate(drawn).astype(float)


def percentile_interval(draws, level: float, n: int) -> tuple[float, float]:
    """Return the central `level` interval of bootstrap draws [B] over n clusters; an undefined draw widens both ends.

    Expanded percentiles (Hesterberg, 2015): the tails come from t with n - 1 degrees of freedom and n / (n - 1) times
    the variance, because plain percentiles are too narrow by that much; for n in the thousands they are the plain ones.
    """
    if n < 2:
        return -np.inf, np.inf
    tail = stats.norm.cdf(stats.t.ppf((1 - check_level(level)) / 2, n - 1) * np.sqrt(n / (n - 1)))
    missing = np.isnan(draws)
    # Interpolation next to an infinite draw would give NaN, hence an order statistic on either side.
    low = np.quantile(np.where(missing, -np.inf, draws), tail, method="lower")
    high = np.quantile(np.where(missing, np.inf, draws), 1 - tail, method="higher")
    return float(low), float(high)


def one_sided_p(draws, null: float, n: int) -> float:
    """Return the p-value of "effect <= null" that agrees with `percentile_interval`; undefined draws count for it."""
    if n < 2:
        return 1.0
    share = (1 + (draws <= null).sum() + np.isnan(draws).sum()) / (1 + len(draws))
    return float(stats.t.cdf(stats.norm.ppf(share) * np.sqrt((n - 1) / n), n - 1))


def two_sided_p(draws, n: int) -> float:
    """Return the p-value of "no effect": twice the smaller of the two one-sided ones, at most 1."""
    return min(1.0, 2 * one_sided_p(draws, 0.0, n), 2 * one_sided_p(-draws, 0.0, n))


def minimum_detectable_effect(se: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return the true effect a two-sided test finds with probability `power`: (z[1 - a/2] + z[power]) * se."""
    return float((stats.norm.isf((1 - check_level(level)) / 2) + stats.norm.ppf(power)) * se)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: binomial(only_a + only_b, 1/2) on the discordant pairs.

    only_a, only_b: pairs that only a, only b got right. 1.0 without discordant pairs. McNemar (1947).
    """
    return _exact_sign_flip_p(np.repeat([1.0, -1.0], [only_a, only_b]))


def _exact_sign_flip_p(d: np.ndarray) -> float:
    """P(|sum of +-d| >= |sum of d|) over all signs, for whole numbers d, by convolving one binomial per magnitude."""
    pmf, total = np.ones(1), int(np.abs(d).sum())
    for magnitude, count in zip(*np.unique(np.abs(d[d != 0]).astype(int), return_counts=True), strict=True):
        steps = np.zeros(2 * magnitude * count + 1)
        steps[:: 2 * magnitude] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        pmf = np.clip(signal.convolve(pmf, steps), 0, None)
    reached = np.abs(np.arange(-total, total + 1)) >= abs(int(d.sum()))
    return float(min(1.0, pmf[reached].sum()))


def sign_flip_p(d, seed: int = 0) -> float:
    """Return the two-sided p-value of "a and b are exchangeable within each cluster", d [G] their summed differences.

    Under that hypothesis each cluster's difference keeps its size and gets a random sign; exact for whole numbers (with
    every |d| = 1 it is McNemar's test) whose sizes add up to at most a million, from 9,999 random flips otherwise
    (smallest value 0.0001).
    """
    d = np.sort(np.asarray(d, dtype=float))
    d = d[d != 0]
    if len(d) == 0:
        return 1.0
    if (d == np.round(d)).all() and np.abs(d).sum() <= _EXACT_TOTAL:
        return _exact_sign_flip_p(d)
    rng, observed, reached = rng_for(seed, "sign flips"), abs(d.sum()) * (1 - 1e-12), 0
    step = max(1, _CHUNK // len(d))
    for start in range(0, FLIPS, step):
        signs = rng.integers(0, 2, size=(min(step, FLIPS - start), len(d)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ d) >= observed).sum())
    return (1 + reached) / (1 + FLIPS)


@dataclass(frozen=True)
class PairedDifference:
    """mean(a) - mean(b) on the same items, with its interval, p-value and the effect the data could have detected."""

    effect: float
    interval: tuple[float, float]
    p: float
    n: int
    mde: float
    n_clusters: int
    level: float


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of mean(a) - mean(b) against +-margin; `interval` has level 1 - 2 alpha."""

    effect: float
    interval: tuple[float, float]
    margin: float
    p_non_inferior: float
    p_equivalent: float
    n: int


def _outcomes(values, what: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise EdgelibError(f"{what} must be a list of numbers, one per item; got {type(values).__name__}") from error
    if array.ndim != 1 or array.size == 0:
        raise EdgelibError(f"{what} must be a non-empty list of outcomes, one per item; got shape {array.shape}")
    if not np.isfinite(array).all():
        raise EdgelibError(f"{what} holds {(~np.isfinite(array)).sum()} NaN or infinite values; drop those items")
    return array


def cluster_codes(cluster, n: int) -> np.ndarray:
    """Return the cluster (image) of each of n items as whole numbers from 0; None: every item is its own.

    Raises EdgelibError for another number of ids than items, and for ids that are None or NaN.
    """
    if cluster is None:
        return np.arange(n)
    # As objects, because an array of texts would turn a missing id into the text "nan".
    cluster = np.asarray(cluster, dtype=object)
    if cluster.shape != (n,):
        raise EdgelibError(f"cluster must name one image per item: got shape {cluster.shape} for {n} items")
    missing = int(pd.isna(cluster).sum())
    if missing:
        raise EdgelibError(f"cluster is None or NaN for {missing} of {n} items; name their image or drop them")
    return pd.factorize(cluster)[0]


def _cluster_differences(a, b, cluster):
    """(sums [G] of a - b per cluster, sizes [G], size of a typical difference), in an order set by the values alone."""
    a, b = _outcomes(a, "a"), _outcomes(b, "b")
    if len(a) != len(b):
        raise EdgelibError(f"a and b must be outcomes of the same items: got {len(a)} and {len(b)} of them")
    codes = cluster_codes(cluster, len(a))
    # Rounded because graded outcomes of one image may cancel to 1e-17, which is no difference.
    sums, sizes = np.round(np.bincount(codes, weights=a - b), 12), np.bincount(codes)
    pooled = np.concatenate([a, b])
    spread = 1.0 if np.isin(pooled, (0.0, 1.0)).all() else float(np.ptp(pooled))
    order, differing = np.lexsort((sums, sizes)), sums[sums != 0]
    typical = float(np.sqrt((differing**2).mean())) if len(differing) else spread
    return sums[order], sizes[order], typical


def _draws(sums, sizes, typical, seed):
    """Bootstrap draws [REPLICATES] of the mean difference, and its standard error, from the smoothed pool.

    The pool is the clusters and two pseudo-clusters of average size, one each way, with the root mean square of the
    differences that are not zero. They keep the interval honest when few or no items differ and hardly matter else.
    """
    pool = np.column_stack([np.append(sums, [typical, -typical]), np.append(sizes, [sizes.mean()] * 2)])
    kinds, counts = np.unique(pool, axis=0, return_counts=True)  # 0/1 outcomes have few kinds of cluster: fast
    draws, _ = replicates(kinds[:, :1], kinds[:, 1], REPLICATES, rng_for(seed, "paired difference"), counts)
    difference, size = pool.T
    residual = difference - size * difference.sum() / size.sum()
    return draws[1:, 0], np.sqrt((residual**2).sum()) / size.sum()


def paired_difference(a, b, *, cluster=None, level: float = 0.95, seed: int = 0) -> PairedDifference:
    """Return effect = mean(a) - mean(b) of paired outcomes with interval, p, n and mde; positive when a is higher.

    a, b: outcomes of the same n items, 0/1 or graded; cluster: one id per item (its image) when items share images.
    - interval: percentile bootstrap over clusters, 2,000 replicates. The pool gains two pseudo-clusters that differ by
      a typical amount, one each way (the bootstrap form of Bonett and Price, 2012), so that data in which few or no
      items differ still get an interval of honest width: about +-2.8 / n, the "rule of three", when all 0/1 agree.
    - p: exact sign-flip test over clusters (`sign_flip_p`); for 0/1 outcomes without clusters exactly McNemar's test.
    - mde: effect detectable with 80 % power, (z[1 - a/2] + z[0.8]) * se, with se = sqrt(sum (d - m * mean)^2) / sum m
      over the clusters of that pool, d being the summed difference of a cluster and m its size.
    Raises EdgelibError for empty input, NaN, a missing cluster id, and lengths that differ.
    """
    sums, sizes, typical = _cluster_differences(a, b, cluster)
    draws, se = _draws(sums, sizes, typical, seed)
    return PairedDifference(
        effect=float(sums.sum() / sizes.sum()),
        interval=percentile_interval(draws, level, len(sizes) + 2),
        p=sign_flip_p(sums, seed),
        n=int(sizes.sum()),
        mde=minimum_detectable_effect(se, level),
        n_clusters=len(sizes),
        level=level,
    )


def tost(a, b, margin: float, *, cluster=None, alpha: float = 0.05, seed: int = 0) -> Equivalence:
    """Return the two one-sided tests of whether mean(a) lies within `margin` of mean(b) (Schuirmann, 1987).

    p_non_inferior belongs to "a is worse than b by margin or more"; p_equivalent is the larger of the two one-sided
    p-values. Both come from the bootstrap of `paired_difference`, so p_equivalent < alpha goes with an interval inside
    +-margin. margin: in the unit of the outcomes (0.01 = one percentage point), above 0.
    Raises EdgelibError as `paired_difference`.
    """
    if not margin > 0:
        raise EdgelibError(f"margin must be above 0, in the unit of the outcomes (0.01 = one point), got {margin!r}")
    sums, sizes, typical = _cluster_differences(a, b, cluster)
    draws, _ = _draws(sums, sizes, typical, seed)
    worse, better = (one_sided_p(sign * draws, -margin, len(sizes) + 2) for sign in (1, -1))
    return Equivalence(
        effect=float(sums.sum() / sizes.sum()),
        interval=percentile_interval(draws, 1 - 2 * alpha, len(sizes) + 2),
        margin=float(margin),
        p_non_inferior=worse,
        p_equivalent=max(worse, better),
        n=int(sizes.sum()),
    )


def settled(test, adjusted: float | None = None) -> bool:
    """Return whether the sign of an effect is known: its interval excludes zero, and so does the (adjusted) p value.

    test: a `PairedDifference`, or anything else with interval, p and level.
    """
    low, high = test.interval
    return (low > 0 or high < 0) and (test.p if adjusted is None else adjusted) < 1 - test.level


def holm(p_values) -> np.ndarray:
    """Return Holm's (1979) adjusted p-values, in order; p < alpha keeps the family-wise error at alpha."""
    p = _outcomes(p_values, "p_values")
    if (p < 0).any() or (p > 1).any():
        raise EdgelibError(f"p_values must lie in [0, 1], got {p.min()!r} to {p.max()!r}")
    return multipletests(p, method="holm")[1]
