"""Sentences made from test objects: the only way the book says that one thing is better than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from edgelib.stats.gap import Gap
from edgelib.stats.ladder import Attribution, Recovery
from edgelib.stats.paired import PairedDifference, holm
from edgelib.stats.predictor import Prediction
from edgelib.stats.ranks import RankStability
from edgelib.stats.recommend import Recommendation


class Sentence(str):
    """Text that a notebook shows, and other pages quote, without quotation marks."""

    __slots__ = ()
    __repr__ = str.__str__


def p_text(p: float) -> str:
    """A p value as text: "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_text(interval: tuple[float, float], level: float, scale: float = 1.0, digits: int = 1) -> str:
    """An interval as text: "95 % interval 1.2 to 3.4"."""
    low, high = (scale * x + 0.0 for x in interval)
    return f"{100 * level:g} % interval {low:.{digits}f} to {high:.{digits}f}"


def difference_claim(
    difference: PairedDifference, first: str, second: str, quantity: str = "accuracy", adjusted: float | None = None
) -> str:
    """Say whether `first` has more or less of a quantity (a fraction) than `second`, in points, and how sure it is.

    adjusted: the p value corrected for a family of tests (Holm), which then decides with the interval.
    """
    interval = interval_text(difference.interval, difference.level, 100)
    support = f"{interval} points, {_p_texts(difference.p, adjusted)}, {count_text(difference)}"
    if settled(difference, adjusted):
        more = "more" if difference.effect > 0 else "less"
        return f"{first} has {abs(100 * difference.effect):.1f} points {more} {quantity} than {second} ({support})"
    power = f"one such test finds a difference of {100 * difference.mde:.1f} points four times in five"
    among = " once all tests are counted" if settled(difference) else ""
    return (
        f"the {quantity} of {first} and {second} cannot be told apart{among} "
        f"(difference {100 * difference.effect:+.1f} points, {support}; {power})"
    )


def count_text(test: PairedDifference | Gap) -> str:
    """What a test looked at: "n = 600 images", or "n = 786 items of 80 images" where images share items."""
    items = "" if test.n == test.n_clusters else f"{test.n:,} items of "
    return f"n = {items}{test.n_clusters:,} images"


def difference_summary(differences: Mapping[str, PairedDifference]) -> str:
    """Count the verdicts on several differences to one reference, Holm-corrected over them, and name the clearest.

    differences: what is compared -> its difference, in fractions.
    """
    adjusted = holm([x.p for x in differences.values()])
    known = [x.effect for x, p in zip(differences.values(), adjusted, strict=True) if settled(x, p)]
    lose, gain = sum(effect < 0 for effect in known), sum(effect > 0 for effect in known)
    # in standard errors, because benchmarks count in different points
    clearest = max(differences, key=lambda name: abs(differences[name].effect) / max(differences[name].mde, 1e-12))
    test = differences[clearest]
    return (
        f"{lose} of {len(differences)} comparisons with the reference show a loss and {gain} a gain (Holm-corrected); "
        f"the clearest difference, against its standard error, is that of {clearest}, {100 * test.effect:+.1f} points "
        f"({interval_text(test.interval, test.level, 100)}, {count_text(test)})"
    )


def settled(test: PairedDifference | Gap, adjusted: float | None = None) -> bool:
    """Whether the sign of an effect is known: its interval excludes zero, and so does the (adjusted) p value."""
    low, high = test.interval
    return (low > 0 or high < 0) and (test.p if adjusted is None else adjusted) < 1 - test.level


def _p_texts(p: float, adjusted: float | None) -> str:
    return p_text(p) if adjusted is None else f"{p_text(p)}, Holm-adjusted {p_text(adjusted)}"


def bullets(claims: Iterable[str]) -> str:
    """Claims as a Markdown list of sentences."""
    return "\n".join(f"- {claim[0].upper()}{claim[1:]}." for claim in claims)


def gap_claim(gap: Gap, name: str, adjusted: float | None = None) -> str:
    """Say what a configuration does to the robustness gap, on the log-odds scale, and how sure it is."""
    if not math.isfinite(gap.effect):
        return f"the gap of {name} cannot be estimated: it is at the level of guessing ({count_text(gap)})"
    interval = interval_text(gap.interval, gap.level, digits=2)
    numbers = f"{gap.effect:+.2f} log odds, {interval}, {_p_texts(gap.p, adjusted)}, {count_text(gap)}"
    if not settled(gap, adjusted):
        known = math.isfinite(gap.mde)
        power = f"; one such test finds a gap of {gap.mde:.2f} four times in five" if known else ""
        return f"for {name} the sign of the gap stays open ({numbers}{power})"
    verdict, effect = ("widens", "more") if gap.effect > 0 else ("narrows", "less")
    return f"{name} {verdict} the robustness gap: corruption costs it {effect} than it costs the reference ({numbers})"


