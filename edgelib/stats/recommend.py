"""Which setting to take: the cheapest one that is shown to be no worse than any other by more than a margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import holm
from edgelib.stats.runs import check_columns, crossed_error, named, run_outcomes


@dataclass(frozen=True)
class Recommendation:
    """The setting to take, against `rival`, the one it is hardest to prove equal to; None where nothing is proven.

    effect: mean of the choice minus that of the rival, a fraction, with its interval of `level`. p, adjusted: of "worse
    than some other setting by margin or more", alone and after Holm over all n_settings (of the best setting where
    nothing is proven). best: the setting with the highest mean.
    table: one row per setting, cheapest first: its columns, mean, rival_effect, p, p_holm, passes.
    """

    choice: dict | None
    rival: dict | None
    best: dict
    effect: float
    interval: tuple[float, float]
    p: float
    adjusted: float
    margin: float
    n: int
    n_runs: int
    n_settings: int
    level: float
    table: pd.DataFrame


def recommend(
    rows: pd.DataFrame,
    cost: Mapping[str, Sequence | None],
    *,
    also: str | Sequence[str] = (),
    margin: float = 0.01,
    response: str = "correct",
    run: str | None = "seed",
    item: str = "item",
    cluster: str | None = None,
    alpha: float = 0.05,
) -> Recommendation:
    """Return the cheapest setting that is non-inferior, within `margin`, to every other setting.

    rows: one per setting, run and item; higher response is better. A setting is a combination of the columns of `cost`
    and `also`, such as size, method and mix.
    cost: column -> its values from cheap to dear, or None for ascending numbers; earlier columns count first.
        {"size": None, "method": ["minmax", "smoothquant", "awq"]}: fewest images, then the simplest method.
    also: columns that cost nothing to choose, such as the mix; among equally cheap settings the best mean decides.
    run: the column of repeated draws (None: there is one), averaged; every setting needs the same ones.
    Non-inferior to every other one, whichever is truly the best: the intersection-union test (Berger, 1982) takes the
    largest one-sided p over the other settings, so picking the best by eye costs nothing. Trying the settings from the
    cheapest on does, and Holm over all of them pays for it.
    Differences are paired by item and run. p comes from t with the standard error of `runs.crossed_error`, which has a
    part of the runs and a part of the items, the latter with the two pseudo-clusters of `paired_difference`. Not from
    a bootstrap: Holm over many settings asks for tails that replicates cannot resolve, and five runs are too few to
    draw from. interval: of level 1 - 2 alpha, the one that goes with the one-sided test.
    Raises EdgelibError for fewer than two settings, values that `cost` does not order, a margin that is not positive,
    and as `run_outcomes`.
    """
    if not margin > 0:
        raise EdgelibError(f"margin must be above 0, in the unit of the outcomes (0.01 = one point), got {margin!r}")
    if not 0 < alpha < 0.5:
        raise EdgelibError(f"alpha must lie between 0 and 0.5, for example 0.05; got {alpha!r}")
    columns = named([*cost, *named(also, "also")] if also else [*cost], "cost and also")
    settings, sums, sizes = _settings(rows, columns, run, response, item, cluster)
    means = np.round(sums.sum(axis=(0, 2)) / (len(sums) * sizes.sum()), 12)
    tests = hardest_tests(sums, sizes, margin, alpha)
    adjusted = holm([test["p"] for test in tests])
    order = np.lexsort([-means, *reversed([_cost_ranks(settings[c], values) for c, values in cost.items()])])
    passing = [i for i in order if adjusted[i] < alpha]
    table = settings.assign(mean=means, rival_effect=[test["effect"] for test in tests], p=[t["p"] for t in tests])
    table = table.assign(p_holm=adjusted, passes=adjusted < alpha).iloc[order].reset_index(drop=True)
    chosen = passing[0] if passing else int(means.argmax())
    test, names = tests[chosen], settings.to_dict("records")
    return Recommendation(
        choice=names[chosen] if passing else None,
        rival=names[test["rival"]] if passing else None,
        best=names[int(means.argmax())],
        effect=test["effect"] if passing else np.nan,
        interval=test["interval"] if passing else (-np.inf, np.inf),
        p=test["p"],
        adjusted=float(adjusted[chosen]),
        margin=float(margin),
        n=int(sizes.sum()),
        n_runs=len(sums),
        n_settings=len(names),
        level=1 - 2 * alpha,
        table=table,
    )


def _settings(rows, columns, run, response, item, cluster):
    """(settings, one row each, sums [S runs, K settings, G clusters], sizes [G]), complete."""
    by = [*columns, run] if run else columns
    runs = run_outcomes(rows, by, response, item=item, cluster=cluster)
    settings = runs.keys[columns].drop_duplicates(ignore_index=True)
    if len(settings) < 2:
        raise EdgelibError("there is one setting only, so there is nothing to choose from; evaluate another one")
    draws = runs.keys[run].nunique() if run else 1
    if len(runs.keys) != len(settings) * draws:
        counts = runs.keys.groupby(columns, observed=True).size()
        raise EdgelibError(
            f"every setting needs the same {draws} values of {run!r}: {counts.idxmin()!r} has {counts.min()}; finish "
            "the sweep, or drop that setting or run"
        )
    # Keys are sorted by setting and then run.
    return settings, runs.sums.reshape(len(settings), draws, -1).swapaxes(0, 1), runs.sizes


def _cost_ranks(values: pd.Series, order: Sequence | None) -> np.ndarray:
    if order is None:
        check_columns(values.to_frame(), [values.name], [values.name])
        return values.to_numpy(float)
    places = {str(value): place for place, value in enumerate(order)}
    return np.array([choose(places, str(value), f"{values.name} in the order of cost") for value in values])


def hardest_tests(sums: np.ndarray, sizes: np.ndarray, margin: float, alpha: float) -> list[dict]:
    """Return per setting the test against the other setting with the largest p: rival, effect, interval, p.

    sums: [S runs, K settings, G clusters], sizes: [G]; p belongs to "mean of the setting <= mean of rival - margin",
    interval has level 1 - 2 alpha and ends above -margin exactly where p < alpha.
    """
    runs, count, clusters = sums.shape
    per_run, per_cluster = sums.sum(axis=2) / sizes.sum(), sums.mean(axis=0)
    graded = (sums != np.round(sums)).any()
    spread = (np.ptp(sums / sizes) if graded else 0.0) or 1.0
    tests = []
    for setting in range(count):
        by_run, by_cluster = per_run[:, [setting]] - per_run, np.round(per_cluster[setting] - per_cluster, 12)
        effect = np.round(by_run.mean(axis=0), 12)
        run_variance = by_run.var(axis=0, ddof=1) / runs if runs > 1 else np.zeros(count)
        differing = (by_cluster != 0).sum(axis=1)
        typical = np.where(differing > 0, np.sqrt((by_cluster**2).sum(axis=1) / np.maximum(differing, 1)), spread)
        pool = np.column_stack([by_cluster, typical, -typical])
        pool_sizes = np.append(sizes, [sizes.mean()] * 2)
        residual = pool - np.outer(pool.sum(axis=1), pool_sizes) / pool_sizes.sum()
        cluster_variance = (residual**2).sum(axis=1) / pool_sizes.sum() ** 2
        error, df = crossed_error(run_variance, runs, cluster_variance, clusters + 2)
        p = stats.t.sf((effect + margin) / error, df)
        p[setting] = -1  # no setting is its own rival
        rival = int(p.argmax())
        half = stats.t.isf(alpha, df[rival]) * error[rival]
        interval = (float(effect[rival] - half), float(effect[rival] + half))
        tests.append(dict(rival=rival, effect=float(effect[rival]), interval=interval, p=float(p[rival])))
    return tests
