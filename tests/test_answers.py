"""Scores of single answers: their means are the scores of the benchmarks."""

from __future__ import annotations

import pandas as pd
import pytest

import edgelib
from edgelib.errors import EdgelibError
from edgelib.measure.answers import answer_scores
from edgelib.measure.mme import mme_scores
from edgelib.measure.vqa import vqa_scores

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