def gap_summary(gaps: Mapping[str, Gap]) -> str:
    """Count the verdicts on several configurations, Holm-corrected over them, and name the gap farthest from zero.

    gaps: label of each configuration -> its gap.
    """
    estimated = {name: gap for name, gap in gaps.items() if math.isfinite(gap.effect)}
    if not estimated:
        return "no gap can be estimated: every configuration is at the level of guessing"
    adjusted = holm([gap.p for gap in gaps.values()])
    known = [gap.effect for gap, p in zip(gaps.values(), adjusted, strict=True) if settled(gap, p)]
    widen, narrow = sum(effect > 0 for effect in known), sum(effect < 0 for effect in known)
    largest = max(estimated, key=lambda name: abs(estimated[name].effect))
    test = estimated[largest]
    return (
        f"{widen} of {len(gaps)} configurations {'widens' if widen == 1 else 'widen'} the robustness gap and {narrow} "
        f"{'narrows' if narrow == 1 else 'narrow'} it (Holm-corrected); the gap farthest from zero is that of "
        f"{largest}, {test.effect:+.2f} log odds ({interval_text(test.interval, test.level, digits=2)}, "
        f"{count_text(test)})"
    )


def matched_claim(gaps: Mapping[str, Gap]) -> str:
    """Say how many gaps remain against a reference that guesses until its clean accuracy is the same (Holm-corrected).

    gaps: label of each configuration -> its gap.
    """
    found = [gap.scales.loc["matched logit"] for gap in gaps.values()]
    adjusted = holm([row.p for row in found])
    known = [
        row.effect
        for row, gap, p in zip(found, gaps.values(), adjusted, strict=True)
        if (row.low > 0 or row.high < 0) and p < 1 - gap.level
    ]
    more, less = sum(effect > 0 for effect in known), sum(effect < 0 for effect in known)
    return (
        "against a reference that is calculated to guess until its clean accuracy is the same, corruption costs "
        f"{more} of {len(gaps)} configurations more and {less} less (Holm-corrected)"
    )


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


def rank_claim(stability: RankStability, what: str = "configurations") -> str:
    """Say how far two runs agree on the ranking of the configurations."""
    if not math.isfinite(stability.tau):
        return f"the runs do not rank the {stability.n_configs} {what}: fewer than two of them tell any apart"
    interval = interval_text(stability.interval, stability.level, digits=2)
    return (
        f"two runs rank the {stability.n_configs} {what} with a mean rank correlation (tau-b) of {stability.tau:.2f} "
        f"({interval}; Kendall's W {stability.w:.2f}, n = {stability.n_runs:,} runs)"
    )


def prediction_claim(prediction: Prediction, what: str = "accuracy drop") -> str:
    """Say whether a label-free predictor ranks the runs of groups it was not fitted on, and how sure it is."""
    interval = interval_text(prediction.interval, prediction.level, digits=2)
    numbers = (
        f"rank correlation {prediction.spearman:.2f}, {interval}, one-sided {p_text(prediction.p)}, within one "
        f"{prediction.group} {prediction.within:.2f} on average; n = {prediction.n:,} runs, each predicted from the "
        f"other groups ({prediction.n_groups}, by {prediction.group})"
    )
    if prediction.interval[0] > 0 and prediction.p < 1 - prediction.level:
        return f"without labels the {what} of a run can be ranked ({numbers})"
    return f"it is not shown that the {what} of a run can be ranked without labels ({numbers})"


def recommendation_claim(
    recommendation: Recommendation, describe: Callable[[dict], str], quantity: str = "accuracy"
) -> str:
    """Name the setting to take and the evidence that it is good enough, or say that there is none.

    describe: the columns of a setting -> its name in the sentence.
    """
    r = recommendation
    bound = f"at most {100 * r.margin:g} points less {quantity} than every other one"
    counts = f"n = {r.n:,} scored items, {r.n_runs} {'run' if r.n_runs == 1 else 'runs'} per setting"
    if r.choice is None:
        return (
            f"none of {r.n_settings} settings is shown to have {bound}; the highest {quantity} is that of "
            f"{describe(r.best)} (Holm-adjusted {p_text(r.adjusted)}, {counts})"
        )
    return (
        f"the cheapest of {r.n_settings} settings that is shown to have {bound} is {describe(r.choice)} "
        f"(difference to {describe(r.rival)}, its strongest rival, {100 * r.effect:+.1f} points, "
        f"{interval_text(r.interval, r.level, 100)} points, Holm-adjusted {p_text(r.adjusted)}, {counts})"
    )


def recovery_claim(recovery: Recovery, name: str, baseline: str, quantity: str = "accuracy") -> str:
    """Say whether a setting is shown to lose less of a quantity than the margin, and how sure it is."""
    test = recovery.test
    numbers = (
        f"difference {100 * test.effect:+.1f} points, {interval_text(test.interval, 1 - 2 * recovery.alpha, 100)} "
        f"points, Holm-adjusted {p_text(recovery.adjusted)}, n = {test.n:,} items"
    )
    shown = "is shown to lose" if recovery.non_inferior else "is not shown to lose"
    return f"{name} {shown} less than {100 * test.margin:g} points of {quantity} against {baseline} ({numbers})"


def attribution_claim(found: Attribution, quantity: str = "accuracy") -> str:
    """Say how a loss is shared out to its factors, the largest part first, or that there is no loss to share out."""
    total = found.total
    numbers = f"{interval_text(total.interval, total.level, 100)} points, {p_text(total.p)}, {count_text(total)}"
    if not settled(total) or total.effect < 0:
        return f"no loss of {quantity} is shown that could be shared out ({100 * total.effect:.1f} points, {numbers})"
    ordered = sorted(found.parts.items(), key=lambda part: -part[1].effect)
    parts = [
        f"{factor} {100 * part.effect:.1f} points ({interval_text(part.interval, part.level, 100)})"
        for factor, part in ordered
    ]
    return f"of {100 * total.effect:.1f} points of {quantity} lost ({numbers}), {', '.join(parts)}"
