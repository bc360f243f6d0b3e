"""The robustness gap: does quantization make corruption cost more than it costs the reference model?

Corruption lowers accuracy and quantization lowers accuracy; the gap is what they cost *together* beyond the sum of the
two, an interaction, and its sign depends on the scale of the sum. Accuracy has a floor: guessing. A broken model that
guesses on clean images has nothing left to lose, so on the raw scale the worst model looks the most robust.

The primary scale is therefore the log odds above chance. With accuracy p and chance c, odds = (p - c) / (1 - p): the
odds of knowing the answer when an image that is not known is guessed, p = c + (1 - c) * known. "No gap" means that
quantization divides these odds by one and the same factor on clean and on corrupted images. For c = 0 they are the
ordinary odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.family import Family
from edgelib.stats.metrics import one_fraction
from edgelib.stats.outcomes import cell_sums, check_rows, resampled
from edgelib.stats.paired import (
    REPLICATES,
    check_level,
    minimum_detectable_effect,
    percentile_interval,
    two_sided_p,
    wilson,
)

AT_FLOOR = "at the level of guessing"
TOO_FEW = "too few images for an interval"


@dataclass(frozen=True)
class Gap:
    """Robustness gap of `config` against `reference` in log odds; positive: quantization makes corruption cost more.

    interval, p and mde come from one bootstrap over n_clusters images with n items in n_cells corrupted cells, and over
    the images that are clean only; n_clean counts the items of the clean cell, of which the n are a part.
    at_floor is the share of the cells in which the config's accuracy is not clearly above chance: cells that can no
    longer show a loss.
    `scales` holds the same question asked on every scale (see `gap_table`). An interval of zero width means that the
    two gave the same outcome on every image in every cell. `unknown`: why nothing is known, else "".
    """

    config: str
    reference: str
    effect: float
    interval: tuple[float, float]
    p: float
    n: int
    n_clean: int
    n_clusters: int
    mde: float
    n_cells: int
    at_floor: float
    level: float
    scales: pd.DataFrame
    unknown: str = ""


def _softened(accuracy, items):
    """Accuracy with the Haldane-Anscombe correction, (correct + 1/2) / (items + 1): finite odds at 0 and 1."""
    return (accuracy * items + 0.5) / (items + 1)


def _log(ratio):
    """Natural logarithm; NaN where the ratio is not positive, which is where log odds are undefined."""
    return np.log(np.where(ratio > 0, ratio, np.nan))


def _ratio(top, bottom):
    """top / bottom, NaN where the denominator is not positive."""
    return top / np.where(bottom > 0, bottom, np.nan)


def _log_odds_ratio(reference, config, items, chance):
    """Log of the ratio of odds above chance, reference : config, common to the cells of the last axis.

    The estimator is that of Mantel and Haenszel (1959). One cell gives the plain log odds ratio. Over many
    cells, one where both models are near the floor or the ceiling says little about the ratio and weighs little,
    whereas its noise would dominate a mean of logits.
    """
    reference, config = _softened(reference, items), _softened(config, items)
    top = ((reference - chance) * (1 - config)).sum(axis=-1)
    bottom = ((config - chance) * (1 - reference)).sum(axis=-1)
    # Both must be positive: with both negative the quotient would look like a valid one.
    return _log(top) - _log(bottom)


def _logit_drop(accuracy, items):
    """Logit of clean accuracy minus the mean logit of the corrupted cells, no floor; accuracy [..., 1 + J]."""
    p = _softened(accuracy, items)
    logit = np.log(p) - np.log1p(-p)
    return logit[..., 0] - logit[..., 1:].mean(axis=-1)


def _retention(accuracy, chance):
    return _ratio(accuracy[..., 1:].mean(axis=-1) - chance, accuracy[..., 0] - chance)


def _matched(reference, config, chance):
    """Accuracies of the reference with a share r of its answers replaced by guesses, to the config's clean accuracy.

    It maps every accuracy p to (1 - r) * p + r * chance, on clean and corrupted images alike.
    """
    keep = _ratio(config[..., :1] - chance, reference[..., :1] - chance)
    return chance + keep * (reference - chance)


def _gaps(reference, config, items, chance) -> dict[str, np.ndarray]:
    """{scale: gap [B]} from accuracies and items [B, 1 + J]; positive: quantization makes corruption cost more."""
    corrupted = np.s_[..., 1:]
    matched = _matched(reference, config, chance)
    clean_ratio = _log_odds_ratio(reference[..., :1], config[..., :1], items[..., :1], chance)
    drop = [p[..., 0] - p[corrupted].mean(axis=-1) for p in (reference, config)]
    return {
        "logit": _log_odds_ratio(reference[corrupted], config[corrupted], items[corrupted], chance) - clean_ratio,
        "logit, no floor": _logit_drop(config, items) - _logit_drop(reference, items),
        "accuracy": drop[1] - drop[0],
        "retention": _retention(reference, chance) - _retention(config, chance),
        "matched accuracy": (matched - config)[corrupted].mean(axis=-1),
        "matched logit": _log_odds_ratio(matched[corrupted], config[corrupted], items[corrupted], chance),
    }


def _constant(reference, config) -> str:
    """Why two models tell nothing whatever the images: each gives one and the same outcome everywhere; else ""."""
    always = [{float(p.min()), float(p.max())} for p in (reference, config)]
    if not all(seen in ({0.0}, {1.0}) for seen in always):
        return ""
    if always[0] != always[1]:
        return "one of the two is always right and the other always wrong"
    return f"every answer of both is {'right' if always[0] == {1.0} else 'wrong'}"


def _check_chance(chance: float) -> float:
    if one_fraction(chance, "chance") == 1:
        raise EdgelibError("chance must be below 1: it is the accuracy of guessing, 1 / number of classes")
    return float(chance)


def gap_table(
    rows: pd.DataFrame,
    reference: str,
    chance: float,
    *,
    configs=None,
    cluster: str = "item",
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per config and scale of the robustness gap.

    Columns: config, reference, scale, effect, low, high, p, se, n_items, n_clean, n_clusters, n_cells, at_floor,
    unknown. Positive effect: quantization makes corruption cost more. One paired bootstrap over clusters (images)
    serves all configs, cells and scales: percentile interval, p by inverting it, se the standard deviation of the
    replicates. Clean accuracy is that of all clean items, n_clean, of which n_items are corrupted as well: those that
    are clean only are drawn apart, and make the clean side, of one cell, as sure as the corrupted one, of many. The
    scales:
    - "logit", primary: log odds ratio reference : config over the corrupted cells minus that on clean images. Odds
      above chance, Mantel-Haenszel over cells, 1/2 added to right and to wrong answers (Haldane and Anscombe).
    - "logit, no floor": mean over cells of the drop in the ordinary logit; biased towards "robust" near a floor.
    - "accuracy": difference of accuracy drops, a fraction (0.01 = one percentage point); shows the floor effect.
    - "retention": chance-corrected retention of the reference minus that of the config.
    - "matched accuracy", "matched logit": the config against a calculated control of equal clean accuracy, the
      reference with a share of its answers replaced by guesses (the share re-estimated in each replicate): mean
      corrupted accuracy of the control minus that of the config, and their log odds ratio. The control assumes damage
      that strikes images at random, regardless of difficulty, label and corruption; such damage alone makes "logit"
      negative wherever clean accuracy is the higher one. "matched accuracy" is "retention" times the config's
      clean accuracy above chance. Where the config beats the reference on clean images the map is extended
      linearly. For a control that was really evaluated, pass its name as `reference`.
    Where a scale is undefined (accuracy at or below chance; for log odds also models that are always right or always
    wrong) effect is NaN and unknown says why, as it does where an interval has neither end; else it is "". Undefined
    replicates widen the interval.
    chance: accuracy of guessing, 1 / classes, in [0, 1). configs: all but the reference by default.
    Raises EdgelibError as `cell_sums`, and for unknown configs, chance, level or n_boot out of range.
    """
    chance, level, outcomes = _check_chance(chance), check_level(level), cell_sums(rows, cluster)
    index = {name: i for i, name in enumerate(outcomes.configs)}
    at_reference = choose(index, reference, "reference config")
    chosen = [name for name in outcomes.configs if name != reference] if configs is None else list(configs)
    places = [choose(index, name, "config") for name in chosen]
    accuracy, items = resampled(outcomes, n_boot, seed)
    table = []
    for name, place in zip(chosen, places, strict=True):
        floor = wilson(accuracy[0, place, 1:].clip(0, 1), items[0, 1], level)[0] <= chance
        shared = _counts(outcomes, items) | dict(at_floor=float(floor.mean()))
        constant = _constant(accuracy[0, at_reference], accuracy[0, place])
        for scale, values in _gaps(accuracy[:, at_reference], accuracy[:, place], items, chance).items():
            nothing = constant and "logit" in scale
            summary = _summary(np.full_like(values, np.nan) if nothing else values, level, outcomes.n_clusters)
            unknown = (constant or AT_FLOOR) if np.isnan(summary["effect"]) else ""
            if not unknown and np.isinf([summary["low"], summary["high"]]).all():
                unknown = TOO_FEW
            table.append(dict(config=name, reference=reference, scale=scale, **summary, **shared, unknown=unknown))
    return pd.DataFrame(table)


