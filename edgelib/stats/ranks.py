"""Does the ranking of configurations survive another calibration seed, and which of them ranks first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats.paired import REPLICATES, check_level, check_replicates, percentile_interval, rng_for
from edgelib.stats.runs import crossed_draws, crossed_error, named, run_outcomes


@dataclass(frozen=True)
class RankStability:
    """Agreement of the rankings that n_runs runs give n_configs configurations; `interval` belongs to tau.

    tau: mean tau-b over all pairs of runs. w: Kendall's coefficient of concordance. Both are 1 for equal rankings and
    near 0 for unrelated ones; NaN where fewer than two runs rank anything.
    """

    tau: float
    interval: tuple[float, float]
    w: float
    n_runs: int
    n_configs: int
    level: float


def _scores(scores) -> np.ndarray:
    """Scores [R, K] as an array, rounded so that outcomes equal but for the order of summing are ties."""
    try:
        array = np.round(np.asarray(scores, dtype=float), 12)
    except (TypeError, ValueError) as error:
        raise EdgelibError("scores must be a table of numbers, one row per run, one column per config") from error
    if array.ndim != 2 or min(array.shape) < 2:
        raise EdgelibError(f"scores need at least two runs (rows) of two configs (columns), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise EdgelibError("scores must be finite and complete: every run scores every config")
    return array


def kendall_w(scores) -> float:
    """Return Kendall's coefficient of concordance of scores [R runs, K configs], in [0, 1], corrected for ties.

    W = 12 S / (R^2 (K^3 - K) - R sum_r T_r), S the sum of squared deviations of the rank sums from their mean and T_r =
    sum (t^3 - t) over the groups of t tied configs in run r. Kendall and Babington Smith (1939). NaN where every run
    ties all configs. Raises EdgelibError for fewer than two runs or configs and for missing scores.
    """
    ranks = stats.rankdata(_scores(scores), axis=1)
    runs, configs = ranks.shape
    tied = sum((count**3 - count).sum() for count in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = runs**2 * (configs**3 - configs) - runs * tied
    return float(12 * ((ranks.sum(axis=0) - ranks.sum() / configs) ** 2).sum() / most) if most else np.nan


def tau_matrix(scores) -> np.ndarray:
    """Return tau-b [R, R] (Kendall, 1945) between the runs of scores [R, K]; NaN for a run that ties all configs."""
    scores = _scores(scores)
    first, second = np.triu_indices(scores.shape[1], 1)
    signs = np.sign(scores[:, first] - scores[:, second])
    untied = (signs**2).sum(axis=1)
    both = np.outer(untied, untied)
    return signs @ signs.T / np.sqrt(np.where(both > 0, both, np.nan))


def rank_stability(scores, *, n_boot: int = REPLICATES, level: float = 0.95, seed: int = 0) -> RankStability:
    """Return how far the runs of scores [R runs, K configs] (array or table) agree on the ranking of the configs.

    Runs that tie all configs rank nothing and do not count. interval: percentile bootstrap over runs. A run drawn twice
    agrees with itself, which would count as stability, so a replicate is the mean over pairs of different runs, and
    replicates that drew one run only are dropped. The one pair of two runs has no spread to draw from: its interval is
    the whole range. It speaks about new runs on the same images.
    Raises EdgelibError as `kendall_w`.
    """
    scores, level, n_boot = _scores(scores), check_level(level), check_replicates(n_boot)
    tau = tau_matrix(scores)
    ranked = np.flatnonzero(~np.isnan(np.diag(tau)))
    tau, runs = tau[np.ix_(ranked, ranked)], len(ranked)
    mean, w, interval = np.nan, np.nan, (-1.0, 1.0)
    if runs > 1:
        w = kendall_w(scores[ranked])
        np.fill_diagonal(tau, 0)
        mean = float(tau.sum() / (runs * (runs - 1)))
    if runs > 2:
        weights = rng_for(seed, "rank stability").multinomial(runs, np.full(runs, 1 / runs), size=n_boot)
        pairs = runs**2 - (weights**2).sum(axis=1)
        draws = ((weights @ tau) * weights).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
        low, high = percentile_interval(draws, level, runs)
        interval = (max(low, -1.0), min(high, 1.0))
    return RankStability(mean, interval, w, runs, scores.shape[1], level)


def run_scores(
    rows: pd.DataFrame,
    run: str | Sequence[str] = ("mix", "size", "seed"),
    config: str = "config",
    response: str = "correct",
    *,
    item: str = "item",
) -> pd.DataFrame:
    """Return the mean response as a table, one row per run and one column per config, for `rank_stability`.

    Raises EdgelibError as `run_outcomes`, and for a run that lacks a config.
    """
    scores, *_ = _cube(rows, named(run, "run"), config, response, item, None)
    return scores


def _cube(rows, run, config, response, item, cluster):
    """(mean [runs x configs] as a table, sums [S, K, G], sizes [G]), complete."""
    runs = run_outcomes(rows, [*run, config], response, item=item, cluster=cluster)
    scores = runs.keys.assign(mean=runs.means).pivot(index=run, columns=config, values="mean")
    if scores.isna().to_numpy().any():
        where, which = np.argwhere(scores.isna().to_numpy())[0]
        at = ", ".join(f"{k} {v}" for k, v in zip(run, np.atleast_1d(scores.index[where]), strict=True))
        raise EdgelibError(
            f"to be ranked, every config needs the same runs: {scores.columns[which]!r} was not run at {at}; finish "
            "the sweep, or drop that config or run"
        )
    # Keys are sorted by run and then config, as the pivot is.
    return scores, runs.sums.reshape(*scores.shape, -1), runs.sizes


def rank_table(
    rows: pd.DataFrame,
    run: str | Sequence[str] = ("mix", "size", "seed"),
    config: str = "config",
    response: str = "correct",
    *,
    item: str = "item",
    cluster: str | None = None,
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per config, best first: its name, mean, low, high, rank, p_first, p_first_once, n_runs, n_items.

    rows: one per run, config and item; higher response is better. run: the columns that tell runs apart.
    mean: over runs and items, with its t interval low to high (`runs.crossed_error`). rank: mean rank over the runs as
    observed, 1 is best, ties share. p_first: how often the config has the highest mean when runs and items are drawn
    anew, both at once and for all configs alike (bootstrap, `runs.crossed_draws`). p_first_once: the same for a single
    run, drawn with the items: the chance that the config is the best one for somebody who calibrates once. Configs that
    tie split the first place.
    Raises EdgelibError as `run_scores`.
    """
    run, level = named(run, "run"), check_level(level)
    scores, sums, sizes = _cube(rows, run, config, response, item, cluster)
    first, once, done = 0, 0, 0
    for accuracy, weights in crossed_draws(sums, sizes, n_boot, rng_for(seed, "ranks")):
        blocks = len(accuracy)
        first = first + _split_firsts(np.einsum("bs,bsk->bk", weights, accuracy)).sum(axis=0)
        # In turn instead of at random: every run then counts alike.
        once = once + _split_firsts(accuracy[np.arange(blocks), (done + np.arange(blocks)) % len(scores)]).sum(axis=0)
        done += blocks
    values = scores.to_numpy()
    mean, half = values.mean(axis=0), _half_width(values, sums, sizes, level)
    ranks = stats.rankdata(-values, axis=1).mean(axis=0)
    table = pd.DataFrame(
        dict(
            mean=mean,
            low=mean - half,
            high=mean + half,
            rank=ranks,
            p_first=first / done,
            p_first_once=once / done,
            n_runs=len(scores),
            n_items=int(sizes.sum()),
        )
    )
    table.insert(0, config, scores.columns.to_numpy())
    return table.sort_values(["mean", config], ascending=[False, True], ignore_index=True)


