"""Scores of single answers: their means are the scores of the benchmarks, and their differences those of models."""

from __future__ import annotations

import pandas as pd
import pytest

import edgelib
from edgelib.errors import EdgelibError
from edgelib.tasks.answers import answer_scores
from edgelib.tasks.benchmarks import benchmark_difference
from edgelib.tasks.mme import mme_scores
from edgelib.tasks.vqa import vqa_scores

SAID = ["Yes", "no.", "There is not one", "Yes and no", "", "nothing", "yes, a cat", "I know"]
LABELS = ["yes", "no", "no", "yes", "no", "yes", "no", "no"]


def test_vqa_scores_are_the_means_of_their_answers():
    answers = [["yes"] * 10, ["no"] * 7 + ["yes"] * 3, ["2"] * 10, ["a cat"] * 4 + ["dog"] * 6] * 2
    rows, whole = answer_scores("vqa", SAID, answers), vqa_scores(SAID, answers)
    assert rows["score"].mean() == pytest.approx(whole["accuracy"])
    assert (~rows["parsed"]).sum() == whole["unparsed"] == 1


def test_pope_scores_are_the_means_of_their_answers():
    rows, whole = answer_scores("pope", SAID, LABELS), edgelib.pope_scores(LABELS, SAID)
    assert rows["score"].mean() == pytest.approx(whole["accuracy"])
    assert (rows["said"] == "yes").mean() == pytest.approx(whole["yes_ratio"])
    assert (~rows["parsed"]).sum() == whole["unparsed"]


def test_mme_scores_are_the_means_of_their_answers():
    frame = pd.DataFrame(dict(task="count", image=[i // 2 for i in range(8)], answer=LABELS, prediction=SAID))
    rows, whole = answer_scores("mme", SAID, LABELS), mme_scores(frame)
    assert rows["score"].mean() == pytest.approx(whole["per_task"]["count"]["acc"])
    assert (~rows["parsed"]).sum() == whole["unparsed"]


def test_a_task_that_nobody_scores_is_refused():
    with pytest.raises(EdgelibError, match="unknown task of answers 'caption'"):
        answer_scores("caption", SAID, LABELS)


@pytest.mark.parametrize(
    ("task", "score", "words"),
    [
        pytest.param("vqa", "f1", "unknown VQA score 'f1'; choose from accuracy", id="a score of another benchmark"),
        pytest.param("gqa", "accuracy", "unknown benchmark 'gqa'.*mme, pope, vqa", id="a benchmark nobody scores"),
    ],
)
def test_differences_of_what_is_not_scored_are_refused(task, score, words):
    rows = pd.DataFrame(dict(image_id=["a", "b"], score=[1.0, 0.0]))
    with pytest.raises(EdgelibError, match=words):
        benchmark_difference(task, rows, rows, score)


def test_a_vqa_difference_needs_images_and_scores_only():
    a, b = (pd.DataFrame(dict(image_id=list("aabb"), score=score)) for score in ([1, 0.9, 0, 0.3], [0.9, 0, 0, 0.3]))
    test = benchmark_difference("vqa", a, b, "accuracy", n_boot=100)
    assert test.effect == pytest.approx(0.25) and test.n_clusters == 2
