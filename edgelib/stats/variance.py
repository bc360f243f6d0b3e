"""How much of the spread between runs comes from which factor: variance shares of a designed experiment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.stats.components import incidence, own_space, pivotal_draws, reml, rest_space, sampling_variances
from edgelib.stats.paired import REPLICATES, check_level, check_replicates, rng_for
from edgelib.stats.runs import Runs, check_columns, named, run_outcomes

REST, IMAGES = "rest", "images"


def variance_shares(
    table: pd.DataFrame,
    response: str = "correct",
    factors: Sequence[str] = ("mix", "size", "seed"),
    *,
    item: str | None = "item",
    cluster: str | None = None,
    by: str | Sequence[str] = (),
    n_draws: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per component of the variance between runs: component, sd, share, low, high, level,
    n_levels, n_runs, n_items; the shares of one group add up to 1.

    The mixed model of a run's mean response is mean + one random effect per factor + rest, fitted by restricted maximum
    likelihood (`components.reml`); the design may be unbalanced or fractional. sd: square root of a component, in the
    unit of the response. low, high: generalized pivotal interval of the share (`components.pivotal_draws`), which
    covers the truth at its level where percentiles of a parametric bootstrap with five seeds are too narrow; it is
    extended to the share where that lies outside.

    factors: columns, or "mix:size" for an interaction. A seed that starts every mix and size from the same images is a
    factor of its own, crossed with them. The levels count as a sample of those one might have chosen.
    "rest": whatever differs between runs of equal factor levels on endlessly many images: interactions that `factors`
    does not list, fresh draws that a seed does not tie together, non-determinism.
    "images" (only with `item`): what differs between runs because they are scored on n_items images and not on
    endlessly many. All runs see the same images, so how hard an image is cancels; what stays is how differently the
    runs, or the mixes, sizes and seeds, treat single images. It is estimated from the paired outcomes (its own error,
    small with hundreds of images, is not in the intervals) and taken out of every component.
    item: the column that pairs the rows (one row per run and item); None: each row is a run, and the sampling noise of
    its images stays in the component it fell into. cluster: as in `run_outcomes`. by: columns whose groups (model,
    config, ...) get shares of their own, returned as the first columns.

    Where no run differs from any other the sd are 0 and the shares are NaN: there is nothing to share.
    Raises EdgelibError for a factor with one level, a factor that another one determines, a design without runs left
    for the rest, an outcome missing or repeated, bad columns, level or seed.
    """
    factors, by = named(factors, "factors"), named(by, "by") if by else []
    columns = list(dict.fromkeys(part for factor in factors for part in factor.split(":")))
    check_level(level)
    check_replicates(n_draws, "n_draws")
    check_columns(table, [*by, *columns, response], [response])
    groups = table.groupby(by, sort=False, observed=True) if by else [((), table)]
    shares = []
    for key, rows in groups:
        if item is None:
            runs = _run_table(rows, columns, response)
        else:
            runs = run_outcomes(rows, columns, response, item=item, cluster=cluster)
        group = _shares(runs, factors, item is not None, n_draws, level, rng_for(seed, "variance shares"))
        shares.append(group.assign(**dict(zip(by, key, strict=True)))[[*by, *group.columns]])
    return pd.concat(shares, ignore_index=True)


def _run_table(rows: pd.DataFrame, columns: list[str], response: str) -> Runs:
    """Rows that are runs already, one item each, in an order set by their values."""
    rows = rows.sort_values([*columns, response])
    return Runs(rows, rows[[response]].to_numpy(float), np.ones(1, dtype=int))


def _terms(keys: pd.DataFrame, factors: list[str]) -> list[np.ndarray]:
    """Incidence matrices [N, levels] of the factors, after checking that each can be told from the others."""
    terms = []
    for factor in factors:
        codes = keys.groupby(factor.split(":"), sort=True, observed=True).ngroup().to_numpy()
        if codes.max() == 0:
            raise EdgelibError(f"factor {factor!r} has one level, so it has no variance; vary it or leave it out")
        terms.append(incidence(codes))
    for f, factor in enumerate(factors):
        others = [g for g in range(len(factors)) if g != f and g not in _inside(factors)[f]]
        if own_space(terms[f], [terms[g] for g in others]).shape[1] == 0:
            raise EdgelibError(
                f"factor {factor!r} cannot be told from {', '.join(factors[g] for g in others)}: in these runs they "
                "change together; cross them or leave one out"
            )
    if rest_space(terms).shape[1] == 0:
        raise EdgelibError(
            f"{len(keys)} runs leave nothing to estimate the rest from beside {', '.join(factors)}; add seeds, or "
            "leave out an interaction"
        )
    return terms


def _inside(factors: list[str]) -> list[list[int]]:
    """Per factor, the numbers of those that contain it: "mix:size" contains "mix" and "size"."""
    parts = [set(factor.split(":")) for factor in factors]
    return [[g for g, other in enumerate(parts) if part < other] for part in parts]


def _shares(
    runs: Runs, factors: list[str], itemised: bool, n_draws: int, level: float, rng: np.random.Generator
) -> pd.DataFrame:
    terms, y = _terms(runs.keys, factors), runs.means
    names = [*factors, REST] + [IMAGES] * itemised
    if np.ptp(y) == 0:
        variances = np.zeros(len(names))
        low = high = share = np.full(len(names), np.nan)
    else:
        noise = _image_noise(runs, terms) if itemised else np.zeros(len(terms) + 1)
        variances = _without(reml(y, terms)[None], noise, itemised)[0]
        share = variances / variances.sum()
        drawn = _without(pivotal_draws(y, terms, _inside(factors), n_draws, rng), noise, itemised)
        tail = (1 - level) / 2
        low, high = np.quantile(drawn / drawn.sum(axis=1, keepdims=True), [tail, 1 - tail], axis=0)
        # at the ends of their range the two estimates may disagree; an interval then reaches to the share
        low, high = np.minimum(low, share), np.maximum(high, share)
    n_levels = [term.shape[1] for term in terms] + [len(y)] + [len(runs.sizes)] * itemised
    counts = dict(level=level, n_levels=n_levels, n_runs=len(y), n_items=runs.n_items)
    return pd.DataFrame(dict(component=names, sd=np.sqrt(variances), share=share, low=low, high=high, **counts))


def _image_noise(runs: Runs, terms: list[np.ndarray]) -> np.ndarray:
    """The part [k + 1] of each component that comes from scoring on these clusters of items and no others."""
    clusters = len(runs.sizes)
    if clusters < 2:
        raise EdgelibError("the noise of the images needs at least two of them; pass item=None for a table of runs")
    deviations = (runs.sums - runs.means[:, None] * runs.sizes) / runs.n_items
    return sampling_variances(deviations * np.sqrt(clusters / (clusters - 1)), terms)


def _without(variances: np.ndarray, noise: np.ndarray, itemised: bool) -> np.ndarray:
    """Move what is noise, at most all of it, out of each component [B, k + 1] into one of its own [B, k + 2]."""
    clean = np.maximum(variances - noise, 0)
    return np.column_stack([clean, (variances - clean).sum(axis=1)]) if itemised else clean
