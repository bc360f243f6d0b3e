"""Runs of one experiment on the same items: long rows -> a checked array, and draws of runs and items together.

A run is one combination of the design's columns, such as mix, size and seed. Every run is scored on every item, so
that differences between runs are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import check_replicates

_CHUNK = 4_000_000  # elements of one block of draws: 32 MB


@dataclass(frozen=True)
class Runs:
    """Outcomes summed per cluster: keys, one row per run; sums [N runs, G clusters]; sizes [G] items per cluster."""

    keys: pd.DataFrame
    sums: np.ndarray
    sizes: np.ndarray

    @property
    def n_items(self) -> int:
        return int(self.sizes.sum())

    @property
    def means(self) -> np.ndarray:
        """Mean outcome per run [N]; rounded so that runs equal on every item are equal here."""
        return np.round(self.sums.sum(axis=1) / self.n_items, 12)


def named(columns: str | Sequence[str], what: str) -> list[str]:
    """Column names as a list, at least one and none twice; raises EdgelibError naming `what`."""
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names or len(set(names)) < len(names):
        raise EdgelibError(f"{what} must name at least one column and none twice, got {names}")
    return names


def check_columns(rows: pd.DataFrame, columns: Sequence[str], numeric: Sequence[str] = ()) -> None:
    """Raise EdgelibError unless the rows exist, have `columns` without holes, and finite numbers in the `numeric`."""
    for column in columns:
        choose(dict.fromkeys(map(str, rows.columns)), column, "column")
        if rows[column].isna().any():
            raise EdgelibError(f"column {column!r} has missing values in {int(rows[column].isna().sum())} rows")
    if len(rows) == 0:
        raise EdgelibError("there are no rows: evaluate at least one run first")
    for column in numeric:
        if not pd.api.types.is_numeric_dtype(rows[column]) and not pd.api.types.is_bool_dtype(rows[column]):
            raise EdgelibError(f"column {column!r} must hold numbers, got {rows[column].dtype}")
        if not np.isfinite(rows[column].to_numpy(float)).all():
            raise EdgelibError(f"column {column!r} holds infinite values; drop those rows")


def run_outcomes(
    rows: pd.DataFrame, by: Sequence[str], response: str = "correct", *, item: str = "item", cluster: str | None = None
) -> Runs:
    """Return the outcomes of long rows as runs, sorted by the columns `by`; rows may come in any order.

    rows: one row per run and item. response: a column of finite numbers (0/1, margin, drift). cluster: the column whose
    ids are resampled (the image, when several items share one), `item` by default.
    Raises EdgelibError for missing columns or values, and naming the first outcome that is missing or repeated.
    """
    by, cluster = named(by, "by"), cluster or item
    check_columns(rows, [*by, item, cluster, response], [response])
    run_codes = rows.groupby(by, sort=True, observed=True).ngroup().to_numpy()
    _, first = np.unique(run_codes, return_index=True)
    keys = rows[by].iloc[first].reset_index(drop=True)
    item_codes, items = pd.factorize(rows[item])
    counts = np.bincount(run_codes * len(items) + item_codes, minlength=len(keys) * len(items))
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        run, place = divmod(int(wrong[0]), len(items))
        raise EdgelibError(
            f"runs must be scored on the same items: item {items[place]!s} occurs {counts[wrong[0]]} times in the run "
            f"{_run_name(keys.iloc[run])} instead of once ({len(wrong)} such places); name every column that tells "
            "runs apart, finish the sweep, or drop that run"
        )
    cluster_codes, clusters = pd.factorize(rows[cluster], sort=True)
    flat, width = run_codes * len(clusters) + cluster_codes, len(keys) * len(clusters)
    counts = np.bincount(flat, minlength=width).reshape(len(keys), -1)
    if (counts != counts[0]).any():
        raise EdgelibError(f"column {cluster!r} must be the same for all outcomes of an item: it is resampled")
    sums = np.bincount(flat, weights=rows[response].to_numpy(float), minlength=width)
    return Runs(keys, sums.reshape(len(keys), -1), counts[0])


def _run_name(key: pd.Series) -> str:
    return ", ".join(f"{column} {value}" for column, value in key.items())


def crossed_draws(
    sums: np.ndarray, sizes: np.ndarray, n_boot: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks (means [b, S, K], weights [b, S]) of a bootstrap that draws clusters and runs independently.

    sums: [S runs, K configs, G clusters]; sizes: [G]. means holds each run's mean outcome over drawn clusters, weights
    the share of each run in the draw; their weighted sum over S is a replicate of Owen's (2007) pigeonhole bootstrap,
    which is slightly conservative. S - 1 of S runs are drawn, because S would make five runs look too much alike by a
    fifth of their variance (Rao and Wu, 1988). Blocks add up to n_boot replicates.
    """
    check_replicates(n_boot)
    runs, configs, clusters = sums.shape
    columns, step = sums.reshape(-1, clusters).T, max(1, _CHUNK // max(clusters, runs * configs))
    for start in range(0, n_boot, step):
        count, taken = min(step, n_boot - start), max(1, runs - 1)
        drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=count).astype(float)
        weights = rng.multinomial(taken, np.full(runs, 1 / runs), size=count) / taken
        yield (drawn @ columns).reshape(count, runs, configs) / (drawn @ sizes)[:, None, None], weights


def crossed_error(run_variance, n_runs: int, cluster_variance, n_clusters: int):
    """Return (standard error, degrees of freedom) of a mean over crossed runs and clusters, arrays or numbers.

    run_variance: that of the mean over runs as the spread of the run means tells it, 0 for one run; cluster_variance:
    that of the mean over clusters. They add up; what runs and clusters share is counted twice, which is conservative.
    Degrees of freedom by Satterthwaite (1946).
    """
    total = run_variance + cluster_variance
    inverse = run_variance**2 / max(n_runs - 1, 1) + cluster_variance**2 / max(n_clusters - 1, 1)
    safe = np.where(inverse > 0, inverse, 1.0)
    return np.sqrt(total), np.where(inverse > 0, total**2 / safe, n_clusters - 1.0)
