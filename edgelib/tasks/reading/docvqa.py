"""DocVQA: questions about scanned pages (Mathew et al., 2021), scored by ANLS (Biten et al., 2019).

The peer is the evaluation script of the Robust Reading Competition, task "Document Visual Question Answering": texts
in lower case with single spaces, the best of all answers that count, and nothing for less than half a match.
InfographicVQA is scored alike: name its image_url as docId.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgelib.tasks.base import Task
from edgelib.tasks.references import annotators

THRESHOLD = 0.5  # of similarity, below which an answer is another one and no misread one


def edit_distance(a: Sequence, b: Sequence) -> int:
    """Return the Levenshtein distance of two texts: how many letters must be put in, left out or replaced."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        corner, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (letter != other))
    return row[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity to the closest of the answers, in [0, 1]; 0 where it is below 0.5.

    The distance is one of normal forms, and its share one of the longer text as it was written, blanks included.
    """
    said = _form(prediction)
    shares = []
    for answer in answers:
        longer = max(len(answer.upper()), len(prediction.upper()))
        shares.append(edit_distance(said, _form(answer)) / longer if longer else 0.0)
    similarity = 1 - min(shares)
    return similarity if similarity >= THRESHOLD else 0.0


def _form(text: str) -> str:
    return " ".join(text.lower().split())


def _judge(predictions: list[str], references: list) -> dict:
    said = [_form(text) for text in predictions]
    score = [anls(text, answers) for text, answers in zip(predictions, references, strict=True)]
    return dict(score=score, said=said, parsed=[bool(text) for text in said])


DOCVQA = Task(
    name="docvqa",
    title="DocVQA",
    label="ANLS",
    image_id="docId",
    columns=("answers",),
    reference="answers",
    item=("questionId",),
    read=annotators,
    judge=_judge,
    primary="anls",
    instruction="Answer the question using a single word or phrase.",
)
