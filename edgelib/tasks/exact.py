"""Questions of one's own: an answer is right if it is, in normal form, one of the answers that count.

The normal form is that of VQA (`edgelib.tasks.vqa.normalise`); with it, this is the accuracy that easy-VQA and GQA
report, of which every answer is a class.
"""

from __future__ import annotations

import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.tasks.base import Task
from edgelib.tasks.vqa import normalise

ANSWERS = "answers"  # another name for the column of answers


def answers_that_count(column: pd.Series, where: str) -> list[list[str]]:
    """Return the answers of each question, any of which is right; whole numbers become texts.

    Raises EdgelibError naming the first row with anything else, or without an answer.
    """
    return [_answers(value, row, column.name, where) for row, value in enumerate(column)]


def _answers(value: object, row: int, name: object, where: str) -> list[str]:
    entries = value.tolist() if hasattr(value, "tolist") else value
    entries = entries if isinstance(entries, list) else [entries]
    said = [str(e) if isinstance(e, int) and not isinstance(e, bool) else e for e in entries]
    if not said or not all(isinstance(text, str) and text.strip() for text in said):
        raise EdgelibError(
            f"column {name!r} of {where} must hold an answer as text or whole number, or a list of answers that count, "
            f"got {value!r} in row {row}; complete or drop the row"
        )
    return said


def exact_matches(predictions, answers) -> list[bool]:
    """Return of n predictions whether each is, in normal form, one of its answers; answers: a text or texts of each."""
    given = [{_form(text) for text in ([some] if isinstance(some, str) else some)} for some in answers]
    return [_form(text) in some for text, some in zip(predictions, given, strict=True)]


def _form(text: str) -> str:
    """The normal form, or what is written where nothing is left of it: "a" is an article, and no empty answer."""
    return normalise(text) or text.strip().lower()


def _judge(predictions: list[str], references: list) -> dict:
    said = [normalise(text) for text in predictions]
    return dict(score=exact_matches(predictions, references), said=said, parsed=[bool(text) for text in said])


EXACT = Task(
    name="exact",
    title="Own questions",
    label="Exact match",
    image_id="image_id",
    columns=("answer",),
    reference="answer",
    read=answers_that_count,
    judge=_judge,
    numbered=True,
)
