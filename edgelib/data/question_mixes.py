"""Calibration sets of questions: the mixes of `MIXES`, drawn from a benchmark for models that write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from edgelib.data.datasets import drawing_order
from edgelib.data.images import Images, image_digests
from edgelib.data.labelled import Dataset
from edgelib.data.mixes import Mix
from edgelib.data.question_tables import Asked
from edgelib.data.questions import IMAGE_SEEN, QuestionSet
from edgelib.errors import EdgelibError

LANGUAGE = "language"  # the column of a source that says it for each question


def question_calibration(
    name: str,
    split: str,
    pool: Asked,
    mix: Mix,
    label: str,
    n: int,
    seed: int,
    exclude: Dataset | QuestionSet | None,
    change: Callable[[Images], Images],
    spread: Callable[[float, int, int], np.ndarray],
) -> QuestionSet:
    """Draw a calibration set of n questions from a pool; `image_seen` says which of them come with their image.

    change: what the mix does to images. spread: (share, n, seed) -> which of n items a tower sees. A question that the
    mix leaves to its image alone is empty. Raises EdgelibError as `_drawn`.
    """
    chosen = _drawn(pool, name, split, mix, label, n, seed, exclude)
    kept = pd.unique(chosen["image"])
    place = pd.Series(np.arange(len(kept)), index=kept)
    seen = spread(mix.image_share, n, seed)
    rows = chosen.assign(**{"image": place[chosen["image"]].to_numpy(), IMAGE_SEEN: seen, "split": split})
    if mix.language is not None and not mix.paired:
        rows["question"] = rows["question"].where(~seen, "")
    return QuestionSet(f"{name} ({label})", pool.task, rows, change(pool.fetch(kept)), split)


def _drawn(
    pool: Asked, name: str, split: str, mix: Mix, label: str, n: int, seed: int, exclude: Dataset | QuestionSet | None
) -> pd.DataFrame:
    """n rows of the pool. Raises EdgelibError as `candidates`, and for fewer than n questions left."""
    ordered = candidates(pool, name, mix, label, seed)
    if exclude is not None:
        ordered = _outside(pool, ordered, n, exclude)
    if len(ordered) < n:
        held = "" if exclude is None else f" outside {exclude.name!r}, which is excluded"
        raise EdgelibError(
            f"n={n} calibration questions were asked of {name!r}, whose split {split!r} has {len(ordered)} for "
            f"{label!r}{held}; ask for at most that many"
        )
    return ordered.head(n)


def refuse_classes(mix: Mix, label: str) -> None:
    """Raise EdgelibError for a mix of classes, which questions do not have."""
    if mix.draw == "one class":
        raise EdgelibError(f"calibration mix {label!r} is of classes, and questions have none; take balanced")


def candidates(pool: Asked, name: str, mix: Mix, label: str, seed: int) -> pd.DataFrame:
    """The rows of a pool that a mix may take, in drawing order.

    The strata of the task (sub-tasks, question types, categories and answers) take turns, but for a mix that draws
    uniformly. "english" leaves out, and "second-language" takes only, what is asked in another language.
    Raises EdgelibError for a mix of classes and a source that does not say its languages.
    """
    refuse_classes(mix, label)
    rows = _in_language(pool, mix, name) if mix.paired else pool.rows
    strata = list(pool.task.strata)
    labels = rows.groupby(strata).ngroup().to_numpy() if strata else np.zeros(len(rows), np.int64)
    return rows.iloc[drawing_order(labels, seed, balanced=mix.draw != "uniform", backwards=True)]


def _in_language(pool: Asked, mix: Mix, name: str) -> pd.DataFrame:
    rows = pool.rows
    if LANGUAGE in rows:
        english = rows[LANGUAGE].str.lower().isin(["en", "english"])
    elif pool.task.second_language is not None:
        column, other = pool.task.second_language
        english = rows[column] != other
    else:
        raise EdgelibError(
            f"{name!r} does not say which language its questions are in: it needs a column {LANGUAGE!r}, or to be of a "
            "benchmark that tells, such as MME; take the mix balanced"
        )
    return rows[english if mix.language == "english" else ~english]


def _outside(pool: Asked, ordered: pd.DataFrame, n: int, exclude: Dataset | QuestionSet) -> pd.DataFrame:
    """The first rows in order whose images are none of the excluded, by pixels; fewer than n if no more are left."""
    held = set(image_digests(exclude.images))
    verdict: dict[int, bool] = {}
    for start in range(0, len(ordered), n):
        fresh = np.array([p for p in pd.unique(ordered["image"].iloc[start : start + n]) if p not in verdict])
        if len(fresh):
            verdict |= dict(zip(fresh.tolist(), (d not in held for d in image_digests(pool.fetch(fresh))), strict=True))
        kept = ordered["image"].map(verdict).eq(True)
        if kept.sum() >= n:
            break
    return ordered[kept]
