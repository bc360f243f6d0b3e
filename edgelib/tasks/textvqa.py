"""TextVQA: questions whose answer is written in the picture, ten annotators each (Singh et al., 2019).

The peer is `TextVQAAccuracyEvaluator` with `EvalAIAnswerProcessor` of facebookresearch/mmf, `m4c_evaluators.py` at
2dc099a, which lmms-eval uses too. The ladder is that of VQA: 0.3, 0.6, 0.9, 1 for 1, 2, 3, 4 or more matches among ten.
But texts are always compared in normal form, with no exception where all annotators wrote the same, and the normal form
is another (`normalise_read`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.tasks.base import Task, as_written
from edgelib.tasks.references import annotators
from edgelib.tasks.vqa import annotated_accuracies, leave_one_out, normalise

ANNOTATORS = 10


def normalise_read(text: str) -> str:
    """Return the normal form of a text: `normalise`, after commas and question marks are out and "'s" stands apart.

    So "1,000-km" is "1000 km", which in VQA is "1000km", and "Joe's" is "joe 's".
    """
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def ten_annotators(column: pd.Series, where: str) -> list[list[str]]:
    """Return the ten texts of each question. Raises EdgelibError for another number, and for ten that are empty.

    The test split holds ten empty texts, so that an empty answer would be right. Records {"answer": text} are VQAv2's.
    """
    given = annotators(column, where)
    for row, (said, value) in enumerate(zip(given, column, strict=True)):
        if not all(isinstance(entry, str) for entry in value):
            raise EdgelibError(
                f"column {column.name!r} of {where} holds records, as VQAv2 does, but the other columns of VQAv2, "
                "question_type and answer_type, are missing; add them, or write ten plain texts to be read as TextVQA"
            )
        if len(said) != ANNOTATORS:
            raise EdgelibError(
                f"column {column.name!r} of {where} must hold {ANNOTATORS} texts a question, as TextVQA does, got "
                f"{len(said)} in row {row}; another benchmark with these columns needs a task of its own"
            )
        if not any(text.strip() for text in said):
            raise EdgelibError(
                f"column {column.name!r} of {where} has only empty texts in row {row}; the test split of TextVQA has "
                "no answers and cannot be scored: take validation"
            )
    return given


def textvqa_accuracies(predictions, answers) -> np.ndarray:
    """Return the accuracy of each of n predictions, [n] in [0, 1]: the mean over annotators of min(matches / 3, 1).

    matches: how many of the other annotators wrote the same in normal form (`normalise_read`). answers: n lists of the
    annotators' texts. Raises EdgelibError as `vqa_accuracies`.
    """
    normal = cache(normalise_read)
    return annotated_accuracies(
        predictions, answers, lambda said, given: leave_one_out(normal(said), [normal(text) for text in given])
    )


def _judge(predictions: list[str], references: list) -> dict:
    said = [normalise_read(text) for text in predictions]
    return dict(score=textvqa_accuracies(predictions, references), said=said, parsed=[bool(text) for text in said])


def _capitalised(table: pd.DataFrame) -> list[str]:
    """As lmms-eval asks: the questions are written in lower case."""
    return [question.capitalize() for question in as_written(table)]


TEXTVQA = Task(
    name="textvqa",
    title="TextVQA",
    label="TextVQA accuracy",
    image_id="image_id",
    columns=("answers",),
    reference="answers",
    read=ten_annotators,
    judge=_judge,
    prompt=_capitalised,
    instruction="Answer the question using a single word or phrase.",
)
