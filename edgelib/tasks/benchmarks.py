"""Whole benchmarks from rows of answers: the score of each, and paired differences of two models on the same questions.

Rows have image_id, category, prediction and reference (the annotators' answers, or yes and no). One point is 0.01, in
MME too, where 28 is the maximum of the total.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from edgelib.errors import choose
from edgelib.stats.paired import PairedDifference, paired_difference
from edgelib.tasks.mme import mme_difference, mme_interval
from edgelib.tasks.pope import pope_difference, pope_interval
from edgelib.tasks.vqa import vqa_interval

PRIMARY = {"vqa": "accuracy", "pope": "f1", "mme": "total"}
NAMES = {"vqa": "VQA accuracy", "pope": "POPE F1", "mme": "MME total"}
_POINT = 0.01  # of MME, whose scores are written in points


def _mme_frame(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {"category": "task", "image_id": "image", "reference": "answer"}
    return rows[[*columns, "prediction"]].rename(columns=columns)


def benchmark_scores(task: str, rows: pd.DataFrame, **boot) -> pd.DataFrame:
    """Return one row per score of a benchmark: score, value, low, high, n_clusters, n, unparsed; bounds by images.

    boot: level, n_boot and seed. Scores are those of `vqa_interval`, `pope_interval` and `mme_interval`.
    """
    choose(PRIMARY, task, "benchmark")
    if task == "mme":
        table = mme_interval(_mme_frame(rows), **boot)
        return table.assign(**{column: _POINT * table[column] for column in ("value", "low", "high")})
    if task == "pope":
        return pope_interval(rows["reference"], rows["prediction"], cluster=rows["image_id"], **boot)
    return vqa_interval(rows["prediction"], rows["reference"], cluster=rows["image_id"], **boot)


def benchmark_difference(
    task: str, a: pd.DataFrame, b: pd.DataFrame, score: str | None = None, **boot
) -> PairedDifference:
    """Return score(a) - score(b) with interval, p and mde, from answers to the same questions, row by row.

    score: None for the primary one (VQA accuracy, its only one; POPE F1; MME total). Both frames are in the same order
    and have image_id; for VQA score (`answer_scores`), for POPE prediction and reference, for MME these and category.
    boot: level, n_boot and seed; for VQA n_boot changes nothing, as in `paired_difference`.
    Raises EdgelibError for a benchmark or a score that there is not.
    """
    primary = choose(PRIMARY, task, "benchmark")
    score = primary if score is None else score
    if task == "mme":
        a, b = (own[own["category"] == score] if score in set(own["category"]) else own for own in (a, b))
        test = mme_difference(_mme_frame(a), _mme_frame(b), score=score, **boot)
        interval = tuple(_POINT * bound for bound in test.interval)
        return replace(test, effect=_POINT * test.effect, interval=interval, mde=_POINT * test.mde)
    if task == "pope":
        said = a["prediction"], b["prediction"]
        return pope_difference(a["reference"], *said, score=score, cluster=a["image_id"], **boot)
    choose({primary: None}, score, "VQA score")
    scores, drawn = (a["score"].to_numpy(), b["score"].to_numpy()), {k: v for k, v in boot.items() if k != "n_boot"}
    return paired_difference(*scores, cluster=a["image_id"].to_numpy(), **drawn)
