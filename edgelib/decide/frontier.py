"""How sure a frontier is: membership, knee and size under a bootstrap of items and of runs.

A configuration's accuracy varies with the images that happen to be scored and, where a method looks at calibration
images, with that draw. Both are drawn anew together: images for all configurations alike, calibration draws likewise.
Costs are known (bytes), or known up to a factor of their own (a projected latency). A factor that all configurations
of a device share changes none of the answers here, so only what differs between them counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.decide.dominance import non_dominated
from edgelib.errors import EdgelibError
from edgelib.stats.metrics import fractions
from edgelib.stats.paired import REPLICATES, check_level, percentile_interval, replicates, rng_for

_CHUNK = 4_000_000  # comparisons of one block of draws
_VOLUMES = 400  # draws behind the interval of the hypervolume, the one number here that takes time


@dataclass(frozen=True)
class Frontier:
    """A frontier with its uncertainty.

    table: one row per config: each criterion with <criterion>_low and _high, each cost, on_frontier, probability of
    being on it, regret with regret_low and regret_high, knee (probability of having the least regret).
    n_runs: most runs that a config has. hypervolume: share of the box between the reference and the ideal point that
    the frontier dominates, with its interval.
    """

    table: pd.DataFrame
    hypervolume: float
    hypervolume_interval: tuple[float, float]
    n_items: int
    n_runs: int
    level: float


def _checked(outcomes: Mapping[str, pd.DataFrame], costs: pd.DataFrame) -> None:
    if not isinstance(costs, pd.DataFrame) or len(costs) == 0 or len(costs.columns) == 0 or not costs.index.is_unique:
        raise EdgelibError("costs must be a table with one row per config (its index) and at least one column")
    for column in costs.columns:
        bad = ~np.isfinite(costs[column].to_numpy(dtype=float, na_value=np.nan))
        if bad.any():
            raise EdgelibError(
                f"cost {column!r} is missing (NaN) or infinite for {costs.index[bad.argmax()]!r}; "
                "measure it or drop the config"
            )
    if not isinstance(outcomes, Mapping) or not outcomes:
        raise EdgelibError("outcomes must be a dict {criterion: table of items by (config, run)}")
    first = next(iter(outcomes.values()))
    for name, table in outcomes.items():
        if not isinstance(table, pd.DataFrame) or table.columns.nlevels != 2 or not table.columns.is_unique:
            raise EdgelibError(f"outcomes of {name!r} must be a table whose columns are pairs (config, run), once each")
        if name in costs.columns:
            raise EdgelibError(f"{name!r} is both a criterion and a cost; rename one")
        if set(table.columns.get_level_values(0)) != set(costs.index):
            unmatched = set(table.columns.get_level_values(0)) ^ set(costs.index)
            raise EdgelibError(
                f"outcomes of {name!r} and costs must have the same configs; only one has "
                f"{', '.join(sorted(map(str, unmatched)))}"
            )
        if not table.index.is_unique or set(table.index) != set(first.index):
            raise EdgelibError(f"the criteria must have the same items, once each; {name!r} has others or repeats some")
        fractions(table.to_numpy(dtype=float, na_value=np.nan), f"outcomes of {name!r}")


def drawn_means(tables: list[pd.DataFrame], configs: pd.Index, cluster, n_boot: int, seed: int) -> np.ndarray:
    """Return [1 + B, K, C] means per config and criterion; row 0 is the data, the others redraw clusters and runs.

    tables: items by (config, run) of each criterion. Of S runs S - 1 are drawn, as `runs.crossed_draws` does and why; a
    config with one run keeps it in every draw.
    """
    sums, sizes = [], None
    codes = np.arange(len(tables[0])) if cluster is None else pd.factorize(np.asarray(cluster))[0]
    for table in tables:
        summed = table.loc[tables[0].index].astype(float).groupby(codes).sum()
        sums.append(summed.to_numpy())
        sizes = np.bincount(codes)
    means, _ = replicates(np.hstack(sums), sizes, n_boot, rng_for(seed, "frontier items"))
    taken = _taken(tables, n_boot, seed)
    result = np.empty((1 + n_boot, len(configs), len(tables)))
    start = 0
    for c, table in enumerate(tables):
        own = means[:, start : start + table.shape[1]]
        start += table.shape[1]
        for k, config in enumerate(configs):
            here = np.flatnonzero(table.columns.get_level_values(0) == config)
            own_runs = table.columns.get_level_values(1)[here]
            share = np.column_stack([taken.get(run, np.ones(1 + n_boot)) for run in own_runs])
            share[share.sum(axis=1) == 0] = 1  # none of this config's runs was drawn: all of them stand in
            result[:, k, c] = (own[:, here] * share).sum(axis=1) / share.sum(axis=1)
    return np.round(result, 12)  # sums in another order are no difference


def _taken(tables: list[pd.DataFrame], n_boot: int, seed: int) -> dict[object, np.ndarray]:
    """{run: how often each draw takes it [1 + B]} for the runs of configs that have several; row 0 takes each once."""
    configs = [table.columns.get_level_values(0) for table in tables]
    several = [table.columns[names.duplicated(keep=False)] for table, names in zip(tables, configs, strict=True)]
    runs = sorted({run for columns in several for _, run in columns}, key=str)
    if not runs:
        return {}
    drawn = max(1, len(runs) - 1)
    counts = rng_for(seed, "frontier runs").multinomial(drawn, np.full(len(runs), 1 / len(runs)), size=n_boot)
    return dict(zip(runs, np.vstack([np.ones(len(runs)), counts]).T, strict=True))


def _fronts(values: np.ndarray) -> np.ndarray:
    """[B, K] whether no config dominates config k in draw b; values [B, K, D], higher is better."""
    found: list[np.ndarray] = []
    step = max(1, _CHUNK // (values.shape[1] ** 2 * values.shape[2]))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        by, of = part[:, :, None], part[:, None]
        dominates = np.asarray((by >= of).all(axis=3) & (by > of).any(axis=3))
        found.append(~np.asarray(dominates.any(axis=1)))
    return np.concatenate(found)


def _regrets(values: np.ndarray, fronts: np.ndarray) -> np.ndarray:
    """[B, K] the largest loss against the best on the frontier of the draw, as a share of that frontier's range.

    Where all of the frontier is equal, the range is that of all configs.
    """
    on = np.where(fronts[..., None], values, np.nan)
    best, worst = np.nanmax(on, axis=1, keepdims=True), np.nanmin(on, axis=1, keepdims=True)
    span = np.where(best > worst, best - worst, best - values.min(axis=1, keepdims=True))
    return ((best - values) / np.where(span > 0, span, 1)).max(axis=2)


def hypervolume(values, reference) -> float:
    """Return the volume that rows of values [n, d] dominate above a reference point [d]; higher is better everywhere.

    Rows that do not exceed the reference everywhere add nothing. Zitzler and Thiele (1998), by slicing on the last
    criterion, exact; meant for tens of rows. Raises EdgelibError for NaN and for shapes that do not match.
    """
    values, reference = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if values.ndim != 2 or reference.shape != values.shape[1:] or np.isnan(values).any() or np.isnan(reference).any():
        raise EdgelibError(
            f"hypervolume needs numbers [n, d] and a reference [d], got {values.shape}, {reference.shape}"
        )
    return _volume(np.maximum(values - reference, 0))


def _volume(above: np.ndarray) -> float:
    above = above[(above > 0).all(axis=1)]
    if len(above) == 0:
        return 0.0
    if above.shape[1] == 1:
        return float(above.max())
    above = above[non_dominated(above)]
    above = above[np.argsort(-above[:, -1])]
    depth = above[:, -1] - np.append(above[1:, -1], 0.0)
    return sum(_volume(above[: i + 1, :-1]) * d for i, d in enumerate(depth) if d > 0)


def _share(values: np.ndarray, front: np.ndarray) -> float:
    """The share of the box between the worst and the best values of a draw that its frontier dominates."""
    worst, best = values.min(axis=0), values.max(axis=0)
    # The box is closed by a margin, or the rows at its faces would have no volume.
    scaled = (values[front] - worst) / np.where(best > worst, best - worst, 1)
    full = np.where(best > worst, 1.1, 0.1)
    return hypervolume(scaled, np.full(len(worst), -0.1)) / float(full.prod())


def uncertain_frontier(
    outcomes: Mapping[str, pd.DataFrame],
    costs: pd.DataFrame,
    *,
    cost_spread: Mapping[str, float] | None = None,
    cluster=None,
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Return the frontier of configurations with the probability of being on it, its knee, regret and hypervolume.

    outcomes: {criterion: table of items by (config, run)} in [0, 1], maximised; a config that no run varies has one.
    costs: numbers per config (index), minimised. cost_spread: {cost: standard deviation of its logarithm, independent
    per config}, for costs that are projected. cluster: one id per item of the first table, when items share images.
    The box of the hypervolume spans the worst and best values of the configs of each draw.
    Raises EdgelibError for configs or items that do not match, outcomes outside [0, 1], and NaN or infinite costs.
    """
    _checked(outcomes, costs)
    configs, tables = costs.index, list(outcomes.values())
    means = drawn_means(tables, configs, cluster, n_boot, seed)
    fixed = -np.broadcast_to(costs.to_numpy(float), (len(means), *costs.shape)).copy()
    for column, spread in (cost_spread or {}).items():
        if column not in costs.columns or not spread >= 0:
            raise EdgelibError(
                f"cost_spread needs a cost of the table and a number of at least 0: {column!r}: {spread!r}"
            )
        noise = rng_for(seed, "frontier cost", column).normal(0, spread, (len(means) - 1, len(configs)))
        fixed[1:, :, costs.columns.get_loc(column)] *= np.exp(noise)
    values = np.concatenate([means, fixed], axis=2)
    on_front = _fronts(values)
    regret = _regrets(values, on_front)
    least = (regret == np.where(on_front, regret, np.inf).min(axis=1, keepdims=True)) & on_front
    volumes = np.array([_share(draw, front) for draw, front in zip(values[: 1 + _VOLUMES], on_front, strict=False)])
    table = costs.copy()
    items = len(np.unique(cluster)) if cluster is not None else len(tables[0])
    for c, name in enumerate(outcomes):
        table[name] = means[0, :, c]
        ends = [percentile_interval(means[1:, k, c], level, items) for k in range(len(configs))]
        table[f"{name}_low"], table[f"{name}_high"] = zip(*ends, strict=True)
    tail = (1 - check_level(level)) / 2
    table["on_frontier"], table["probability"] = on_front[0], on_front[1:].mean(axis=0)
    table["regret"], table["knee"] = regret[0], (least[1:] / least[1:].sum(axis=1, keepdims=True)).mean(axis=0)
    table["regret_low"], table["regret_high"] = np.quantile(regret[1:], [tail, 1 - tail], axis=0)
    runs = max(int(t.columns.get_level_values(0).value_counts().max()) for t in tables)
    low, high = map(float, np.quantile(volumes[1:], [tail, 1 - tail]))
    return Frontier(table, float(volumes[0]), (low, high), items, runs, level)
