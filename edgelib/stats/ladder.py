"""How much of a loss each factor of a factorial experiment causes, and which setting restores the baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.stats.paired import (
    Equivalence,
    PairedDifference,
    cluster_codes,
    holm,
    paired_difference,
    percentile_interval,
    replicates,
    rng_for,
    tost,
)


@dataclass(frozen=True)
class Attribution:
    """The part of a loss that each factor causes.

    total: accuracy without any factor minus accuracy with all of them. parts: by factor, a difference whose effect is
    the factor's share of the total, in accuracy; they add up to it. shares, intervals: parts over total, with
    intervals; NaN where the total is 0.
    """

    total: PairedDifference
    parts: dict[str, PairedDifference]
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def attribute(
    outcomes: Mapping[Collection[str], Sequence[float]],
    factors: Sequence[str],
    *,
    cluster=None,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> Attribution:
    """Share the loss of a full factorial experiment out to its factors by Shapley values.

    outcomes: for each subset of the factors that were switched on, the outcomes of the same items. The part of factor i
    is the mean, over all orders in which factors may be switched on, of the accuracy lost when i is:
    sum over S without i of |S|! (k - |S| - 1)! / k! (y(S) - y(S + i)); with two factors, its main effect and half of
    their interaction (Shapley 1953). Computed item by item, so parts have paired intervals.
    Raises EdgelibError for a subset that is missing and outcomes of different lengths.
    """
    table = {frozenset(key): np.asarray(values, dtype=float) for key, values in outcomes.items()}
    k = len(factors)
    subsets = [frozenset(s) for size in range(k + 1) for s in combinations(factors, size)]
    missing = [s for s in subsets if s not in table]
    if missing:
        raise EdgelibError(f"no outcomes with {', '.join(sorted(missing[0])) or 'nothing'} switched on; run that cell")
    if len({len(table[s]) for s in subsets}) > 1:
        raise EdgelibError("the cells of a factorial experiment must hold outcomes of the same items")
    items = {}
    for factor in factors:
        others = [s for s in subsets if factor not in s]
        weights = [factorial(len(s)) * factorial(k - len(s) - 1) / factorial(k) for s in others]
        items[factor] = sum(w * (table[s] - table[s | {factor}]) for w, s in zip(weights, others, strict=True))
    lost = table[subsets[0]] - table[subsets[-1]]
    zero, options = np.zeros(len(lost)), {"cluster": cluster, "level": level, "seed": seed}
    codes = cluster_codes(cluster, len(lost))
    columns = np.column_stack([np.bincount(codes, weights=v) for v in (lost, *items.values())])
    means, _ = replicates(columns, np.bincount(codes), n_boot, rng_for(seed, "attribution"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.abs(means[:, :1]) > 1e-12, means[:, 1:] / means[:, :1], np.nan)
    n = len(columns)
    return Attribution(
        total=paired_difference(lost, zero, **options),
        parts={factor: paired_difference(values, zero, **options) for factor, values in items.items()},
        shares={factor: float(ratios[0, i]) for i, factor in enumerate(factors)},
        intervals={factor: percentile_interval(ratios[1:, i], level, n) for i, factor in enumerate(factors)},
    )


@dataclass(frozen=True)
class Recovery:
    """A setting against the baseline: `adjusted` is the Holm p-value of "worse by the margin or more"."""

    test: Equivalence
    adjusted: float
    alpha: float

    @property
    def non_inferior(self) -> bool:
        """Whether it is shown to lose less than the margin."""
        return self.adjusted < self.alpha


def recoveries(
    settings: Mapping[str, Sequence[float]],
    baseline: Sequence[float],
    margin: float,
    *,
    cluster=None,
    alpha: float = 0.05,
    seed: int = 0,
) -> dict[str, Recovery]:
    """Test of each setting whether it is non-inferior to the baseline by `margin`, Holm-corrected over all of them."""
    options = {"cluster": cluster, "alpha": alpha, "seed": seed}
    tests = {name: tost(values, baseline, margin, **options) for name, values in settings.items()}
    adjusted = holm([test.p_non_inferior for test in tests.values()])
    return {name: Recovery(test, float(p), alpha) for (name, test), p in zip(tests.items(), adjusted, strict=True)}


def attribution_table(attributions: Mapping[tuple[str, str], Attribution]) -> pd.DataFrame:
    """Return a row per part of (twin, game) -> attribution: twin, game, factor ("game: factor"), effect, low, high, p,
    total (the whole loss) and share (of it)."""
    rows = []
    for (twin, game), attribution in attributions.items():
        for factor, part in attribution.parts.items():
            low, high = part.interval
            row = dict(
                twin=twin, game=game, factor=f"{game}: {factor}", effect=part.effect, low=low, high=high, p=part.p
            )
            rows.append(row | dict(total=attribution.total.effect, share=attribution.shares[factor]))
    return pd.DataFrame(rows)


def recovery_table(recovered: Mapping[tuple[str, str], Recovery]) -> pd.DataFrame:
    """Return a row per (twin, cache) -> recovery: twin, cache, effect, low, high, p_holm, non_inferior."""
    rows = []
    for (twin, cache), recovery in recovered.items():
        low, high = recovery.test.interval
        row = dict(twin=twin, cache=cache, effect=recovery.test.effect, low=low, high=high)
        rows.append(row | dict(p_holm=recovery.adjusted, non_inferior=recovery.non_inferior))
    return pd.DataFrame(rows)
