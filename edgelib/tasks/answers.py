"""Scores of single answers by the official rule of their benchmark: what a row of answers is worth."""

from __future__ import annotations

import pandas as pd

from edgelib.errors import choose
from edgelib.tasks.mme import read_answer
from edgelib.tasks.pope import RULES as POPE_RULES
from edgelib.tasks.vqa import normalise, vqa_accuracies
from edgelib.tasks.yes_no import answer_texts, spoken, yes_labels


def _vqa(predictions: list[str], references) -> dict:
    said = [normalise(text) for text in predictions]
    return dict(score=vqa_accuracies(predictions, references), said=said, parsed=[bool(text) for text in said])


def _pope(predictions: list[str], references) -> dict:
    said = [POPE_RULES["official"](text) for text in predictions]
    right = [s == ("yes" if yes else "no") for s, yes in zip(said, yes_labels(references), strict=True)]
    return dict(score=right, said=said, parsed=[spoken(text) is not None for text in predictions])


def _mme(predictions: list[str], references) -> dict:
    said = [read_answer(text) for text in predictions]
    right = [s == ("yes" if yes else "no") for s, yes in zip(said, yes_labels(references), strict=True)]
    return dict(score=right, said=said, parsed=[s != "other" for s in said])


_TASKS = {"vqa": _vqa, "pope": _pope, "mme": _mme}


def answer_scores(task: str, predictions, references) -> pd.DataFrame:
    """Return one row per answer: score in [0, 1], higher is better; said; parsed.

    task: "vqa", "pope" or "mme". references: lists of annotators' answers (vqa), else "yes" or "no".
    score: VQA accuracy, or 1 for a right yes or no, as the official evaluators count. said: the answer as the evaluator
    reads it. parsed: False for an answer without words (vqa), or with neither or both of yes and no (pope, by the rule
    "strict"), or none in its first four characters (mme).
    Raises EdgelibError as `vqa_accuracies` and `yes_labels`, and for an unknown task.
    """
    read = choose(_TASKS, task, "task of answers")
    found = pd.DataFrame(read(answer_texts(predictions, "predictions"), list(references)))
    return found.astype({"score": float, "parsed": bool})
