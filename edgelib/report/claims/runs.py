"""Sentences about experiments of many runs: what makes them differ, how they rank, what predicts them, what to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from edgelib.report.claims.text import interval_text, p_text, points_text
from edgelib.report.figures.palette import label
from edgelib.stats.predictor import Prediction
from edgelib.stats.ranks import RankStability
from edgelib.stats.recommend import Recommendation


def variance_claim(shares: pd.DataFrame, quantity: str = "accuracy", names: Mapping[str, str] | None = None) -> str:
    """Say how much of the variance between runs each component explains, the largest first.

    shares: one group of rows of `variance_shares`. names: component -> what to call it.
    """
    first = shares.iloc[0]
    if shares["share"].isna().all():
        return f"no two of the {first.n_runs:,} runs differ in {quantity}: there is no variance to share"
    ordered = shares.sort_values("share", ascending=False, kind="stable").itertuples()
    parts = [
        f"{(names or {}).get(row.component, row.component)} {100 * row.share:.0f} % "
        f"({interval_text((row.low, row.high), row.level, 100, 0)})"
        for row in ordered
    ]
    return f"shares of the variance of {quantity} between {first.n_runs:,} runs: {', '.join(parts)}"


def spread_claim(accuracies: pd.Series, name: str) -> str:
    """Say between which accuracies (fractions) the runs of one configuration lie."""
    low, high = (f"{100 * end:.1f}" for end in (accuracies.min(), accuracies.max()))
    if low == high:
        return f"no calibration set matters for any configuration: of {name}, all {len(accuracies)} runs reach {low} %"
    return f"calibration sets matter most for {name}: its {len(accuracies)} runs reach {low} to {high} %"


def largest_share_claim(shares: pd.DataFrame, quantity: str = "feature drift") -> str:
    """Say which component but the noise of the images has the largest share of the variance, or that none has one.

    shares: one group of rows of `variance_shares`.
    """
    known = shares[shares["share"].notna() & (shares["component"] != "images")]
    if not len(known):
        return f"its runs do not differ in {quantity}"
    row = known.loc[known["share"].idxmax()]
    return (
        f"the largest of the shares of the variance of its {quantity} is that of the {row.component}, "
        f"{100 * row.share:.0f} % ({interval_text((row.low, row.high), row.level, 100, 0)}, not corrected for having "
        "been picked)"
    )


def rank_claim(stability: RankStability, what: str = "configurations") -> str:
    """Say how far two runs agree on the ranking of the configurations."""
    if not math.isfinite(stability.tau):
        return f"the runs do not rank the {stability.n_configs} {what}: fewer than two of them tell any apart"
    interval = interval_text(stability.interval, stability.level, digits=2)
    return (
        f"two runs rank the {stability.n_configs} {what} with a mean rank correlation (tau-b) of {stability.tau:.2f} "
        f"({interval}; Kendall's W {stability.w:.2f}, n = {stability.n_runs:,} runs)"
    )


USEFUL = 0.3  # rank correlation within one group from which on a predictor is said to rank runs


def ranks_runs(prediction: Prediction) -> bool:
    """Whether a predictor ranks the runs of one group too, and is not only able to tell groups apart."""
    return _ranks(prediction) and prediction.within >= USEFUL


def _ranks(prediction: Prediction) -> bool:
    return prediction.interval[0] > 0 and prediction.p < 1 - prediction.level


def prediction_claim(prediction: Prediction, what: str = "accuracy drop") -> str:
    """Say whether a label-free predictor ranks the runs of groups it was not fitted on, and how sure it is."""
    if not math.isfinite(prediction.spearman):
        same = f"all {prediction.n:,} runs have the same {what}"
        same = same if prediction.runs["observed"].nunique() == 1 else "no run is predicted to lose more than another"
        return f"there is nothing to rank: {same}"
    interval = interval_text(prediction.interval, prediction.level, digits=2)
    inside = f"{prediction.within:.2f} on average" if math.isfinite(prediction.within) else "not defined"
    numbers = (
        f"rank correlation {prediction.spearman:.2f}, {interval}, one-sided {p_text(prediction.p)}, within one "
        f"{prediction.group} {inside}; n = {prediction.n:,} runs, each predicted from the "
        f"other groups ({prediction.n_groups}, by {prediction.group})"
    )
    if ranks_runs(prediction):
        return f"without labels the {what} of a run can be ranked ({numbers})"
    if _ranks(prediction):
        return (
            f"without labels it can be told which {prediction.group} has the larger {what}, but hardly which run of "
            f"one {prediction.group} has it ({numbers})"
        )
    return f"it is not shown that the {what} of a run can be ranked without labels ({numbers})"


def setting_name(setting: Mapping) -> str:
    """What a sentence calls a setting of size and config: "64 images with W4A8 AWQ"."""
    return f"{setting['size']} images with {label(setting['config'])}"


def recommendation_claim(
    recommendation: Recommendation, describe: Callable[[dict], str], quantity: str = "accuracy"
) -> str:
    """Name the setting to take and the evidence that it is good enough, or say that there is none.

    describe: the columns of a setting -> its name in the sentence.
    """
    r = recommendation
    bound = f"at most {points_text(r.margin)} less {quantity} than every other one"
    counts = f"n = {r.n:,} scored items, {r.n_runs} {'run' if r.n_runs == 1 else 'runs'} per setting"
    if r.choice is None or r.rival is None:
        return (
            f"none of {r.n_settings} settings is shown to have {bound}; the highest {quantity} is that of "
            f"{describe(r.best)} (Holm-adjusted {p_text(r.adjusted)}, {counts})"
        )
    return (
        f"the cheapest of {r.n_settings} settings that is shown to have {bound} is {describe(r.choice)} "
        f"(difference to {describe(r.rival)}, its strongest rival, {100 * r.effect:+z.1f} points, "
        f"{interval_text(r.interval, r.level, 100)} points, Holm-adjusted {p_text(r.adjusted)}, {counts})"
    )
