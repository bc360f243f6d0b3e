"""A label-free predictor of the accuracy drop: can activation statistics rank runs that nobody has labels for?

Rank regression (Iman and Conover, 1979): each feature becomes its rank among the training rows, which takes the unit,
the skew and the extrapolation out of it; a ridge regression on these ranks predicts the drop in its own unit. Groups
(a config, a twin, a mix) are predicted by what the other groups taught, never by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats.paired import REPLICATES, check_level, check_replicates, holm, percentile_interval, rng_for
from edgelib.stats.runs import check_columns, named

_BLOCK = 500  # permutations ranked at once


@dataclass(frozen=True)
class Prediction:
    """How well left-out groups were predicted: `spearman` between predicted and observed over all n runs.

    interval: bootstrap over groups. p: permutation, one-sided. within: mean over groups of the rank correlation inside
    one group. error: mean absolute error in the unit of the response; error_blind: that of the other groups' mean.
    runs: group, observed and predicted per run. features: what each feature alone is worth, one row each: feature,
    spearman with the response, low, high, p (two-sided, permutation) and p_holm.
    """

    spearman: float
    interval: tuple[float, float]
    p: float
    within: float
    error: float
    error_blind: float
    n: int
    n_groups: int
    group: str
    level: float
    runs: pd.DataFrame
    features: pd.DataFrame


def spearman(a, b, weights=None) -> np.ndarray:
    """Return the rank correlation of a [n] with b [n], in [-1, 1]; NaN where either is constant. Spearman (1904).

    weights [B, n]: how often each row counts, as in a bootstrap; returns [B], each what the repeated rows would give.
    """
    weights = np.ones((1, len(a))) if weights is None else weights
    left, right = _weighted_ranks(a, weights), _weighted_ranks(b, weights)
    total = weights.sum(axis=1, keepdims=True)
    left, right = (r - (weights * r).sum(axis=1, keepdims=True) / total for r in (left, right))
    spread = (weights * left**2).sum(axis=1) * (weights * right**2).sum(axis=1)
    return (weights * left * right).sum(axis=1) / np.sqrt(np.where(spread > 1e-9, spread, np.nan))


def _weighted_ranks(x, weights: np.ndarray) -> np.ndarray:
    """Mean ranks [B, n] of x [n] when row i occurs weights[b, i] times."""
    values, codes = np.unique(np.asarray(x, dtype=float), return_inverse=True)
    counts = weights @ np.eye(len(values))[codes]
    return (counts.cumsum(axis=1) - counts / 2 + 0.5)[:, codes]


def _rank_among(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Share of the training values [m] below each x [n], ties half; in [0, 1]."""
    ordered = np.sort(train)
    return (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2 * len(train))


def out_of_group_smoother(features: np.ndarray, groups: np.ndarray, ridge: float = 0.1) -> np.ndarray:
    """Return H [n, n] such that H y predicts each row of y [n] from the rows of the other groups; rows sum to 1.

    features: [n, F]; groups: codes [n]. H is zero between rows of one group: no outcome of a group reaches its own
    prediction. Ridge on ranks standardised over the training rows with penalty ridge * rows; a feature that is
    constant there has no say.
    """
    smoother = np.zeros((len(groups), len(groups)))
    for group in np.unique(groups):
        held, train = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        ranks = np.stack([_rank_among(x[train], x) for x in features.T], axis=1)
        centre, spread = ranks[train].mean(axis=0), ranks[train].std(axis=0)
        z = (ranks - centre) * np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-12)
        normal = z[train].T @ z[train] + ridge * len(train) * np.eye(z.shape[1])
        smoother[np.ix_(held, train)] = z[held] @ np.linalg.solve(normal, z[train].T) + 1 / len(train)
    return smoother


