"""POPE: does a model say that an object is there when it is not? (Li et al., 2023)

The peer is AoiDragon/POPE, `evaluate.py` at 08d957b. Its parser knows no third answer: what is not a "no" counts as
"yes", an empty answer too, so a model that breaks down looks like one that says yes. The count of such answers
(`unparsed`) and the share of yes answers belong beside every F1.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import REPLICATES, PairedDifference, rng_for
from edgelib.tasks.base import Task
from edgelib.tasks.references import yes_or_no
from edgelib.tasks.scores import bootstrap_means, difference, interval_table, swap_p
from edgelib.tasks.yes_no import answer_texts, spoken, yes_labels

# One item of each outcome, in the columns right, yes rightly said, yes said, yes labelled.
_PSEUDO = np.array([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
_HIT, _MISS = _PSEUDO[[0, 2]]
SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def _official(text: str) -> str:
    """A "No", "no" or "not" between spaces in the first sentence is no, all else yes; commas do not count."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


RULES = {"official": _official, "strict": spoken}


def _columns(labels, answers, rule: str) -> tuple[np.ndarray, int]:
    """(columns [n, 4]: right, yes rightly said, yes said, yes labelled; number of unparsed answers)."""
    parse = choose(RULES, rule, "POPE rule")
    yes, texts = yes_labels(labels), answer_texts(answers)
    if len(yes) != len(texts):
        raise EdgelibError(f"labels and answers must be of the same questions: got {len(yes)} and {len(texts)} of them")
    if not texts:
        raise EdgelibError("there are no answers to score; give at least one")
    said = np.array([parse(text) or "" for text in texts])
    right = said == np.where(yes, "yes", "no")
    return np.column_stack([right, yes & right, said == "yes", yes]), sum(spoken(text) is None for text in texts)


def _scores(means: np.ndarray) -> dict[str, np.ndarray]:
    """{score: [...]} from means [..., 4] of the columns; a ratio without denominator is 0."""
    right, hit, said, labelled = np.moveaxis(np.asarray(means, dtype=float), -1, 0)

    def ratio(top, bottom):
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)

    values = (right, ratio(hit, said), ratio(hit, labelled), ratio(2 * hit, said + labelled), said)
    return dict(zip(SCORES, values, strict=True))


def pope_scores(labels, answers, rule: str = "official") -> dict:
    """Return dict(accuracy, precision, recall, f1, yes_ratio, n, unparsed); the five scores are fractions in [0, 1].

    "yes" is the positive class: precision = right yes / yes answers, recall = right yes / yes labels, f1 = 2 * right
    yes / (yes answers + yes labels). Where there is nothing to divide by, 0. yes_ratio: share of yes *answers*.
    labels: "yes" / "no" in any case, or booleans; answers: texts, or records {"answer": text}.
    rule: "official" takes as no any answer whose first sentence has No, no or not between spaces, all else as yes.
    "strict" takes the one of the words yes and no that the answer has, in any case; with neither or both it is wrong,
    and no "yes" answer.
    unparsed: under both rules, the answers in which "strict" finds neither or both.
    Raises EdgelibError for labels and answers of other kinds, empty input, lengths that differ and unknown rules.
    """
    columns, unparsed = _columns(labels, answers, rule)
    scores = {name: float(value) for name, value in _scores(columns.mean(axis=0)).items()}
    return scores | dict(n=len(columns), unparsed=unparsed)


def pope_interval(
    labels,
    answers,
    *,
    rule: str = "official",
    cluster=None,
    level: float = 0.95,
    n_boot: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per score of `pope_scores`: score, value, low, high, n_clusters, n, unparsed.

    Percentile bootstrap over clusters, with a pseudo-item of each outcome in the pool; cluster: one image id per item
    (POPE asks six questions per image). Arguments and errors as `pope_scores` and `paired_difference`.
    """
    columns, unparsed = _columns(labels, answers, rule)
    means, clusters = bootstrap_means(columns, cluster, _PSEUDO, n_boot, rng_for(seed, "pope"))
    return interval_table(_scores(means), clusters, level).assign(n=len(columns), unparsed=unparsed)


def pope_difference(
    labels,
    a,
    b,
    *,
    score: str = "f1",
    rule: str = "official",
    cluster=None,
    level: float = 0.95,
    n_boot: int = REPLICATES,
    seed: int = 0,
) -> PairedDifference:
    """Return score(a) - score(b) of two models' answers to the same questions, with interval, p, n and mde.

    score: one of accuracy, precision, recall, f1, yes_ratio, a fraction (0.01 = one point).
    - interval: one bootstrap over clusters draws the same images for both; two pseudo-items join the pool, a "yes" that
      only a, and one that only b gets right.
    - p: random swaps of the two models' answers within clusters.
    Raises EdgelibError as `pope_interval`, and for an unknown score.
    """
    choose(dict.fromkeys(SCORES), score, "POPE score")
    a, b = _columns(labels, a, rule)[0], _columns(labels, b, rule)[0]
    pseudo = [[*_HIT, *_MISS], [*_MISS, *_HIT]]
    means, clusters = bootstrap_means(np.hstack([a, b]), cluster, pseudo, n_boot, rng_for(seed, "pope"))
    draws = _scores(means[:, :4])[score] - _scores(means[:, 4:])[score]
    p = swap_p(a, b, cluster, lambda means: _scores(means)[score], rng_for(seed, "pope swaps"))
    return difference(draws, p, len(a), clusters, level)


def _judge(predictions: list[str], references: list) -> dict:
    said = [_official(text) for text in predictions]
    right = [s == ("yes" if yes else "no") for s, yes in zip(said, yes_labels(references), strict=True)]
    return dict(score=right, said=said, parsed=[spoken(text) is not None for text in predictions])


def _interval(rows: pd.DataFrame, **boot) -> pd.DataFrame:
    return pope_interval(rows["reference"], rows["prediction"], cluster=rows["image_id"], **boot)


def _paired(a: pd.DataFrame, b: pd.DataFrame, score: str, **boot) -> PairedDifference:
    said = a["prediction"], b["prediction"]
    return pope_difference(a["reference"], *said, score=score, cluster=a["image_id"], **boot)


POPE = Task(
    name="pope",
    title="POPE",
    label="POPE F1",
    image_id="image_source",
    columns=("category", "answer"),
    reference="answer",
    read=yes_or_no,
    judge=_judge,
    item=("category", "question_id"),  # whose numbers begin anew in each category
    category="category",
    strata=("category", "answer"),
    yes_no=True,
    primary="f1",
    interval=_interval,
    paired=_paired,
)
