"""Scores that are functions of item means (F1, benchmark totals): cluster bootstrap intervals and paired differences.

A score of a data set is no mean of item scores, so its standard error is not that of a proportion. The bootstrap draws
whole clusters (images) with replacement and computes the score of each draw. Near a ceiling the data may hold no error
at all, and draws of them none either; therefore the drawn pool gains a few pseudo-items, right ones and wrong ones (the
"plus four" of Agresti and Coull, 1998). The score itself is that of the data alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.stats.paired import (
    FLIPS,
    REPLICATES,
    PairedDifference,
    cluster_codes,
    minimum_detectable_effect,
    percentile_interval,
    replicates,
    rng_for,
)


def _pool(columns, cluster) -> tuple[np.ndarray, np.ndarray]:
    """(kinds of cluster [M, K + 1]: sums of the item columns [n, K] and items; how many clusters are of each kind)."""
    columns = np.asarray(columns, dtype=float)
    codes = cluster_codes(cluster, len(columns))
    sums = np.column_stack([np.bincount(codes, weights=column) for column in columns.T])
    # Rounded because the order in which graded outcomes are added shows in the last digits.
    return np.unique(np.column_stack([np.round(sums, 12), np.bincount(codes)]), axis=0, return_counts=True)


def bootstrap_means(columns, cluster, pseudo, n_boot: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return (means [1 + n_boot, K] of item columns [n, K], number of clusters); row 0: the data, the others redrawn.

    cluster: one id per item, or None; pseudo: items [P, K] that join the redrawn pool, each a cluster of its own.
    The draws depend neither on the order of the items nor on the names of the clusters.
    Raises EdgelibError for cluster ids that are missing or do not match the items, and for n_boot below 100.
    """
    kinds, counts = _pool(columns, cluster)
    pseudo = np.column_stack([np.asarray(pseudo, dtype=float), np.ones(len(pseudo))])
    pool, many = np.vstack([kinds, pseudo]), np.append(counts, np.ones(len(pseudo), dtype=int))
    means, _ = replicates(pool[:, :-1], pool[:, -1], n_boot, rng, many)
    data = counts @ kinds
    means[0] = data[:-1] / data[-1]
    return means, int(counts.sum())


def interval_table(draws: Mapping[str, np.ndarray], clusters: int, level: float) -> pd.DataFrame:
    """Return one row per score: score, value (entry 0 of its draws [1 + B]), low, high and the number of clusters."""
    rows = []
    for name, values in draws.items():
        low, high = percentile_interval(values[1:], level, clusters)
        rows.append(dict(score=name, value=float(values[0]), low=low, high=high, n_clusters=clusters))
    return pd.DataFrame(rows)


def mean_interval(
    worth: pd.DataFrame,
    cluster,
    address: str,
    score: str = "accuracy",
    *,
    level: float = 0.95,
    n_boot: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row (score, value, low, high, n_clusters, n, unparsed) with the interval of a mean of answers' scores.

    worth: columns score in [0, 1] and parsed, one row an answer. address: of the draws, beside the seed. Percentile
    bootstrap over clusters, with a right and a wrong pseudo-item in the pool.
    Raises EdgelibError for no answers, and as `bootstrap_means`.
    """
    if not len(worth):
        raise EdgelibError("there are no answers to score; give at least one")
    means, clusters = bootstrap_means(worth[["score"]], cluster, [[0], [1]], n_boot, rng_for(seed, address))
    table = interval_table({score: means[:, 0]}, clusters, level)
    return table.assign(n=len(worth), unparsed=int((~worth["parsed"]).sum()))


def swap_p(a, b, cluster, score, rng: np.random.Generator) -> float:
    """Return the two-sided p-value of "a and b are exchangeable within each cluster", from 9,999 random swaps.

    a, b: item columns [n, K]; score: means [..., K] -> [...]. The statistic is score(a) - score(b), and the clusters
    of which the two are swapped are drawn at random. The smallest value is 0.0001.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    kinds, counts = _pool(np.hstack([a, b]), cluster)
    first, second = np.split(kinds[:, :-1], 2, axis=1)
    swaps = np.vstack([np.zeros(len(counts), dtype=int), rng.binomial(counts, 0.5, size=(FLIPS, len(counts)))])
    items = counts @ kinds[:, -1]
    swapped = [(swaps @ x + (counts - swaps) @ y) / items for x, y in ((second, first), (first, second))]
    values = np.abs(score(swapped[0]) - score(swapped[1]))
    return float((values >= values[0] - 1e-9).mean())


def difference(draws, p: float, n: int, clusters: int, level: float) -> PairedDifference:
    """Return the test object of a score difference from its paired draws [1 + B], entry 0 the data, and its p-value.

    mde = (z[1 - a/2] + z[0.8]) * se, se the standard deviation of the draws.
    """
    return PairedDifference(
        effect=float(draws[0]),
        interval=percentile_interval(draws[1:], level, clusters),
        p=p,
        n=n,
        mde=minimum_detectable_effect(float(draws[1:].std()), level),
        n_clusters=clusters,
        level=level,
    )
