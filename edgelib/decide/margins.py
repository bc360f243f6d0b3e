"""How much worse than another a configuration can be: bounds for every pair, and joint draws of all of them.

Whether a configuration keeps a margin depends on which others fit, on the margin and on the criteria, all of which a
reader chooses. So what needs the outcomes is computed once, for every pair and every draw; choosing then compares
numbers (`edgelib.decide.decision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from edgelib.decide.frontier import drawn_means
from edgelib.errors import EdgelibError
from edgelib.stats.paired import REPLICATES, percentile_interval, tost

ALPHA = 0.05


def _means_by_config(table: pd.DataFrame) -> pd.DataFrame:
    """Items by config: the mean over runs."""
    return table.T.groupby(level=0, sort=True).mean().T


def pair_bounds(
    outcomes: Mapping[str, pd.DataFrame],
    *,
    alpha: float = ALPHA,
    cluster=None,
    n_boot: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per criterion and ordered pair: criterion, config, other, effect, low, high, in fractions.

    effect: mean of config minus mean of other. low: the one-sided bound of level 1 - alpha, so that config is shown
    non-inferior by a margin m wherever low > -m; high: the same from above. Both are the wider of two: that of `tost`,
    which is honest where few items differ, and that of a bootstrap of items and runs, which counts the luck of the
    calibration draw. Neither the order nor the number of configurations changes a pair.
    outcomes: {criterion: table of items by (config, run)} in [0, 1].
    Raises EdgelibError for fewer than two configurations, and as `tost`.
    """
    rows = []
    for criterion, table in outcomes.items():
        means = _means_by_config(table)
        if len(means.columns) < 2:
            raise EdgelibError(f"{criterion!r} has one configuration; a comparison needs at least two")
        several = table.columns.get_level_values(0).value_counts() > 1
        draws = drawn_means([table], means.columns, cluster, n_boot, seed)[:, :, 0] if several.any() else None
        items = len(table) if cluster is None else len(np.unique(cluster))
        for (i, a), (j, b) in combinations(enumerate(means.columns), 2):
            first, second = means[a].to_numpy(), means[b].to_numpy()
            test = tost(first, second, 1.0, cluster=cluster, alpha=alpha, seed=seed)
            low, high = test.interval
            if draws is not None and (several[a] or several[b]):
                drawn = percentile_interval(draws[1:, i] - draws[1:, j], 1 - 2 * alpha, items)
                low, high = min(low, drawn[0]), max(high, drawn[1])
            rows.append((criterion, a, b, test.effect, low, high))
            rows.append((criterion, b, a, -test.effect, -high, -low))
    return pd.DataFrame(rows, columns=["criterion", "config", "other", "effect", "low", "high"])


def joint_draws(
    outcomes: Mapping[str, pd.DataFrame], *, cluster=None, n_boot: int = 400, seed: int = 0
) -> dict[str, dict[str, list[float]]]:
    """Return {criterion: {config: [mean of each draw]}}: items and calibration runs drawn anew, for all alike.

    Draw b is the same images and runs for every configuration and criterion, so draws may be compared one by one.
    """
    tables = list(outcomes.values())
    configs = pd.Index(sorted(set(tables[0].columns.get_level_values(0))))
    draws = drawn_means(tables, configs, cluster, n_boot, seed)[1:]
    return {
        criterion: {config: draws[:, k, c].tolist() for k, config in enumerate(configs)}
        for c, criterion in enumerate(outcomes)
    }


def means_table(outcomes: Mapping[str, pd.DataFrame], *, level: float = 0.95, cluster=None, n_boot=REPLICATES, seed=0):
    """Return a row per config and criterion: config, criterion, value, low, high, in fractions.

    Intervals are bootstrap intervals over items and runs.
    """
    tables = list(outcomes.values())
    configs = pd.Index(sorted(set(tables[0].columns.get_level_values(0))))
    draws = drawn_means(tables, configs, cluster, n_boot, seed)
    items = len(tables[0]) if cluster is None else len(np.unique(cluster))
    rows = [
        (config, criterion, draws[0, k, c], *percentile_interval(draws[1:, k, c], level, items))
        for c, criterion in enumerate(outcomes)
        for k, config in enumerate(configs)
    ]
    return pd.DataFrame(rows, columns=["config", "criterion", "value", "low", "high"])