def _half_width(values: np.ndarray, sums: np.ndarray, sizes: np.ndarray, level: float) -> np.ndarray:
    """Half the width of the t interval of each config's mean [K] over runs (values [S, K]) and clusters."""
    clusters, runs = len(sizes), len(values)
    residual = sums.mean(axis=0) - values.mean(axis=0)[:, None] * sizes
    cluster_variance = (residual**2).sum(axis=1) / sizes.sum() ** 2 * clusters / max(clusters - 1, 1)
    run_variance = values.var(axis=0, ddof=1) / runs if runs > 1 else np.zeros(values.shape[1])
    error, df = crossed_error(run_variance, runs, cluster_variance, clusters)
    return stats.t.isf((1 - level) / 2, df) * error if clusters > 1 else np.full(len(error), np.inf)


def _split_firsts(means: np.ndarray) -> np.ndarray:
    """Share of the first place per config [B, K]; rows add up to 1."""
    first = np.round(means, 12) == np.round(means, 12).max(axis=1, keepdims=True)
    return first / first.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class RankAgreement:
    """How far two rankings of the same configs agree: Spearman's rho and Kendall's tau-b with their intervals.

    within: of the pairs of configs that compete, the share that both rankings order alike, with its interval.
    NaN where there is nothing to compare.
    """

    rho: float
    rho_interval: tuple[float, float]
    tau: float
    tau_interval: tuple[float, float]
    within: float
    within_interval: tuple[float, float]
    n_pairs: int