def _permutations(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers [count, n]: rows shuffled inside their groups, and whole groups swapped with others of their size."""
    sizes = np.bincount(groups)
    shuffled = np.empty((count, len(groups)), dtype=np.int64)
    for size in np.unique(sizes):
        blocks = np.stack([np.flatnonzero(groups == g) for g in np.flatnonzero(sizes == size)])
        order = rng.permuted(np.tile(np.arange(len(blocks)), (count, 1)), axis=1)
        moved = rng.permuted(blocks[order].reshape(-1, size), axis=1)
        shuffled[:, blocks.ravel()] = moved.reshape(count, -1)
    return shuffled


def _p(observed: float, draws: np.ndarray) -> float:
    """Share of permuted values at or above the observed one, which counts itself; an undefined one counts as above."""
    return float((1 + (~(draws < observed - 1e-12)).sum()) / (1 + len(draws)))


def drop_predictor(
    table: pd.DataFrame,
    features: str | Sequence[str],
    response: str = "drop",
    group: str = "config",
    *,
    ridge: float = 0.1,
    n_boot: int = REPLICATES,
    n_permutations: int = REPLICATES - 1,
    level: float = 0.95,
    seed: int = 0,
) -> Prediction:
    """Predict the response (accuracy drop) of each group of runs from the other groups' features and drops.

    table: one row per run. features: numeric columns computed without labels, such as the distance between the
    activation moments of calibration and deployment images, relative output error, mean drift, saturated share.
    group: the column that is left out: name what will be new to the user of the predictor (config, twin, mix).
    - spearman: of predicted with observed drops over all runs. Where the features say nothing, the prediction of a
      group is the mean of the others, so that groups that differ push it below 0, never above.
    - interval: percentile bootstrap over groups of the predictions as they are.
    - p: share of permutations of the observed drops that predict themselves as well. Rows are shuffled inside their
      group and groups of equal size swapped as blocks, so that rows of a group are not counted as independent: a
      feature that is constant inside groups has only as much evidence as there are groups.
    Where all runs have the same drop, correlations are NaN and p is 1; a constant feature has no say.
    Raises EdgelibError for missing columns, holes and fewer than three groups.
    """
    features, level = named(features, "features"), check_level(level)
    check_replicates(n_boot)
    check_replicates(n_permutations, "n_permutations")
    if not ridge > 0:
        raise EdgelibError(f"ridge must be above 0 (0.1 shrinks a lone feature by a tenth), got {ridge!r}")
    table, groups, names = _prepared(table, features, response, group)
    observed = table[response].to_numpy(float)
    smoother = out_of_group_smoother(table[features].to_numpy(float), groups, ridge)
    predicted = smoother @ observed
    effect = float(spearman(predicted, observed)[0])
    rng = rng_for(seed, "drop predictor")
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_boot).astype(float)[:, groups]
    shuffled = observed[_permutations(groups, n_permutations, rng)]
    by_chance = [_rowwise_spearman(block @ smoother.T, block) for block in np.split(shuffled, _cuts(len(shuffled)))]
    blind = np.array([observed[groups != g].mean() for g in range(len(names))])[groups]
    inside = [spearman(predicted[groups == g], observed[groups == g])[0] for g in range(len(names))]
    return Prediction(
        spearman=effect,
        interval=_interval(spearman(predicted, observed, weights), level, len(names)),
        p=_p(effect, np.concatenate(by_chance)),
        within=float(np.nanmean(inside)) if np.isfinite(inside).any() else np.nan,
        error=float(np.abs(predicted - observed).mean()),
        error_blind=float(np.abs(blind - observed).mean()),
        n=len(table),
        n_groups=len(names),
        group=group,
        level=level,
        runs=pd.DataFrame(dict(group=names[groups], observed=observed, predicted=predicted)),
        features=_feature_rows(table, features, observed, weights, shuffled, level, len(names)),
    )


def _prepared(table, features, response, group):
    """(table in an order set by its values, group codes [n], group names), checked."""
    check_columns(table, [*features, response, group], [*features, response])
    if response in features:
        raise EdgelibError(f"the response {response!r} cannot be one of the features that predict it")
    table = table.sort_values([group, response, *features], ignore_index=True)
    groups, names = pd.factorize(table[group])
    if len(names) < 3:
        raise EdgelibError(f"leaving out one {group!r} at a time needs at least three of them, got {list(names)}")
    return table, groups, np.asarray(names)


def _cuts(rows: int) -> np.ndarray:
    return np.arange(_BLOCK, rows, _BLOCK)


def _rowwise_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of a [P, n] with the same row of b."""
    a, b = (stats.rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (a, b))
    spread = (a**2).sum(axis=1) * (b**2).sum(axis=1)
    return (a * b).sum(axis=1) / np.sqrt(np.where(spread > 0, spread, np.nan))


def _interval(draws: np.ndarray, level: float, n: int) -> tuple[float, float]:
    low, high = percentile_interval(draws, level, n)
    return max(low, -1.0), min(high, 1.0)


def _feature_rows(table, features, observed, weights, shuffled, level, n_groups) -> pd.DataFrame:
    """The table `Prediction.features`."""
    rows = []
    for feature in features:
        x = table[feature].to_numpy(float)
        effect = float(spearman(x, observed)[0])
        low, high = _interval(spearman(x, observed, weights), level, n_groups)
        by_chance = np.abs(_rowwise_spearman(np.broadcast_to(x, shuffled.shape), shuffled))
        rows.append(dict(feature=feature, spearman=effect, low=low, high=high, p=_p(abs(effect), by_chance)))
    return pd.DataFrame(rows).assign(p_holm=holm([row["p"] for row in rows]))
