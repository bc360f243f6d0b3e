"""What a benchmark is: the tables it comes in, how it asks, what an answer is worth and what a model is worth.

A benchmark is one file of this room that makes a `Task`, and one line in `edgelib.tasks.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.tasks.references import texts
from edgelib.tasks.yes_no import answer_texts

QUESTION = "question"


def as_written(table: pd.DataFrame) -> list[str]:
    """The questions of a table as they stand in it."""
    return table[QUESTION].tolist()


@dataclass(frozen=True)
class Task:
    """A benchmark of questions about images. Its functions stand at the top of a module, so that processes share it.

    What it is called
    - name: in parameters, in the column `task` of rows and in `scenes-<name>`; lower case, unique.
    - title: the benchmark; label: its primary score, as tables, axes and sentences say it.
    - unit: of 100 times a score, "%" or "points".

    Its tables, beside an image column
    - image_id: column that names an image, the cluster of every interval.
    - columns: those that it needs beside the ids and question; a set of questions keeps them all.
    - reference: one of them, with the right answer. read: (column, where) -> checked references, each a text, or a list
      of texts of equal standing; see `edgelib.tasks.references`.
    - item: columns that name a question among all.
    - category: column by which answers are told apart, if any. strata: columns over whose values balanced draws of
      questions take turns. image_strata: column over whose values draws of images take turns.
    - second_language: (column, value) of the questions that show another language than English.
    - fewest_images: with fewer, its scores mean nothing.
    - numbered: whether its tables may do without ids: questions are counted then, images told apart by what they show,
      and the column of answers may be called by its plural.

    How it asks
    - prompt: table -> what is asked, one text a row. instruction: a line below each question, unless the caller gives
      another. yes_no: whether every answer is yes or no.

    What it counts
    - judge: (answers, references) -> dict(score in [0, 1], said, parsed) of lists, one entry an answer.
    - primary: the score that stands for the benchmark. interval: (rows, **boot) -> what `benchmark_scores` returns;
      paired: (a, b, score, **boot) -> what `benchmark_difference` returns. Both None where the score is the mean of
      what single answers are worth.

    Raises EdgelibError for a column that is named but not among `columns`.
    """

    name: str
    title: str
    label: str
    image_id: str
    columns: tuple[str, ...]
    reference: str
    judge: Callable[[list[str], list], dict]
    read: Callable[[pd.Series, str], list] = texts
    item: tuple[str, ...] = ("question_id",)
    category: str | None = None
    strata: tuple[str, ...] = ()
    image_strata: str | None = None
    second_language: tuple[str, str] | None = None
    fewest_images: int = 2
    numbered: bool = False
    prompt: Callable[[pd.DataFrame], list[str]] = as_written
    instruction: str = ""
    yes_no: bool = False
    primary: str = "accuracy"
    unit: str = "%"
    interval: Callable[..., pd.DataFrame] | None = None
    paired: Callable[..., Any] | None = None

    def __post_init__(self):
        language = self.second_language[:1] if self.second_language else ()
        named = (self.reference, self.category, self.image_strata, *self.strata, *language)
        for column in filter(None, named):
            if column not in self.columns:
                raise EdgelibError(
                    f"task {self.name!r} names the column {column!r}, which is not among its columns "
                    f"{', '.join(self.columns)}; add it there"
                )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that a table must have, beside the image."""
        return tuple(dict.fromkeys([self.item[0], self.image_id, QUESTION, *self.columns, *self.item]))

    def answer_scores(self, predictions, references) -> pd.DataFrame:
        """Return one row per answer: score in [0, 1], higher is better; said; parsed.

        predictions: texts; references: as `read` returns them. said: the answer as the evaluator reads it; parsed:
        whether it read anything. Raises EdgelibError for predictions that are no texts, and as `judge`.
        """
        worth = pd.DataFrame(self.judge(answer_texts(predictions, "predictions"), list(references)))
        return worth.astype({"score": float, "parsed": bool})