def rank_agreement(
    one, other, groups: Sequence[object], *, n_boot: int = REPLICATES, level: float = 0.95, seed: int = 0
) -> RankAgreement:
    """Return how far two experiments rank K configs alike, of outcomes one [I, K] and other [J, K] on their own items.

    groups: of each config the group whose members compete with each other. The rankings are those of the columns'
    means. Intervals: percentile bootstrap that draws the items of both experiments and the configs anew, whole groups
    at a time, as what a method of another group would do is what one wants to know; configs drawn twice count once for
    each. Replicates whose rankings have no spread widen both ends.
    Raises EdgelibError for fewer than two items or configs, shapes that do not fit, and values that are not finite.
    """
    one, other = (np.asarray(table, dtype=float) for table in (one, other))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or len(groups) != one.shape[1]:
        raise EdgelibError(
            f"both tables need one column per config and groups one entry each, got {one.shape}, {other.shape} and "
            f"{len(groups)}"
        )
    if min(len(one), len(other), one.shape[1]) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise EdgelibError("rankings need two items and two configs at least, and finite outcomes")
    level, n_boot, rng = check_level(level), check_replicates(n_boot), rng_for(seed, "rank agreement")
    names = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    members = [np.flatnonzero(names == group) for group in range(names.max() + 1)]
    draws = np.empty((n_boot, 3))
    for replicate in range(n_boot):
        a, b = (table[rng.integers(len(table), size=len(table))].mean(axis=0) for table in (one, other))
        chosen = [members[g] for g in rng.integers(len(members), size=len(members))]
        draws[replicate] = _agreement(a, b, chosen)
    observed = _agreement(one.mean(axis=0), other.mean(axis=0), members)
    bounds = [_bounded(draws[:, i], level, len(members), low) for i, low in enumerate((-1.0, -1.0, 0.0))]
    pairs = sum(len(own) * (len(own) - 1) // 2 for own in members)
    return RankAgreement(observed[0], bounds[0], observed[1], bounds[1], observed[2], bounds[2], pairs)


def _bounded(draws: np.ndarray, level: float, n: int, least: float) -> tuple[float, float]:
    low, high = percentile_interval(draws, level, n)
    return max(low, least), min(high, 1.0)


def _agreement(one: np.ndarray, other: np.ndarray, members: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """(rho, tau-b, share of pairs within groups that are ordered alike) of the configs of some groups."""
    chosen = np.concatenate(members)
    a, b = one[chosen], other[chosen]
    rho = tau = np.nan
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        rho, tau = float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic)
    alike, pairs = 0.0, 0
    for own in members:
        first, second = np.triu_indices(len(own), 1)
        signs = [np.sign(table[own[first]] - table[own[second]]) for table in (one, other)]
        alike, pairs = alike + float((signs[0] == signs[1]).sum()), pairs + len(first)
    return rho, tau, alike / pairs if pairs else np.nan
