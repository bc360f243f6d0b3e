"""ChartQA: questions about charts (Masry et al., 2022), scored by relaxed accuracy: numbers may be 5 % off.

The peer is `relaxed_correctness` of google-research's pix2struct, which lmms-eval uses too. As published, its tables
have no column of their own to be told by: name the answers' role, columns={"chart_answer": "answer"}.
"""

from __future__ import annotations

from edgelib.tasks.base import Task

TOLERANCE = 0.05  # relative, of a number


def relaxed_match(prediction: str, answer: str) -> bool:
    """Return whether a number is within 5 % of the answer's, or else the texts are the same in lower case.

    "12%" is the number 0.12. An answer of zero is compared as a text, as in the peer.
    """
    said, right = _number(prediction), _number(answer)
    if said is not None and right:
        return abs(said - right) / abs(right) <= TOLERANCE
    return prediction.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _judge(predictions: list[str], references: list) -> dict:
    said = [text.lower() for text in predictions]
    score = [relaxed_match(text, answer) for text, answer in zip(predictions, references, strict=True)]
    return dict(score=score, said=said, parsed=[bool(text.strip()) for text in said])


CHARTQA = Task(
    name="chartqa",
    title="ChartQA",
    label="Relaxed accuracy",
    image_id="image_id",
    columns=("chart_answer",),
    reference="chart_answer",
    judge=_judge,
    numbered=True,
    instruction="Answer the question with a single word.",
)
