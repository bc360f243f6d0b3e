"""Questions from tables in the columns of the benchmarks that `edgelib.tasks.benchmarks` lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.data.images import Images
from edgelib.data.readers.sources import Options
from edgelib.tasks.base import QUESTION, Task
from edgelib.tasks.references import texts


@dataclass(frozen=True)
class Asked:
    """One split of questions, before any image is decoded: rows with `image`, and fetch(positions of images).

    beginning: whether it is the beginning of a longer split, of which a draw takes the first images.
    """

    task: Task
    rows: pd.DataFrame
    fetch: Callable[[np.ndarray], Images]
    beginning: bool = False

    @property
    def strata(self) -> np.ndarray:
        """A small whole number for each image, in the order of `image`: what draws of images take turns over."""
        first = self.rows.drop_duplicates("image").set_index("image").sort_index()
        told = self.task.image_strata
        return np.zeros(len(first), np.int64) if told is None else pd.factorize(first[told])[0]

    def chosen(self, images: np.ndarray) -> tuple[pd.DataFrame, Images]:
        """All questions about the images at these positions, in that order, and the images."""
        place = pd.Series(np.arange(len(images)), index=images)
        rows = self.rows[self.rows["image"].isin(images)]
        rows = rows.assign(image=place[rows["image"]].to_numpy()).sort_values("image", kind="stable")
        return rows, self.fetch(images)


def is_question_table(names: Iterable[str], options: Options) -> bool:
    """Whether a table's columns ask questions: it has `question`, and the caller names no label column."""
    return QUESTION in names and not options.labelled


def question_rows(table: pd.DataFrame, task: Task, split: str, where: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of a `QuestionSet` from a table's own columns, and the row in which each distinct image stands first.

    item is 'split/' and what the task names a question by, with a number after it where two rows share that; question
    is as the task asks. Raises EdgelibError for values of a wrong kind, naming the first row.
    """
    rows = table.reset_index(drop=True)
    if task.numbered:
        rows = _completed(rows, task)
    rows[task.reference] = task.read(rows[task.reference], where)  # first: a split without answers says so
    for column in (QUESTION, *task.columns):
        if column != task.reference:
            texts(rows[column], where)
    rows[QUESTION] = task.prompt(rows)
    ids = rows[task.item[0]].astype(str).str.cat([rows[name].astype(str) for name in task.item[1:]], sep="/")
    again = ids.groupby(ids).cumcount()
    ids = ids.where(~ids.duplicated(keep=False), ids + "#" + again.astype(str))
    image, names = pd.factorize(rows[task.image_id].astype(str))
    first = np.unique(image, return_index=True)[1]
    rows = rows.drop(columns=["item", "image", "image_id"], errors="ignore")
    rows.insert(0, "item", [f"{split}/{i}" for i in ids])
    rows.insert(1, "image", image)
    rows.insert(2, "image_id", names.to_numpy()[image])
    return rows, first


def _completed(rows: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Questions with one column of answers, counted where they have no ids."""
    plural = f"{task.reference}s"
    if task.reference not in rows and plural in rows:
        rows = rows.rename(columns={plural: task.reference})
    missing = [name for name in task.item if name not in rows]
    return rows.assign(**dict.fromkeys(missing, np.arange(len(rows)).astype(str)))


def with_images(asked: tuple[pd.DataFrame, np.ndarray], task: Task, fetch: Callable[[np.ndarray], Images]) -> Asked:
    """Questions whose image i stands in row first[i] of a table that fetches images by row."""
    rows, first = asked
    return Asked(task, rows, lambda positions: fetch(first[positions]))
