"""LLaVA-Bench (in the wild): 60 open questions about 24 images, answered in sentences (Liu et al., 2023).

Its official score is the opinion of GPT-4, which no one can compute offline and which changes with that model. What is
computed here is another number, ROUGE-L with the answers of GPT-4 that the benchmark ships: it says how far the answers
of two configurations move, and it is not to be set beside published scores. The peer is `rouge_scorer` of
google-research, `rougeL` without stemming (Lin, 2004).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgelib.tasks.base import Task

_WORD = re.compile(r"[a-z0-9]+")


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many words the longest common subsequence of two lists of words has."""
    best = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, best[j] = best[j], diagonal + 1 if word == other else max(best[j], best[j - 1])
    return best[-1]


def rouge_l(prediction: str, reference: str) -> float:
    """Return ROUGE-L of two texts, in [0, 1], higher is better: 2 * common / (words of the one + words of the other).

    Words are runs of a-z and 0-9 in lower case; a text without words scores 0.
    """
    a, b = _WORD.findall(prediction.lower()), _WORD.findall(reference.lower())
    return 2 * longest_common(a, b) / (len(a) + len(b)) if a and b else 0.0


def _judge(predictions: list[str], references: list) -> dict:
    score = [rouge_l(text, reference) for text, reference in zip(predictions, references, strict=True)]
    return dict(score=score, said=list(predictions), parsed=[bool(_WORD.search(text.lower())) for text in predictions])


LLAVA_BENCH = Task(
    name="llava-bench",
    title="LLaVA-Bench",
    label="ROUGE-L with GPT-4's answers",
    image_id="image_id",
    columns=("category", "gpt_answer"),
    reference="gpt_answer",
    judge=_judge,
    category="category",
    strata=("category",),
)
