"""Experiments whose truth is known: how often this library's tests claim a difference that is not there, and how often
its intervals hold the one that is.

Two configurations answer the same questions about the same images. Whether an answer is right is a threshold on a
normal variable that is shared by the image, shared by the question, and the answer's own, so that outcomes are paired
and questions of one image go together, as real ones do; the accuracies are exact.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from edgelib.stats.family import compare
from edgelib.stats.gap import robustness_gap
from edgelib.stats.paired import PairedDifference, paired_difference, rng_for, settled, tost, wilson

# shares of the variance of an answer: its image's, its question's, its own
_IMAGE, _QUESTION, _OWN = 0.3, 0.55, 0.15
CHANCE = 0.1  # of guessing, in the simulated classification


@dataclass(frozen=True)
class Truth:
    """One simulated comparison: accuracies (fractions) of the reference and of the configuration, and what they saw."""

    name: str
    reference: float
    config: float
    images: int = 240
    questions: int = 1


def outcomes(truth: Truth, rng: np.random.Generator, configs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return (right [1 + configs, images * questions] of 0 and 1, the reference first; image of each answer)."""
    n = truth.images * truth.questions
    image = np.repeat(rng.normal(size=truth.images), truth.questions)
    shared = np.sqrt(_IMAGE) * image + np.sqrt(_QUESTION) * rng.normal(size=n)
    latent = shared + np.sqrt(_OWN) * rng.normal(size=(1 + configs, n))
    accuracy = np.array([truth.reference] + [truth.config] * configs)
    return latent < special.ndtri(accuracy)[:, None], np.repeat(np.arange(truth.images), truth.questions)


def _differences(truth: Truth, n: int, level: float, seed: int) -> list[PairedDifference]:
    tests = []
    for number in range(n):
        right, images = outcomes(truth, rng_for(seed, "simulated", truth.name, number))
        tests.append(paired_difference(right[1], right[0], cluster=images, level=level, seed=seed + number))
    return tests


def _row(study: str, what: str, truth: Truth, hits: int, n: int, nominal: float, level: float) -> dict:
    low, high = wilson(hits / n, n, level)  # whose ends may miss a share of 0 or 1 by the last bit
    return dict(
        study=study,
        what=what,
        case=truth.name,
        images=truth.images,
        questions=truth.questions,
        share=hits / n,
        low=min(float(low), hits / n),
        high=max(float(high), hits / n),
        n=n,
        nominal=nominal,
        level=level,
    )


def difference_study(truths: list[Truth], n: int, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Simulate n comparisons of each truth and count what `paired_difference` and its verdict do.

    Equal accuracies: the share of comparisons that claim a difference (nominal 1 - level). Others: the share that claim
    the wrong sign. Both: the share of intervals that hold the true difference (nominal level). Each share with its
    Wilson interval over simulations. The same (n, level, seed) give the same numbers, whatever else is asked.
    """
    rows = []
    for truth in truths:
        tests, true = _differences(truth, n, level, seed), truth.config - truth.reference
        claimed = sum(settled(test) and np.sign(test.effect) != np.sign(true) for test in tests)
        held = sum(test.interval[0] <= true <= test.interval[1] for test in tests)
        rows.append(_row("false claims", "differences", truth, claimed, n, 1 - level, level))
        rows.append(_row("coverage", "differences", truth, held, n, level, level))
    return pd.DataFrame(rows)


def family_study(truth: Truth, configs: int, n: int, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Simulate n families of comparisons of equal configurations: how often any is claimed to differ, after Holm."""
    claimed = 0
    gc.freeze()  # Holm's correction of statsmodels collects garbage at each call, over all that was ever imported
    for number in range(n):
        right, images = outcomes(truth, rng_for(seed, "family", number), configs)
        pairs: dict = {str(c): (right[1 + c], right[0]) for c in range(configs)}
        claimed += bool(compare(pairs, cluster=images, level=level, seed=seed + number).settled())
    gc.unfreeze()
    what = f"any of {configs} differences, Holm"
    return pd.DataFrame([_row("false claims", what, truth, claimed, n, 1 - level, level)])


def equivalence_study(truth: Truth, margin: float, n: int, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Simulate n comparisons whose true loss is the margin, and count how often it is called smaller than that.

    margin: a fraction. The loss of `truth` is replaced by it: the hardest case, in which every claim is false.
    """
    edge = Truth(
        f"a loss of exactly {100 * margin:g} points",
        truth.reference,
        truth.reference - margin,
        truth.images,
        truth.questions,
    )
    claimed = 0
    for number in range(n):
        right, images = outcomes(edge, rng_for(seed, "margin", number))
        test = tost(right[1], right[0], margin, cluster=images, alpha=1 - level, seed=seed + number)
        claimed += test.p_non_inferior < 1 - level
    what = f"loses less than {100 * margin:g} points"
    return pd.DataFrame([_row("false claims", what, edge, claimed, n, 1 - level, level)])


def _classified(images: int, planted: float, rng: np.random.Generator) -> pd.DataFrame:
    """Outcome rows of two models whose log odds above chance differ by a constant, and by `planted` when corrupted."""
    odds = np.array([2.2, 1.6, 0.8, 0.0])
    shift = 0.5 + planted * (np.arange(4) > 0)
    accuracy = CHANCE + (1 - CHANCE) * special.expit(np.stack([odds, odds - shift]))
    latent = np.sqrt(_IMAGE) * rng.normal(size=(images, 1, 1)) + np.sqrt(_QUESTION) * rng.normal(size=(images, 1, 4))
    right = stats.norm.cdf(latent + np.sqrt(_OWN) * rng.normal(size=(images, 2, 4))) < accuracy
    item, config, cell = np.indices(right.shape).reshape(3, -1)
    names, severities = np.array(["clean", "fog", "fog", "fog"]), np.array([0, 1, 3, 5])
    configs = np.array(["reference", "config"])[config]
    columns = dict(item=item, config=configs, corruption=names[cell], severity=severities[cell])
    return pd.DataFrame(columns | dict(correct=right.ravel().astype(int)))


def gap_study(
    images: int, planted: float, n: int, *, n_boot: int = 500, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Simulate n robustness gaps of a known size (log odds): false claims, or of the wrong sign, and coverage."""
    truth = Truth(f"gap of {planted:g} log odds" if planted else "no gap", np.nan, np.nan, images)
    claimed = held = 0
    for number in range(n):
        rows = _classified(images, planted, rng_for(seed, "gap", planted, number))
        gap = robustness_gap(rows, "config", "reference", CHANCE, n_boot=n_boot, level=level, seed=seed + number)
        claimed += settled(gap) and np.sign(gap.effect) != np.sign(planted)
        held += gap.interval[0] <= planted <= gap.interval[1]
    rows = [("false claims", claimed, 1 - level), ("coverage", held, level)]
    return pd.DataFrame(
        [_row(study, "robustness gaps", truth, hits, n, nominal, level) for study, hits, nominal in rows]
    )