def _counts(outcomes, items) -> dict[str, int]:
    """How many items, clean items, clusters and corrupted cells there are."""
    shown = dict(n_items=int(items[0, 1]), n_clean=int(items[0, 0]))
    return shown | dict(n_clusters=outcomes.n_clusters, n_cells=len(outcomes.cells))


def _summary(values, level, n) -> dict[str, float]:
    """Effect (row 0), interval, p and standard error of bootstrap values [1 + B] over n clusters."""
    effect, draws = float(values[0]), values[1:]
    low, high = percentile_interval(draws, level, n)
    return dict(effect=effect, low=low, high=high, p=two_sided_p(draws, n), se=float(draws.std()))


def robustness_gap(
    rows: pd.DataFrame,
    config: str,
    reference: str,
    chance: float,
    *,
    cluster: str = "item",
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Gap:
    """Return the robustness gap of one config as a test object on the primary scale; arguments as `gap_table`.

    mde is the gap detectable with 80 % power, (z[1 - a/2] + z[0.8]) * se.
    """
    check_rows(rows)
    for name in (config, reference):
        choose(dict.fromkeys(rows["config"].unique()), name, "config")
    pair = rows[rows["config"].isin([config, reference])]  # other configs may still be unfinished
    table = gap_table(pair, reference, chance, configs=[config], cluster=cluster, n_boot=n_boot, level=level, seed=seed)
    first = table.iloc[0]
    return Gap(
        config=config,
        reference=reference,
        effect=float(first.effect),
        interval=(float(first.low), float(first.high)),
        p=float(first.p),
        n=int(first.n_items),
        n_clean=int(first.n_clean),
        n_clusters=int(first.n_clusters),
        mde=minimum_detectable_effect(first.se, level),
        n_cells=int(first.n_cells),
        at_floor=float(first.at_floor),
        level=level,
        scales=table.set_index("scale"),
        unknown=first.unknown,
    )


def robustness_gaps(rows: pd.DataFrame, configs: Sequence[str], reference: str, chance: float, **options) -> Family:
    """Return the gaps of several configs against one reference as a family; arguments as `robustness_gap`."""
    return Family({config: robustness_gap(rows, config, reference, chance, **options) for config in configs})


def dosed(rows: pd.DataFrame, reference: str, configs: Sequence[str], severities: Sequence[int], plain: str = "plain"):
    """Return rows of twins beside those of the plain model, as configs "twin|config", and the plain reference as it is.

    rows: outcomes of one model with the column twin; plain rows count as the twin "plain:1" of dose 1. configs and
    severities: those that the twins have; severity 0 is kept too.
    """
    alike = rows[(rows["twin"] == plain) & rows["severity"].isin([0, *severities])]
    twins = [alike[alike["config"].isin(configs)].assign(twin=f"{plain}:1"), rows[rows["twin"] != plain]]
    named = [part.assign(config=part["twin"] + "|" + part["config"]) for part in twins]
    return pd.concat([alike[alike["config"] == reference], *named])


def dosed_gaps(rows: pd.DataFrame, reference: str, chance: float, plain: str = "plain", **options) -> Family:
    """Return the gap of every config on every twin of `dosed` rows against the plain reference, as a family."""
    configs = [c for c in rows["config"].unique() if c != reference and not c.startswith(f"{plain}:")]
    return robustness_gaps(rows, configs, reference, chance, **options)


def by_dose(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `dosed` configs with the parts of their names as columns: config, twin, kind and dose."""
    parts = table["config"].str.extract(r"^(?P<twin>(?P<kind>.*):(?P<dose>[^|]*))\|(?P<config>.*)$")
    return table.assign(
        config=parts["config"], twin=parts["twin"], kind=parts["kind"], dose=parts["dose"].astype(float)
    )


def rs_table(
    rows: pd.DataFrame,
    chance: float,
    *,
    cluster: str = "item",
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per config: six scores, each with _low and _high from one bootstrap over clusters, and the counts.

    clean, corrupted (mean over cells), rs = corrupted / clean, accuracy_drop = clean - corrupted, retention =
    (corrupted - chance) / (clean - chance), logit_drop = logit clean - mean logit of the cells (log odds, no floor, 1/2
    added to right and to wrong answers); config, n_items, n_cells. A score that is undefined is NaN. These intervals
    are not paired: compare configs with `gap_table`. Arguments and errors as `gap_table`.
    """
    chance, level, outcomes = _check_chance(chance), check_level(level), cell_sums(rows, cluster)
    accuracy, items = resampled(outcomes, n_boot, seed)
    table = []
    for place, config in enumerate(outcomes.configs):
        p = accuracy[:, place]
        clean, corrupted = p[:, 0], p[:, 1:].mean(axis=1)
        scores = dict(
            clean=clean,
            corrupted=corrupted,
            rs=_ratio(corrupted, clean),
            accuracy_drop=clean - corrupted,
            retention=_retention(p, chance),
            logit_drop=_logit_drop(p, items),
        )
        row: dict[str, object] = dict(config=config)
        for name, values in scores.items():
            low, high = percentile_interval(values[1:], level, len(outcomes.sizes))
            row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
        table.append(row | dict(n_items=int(items[0, 0]), n_cells=len(outcomes.cells)))
    return pd.DataFrame(table)
