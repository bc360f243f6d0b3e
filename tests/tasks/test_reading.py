"""Scores of models that read: ANLS and relaxed accuracy, against their evaluators' rules written out."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import edgelib
from edgelib.tasks.benchmarks import TASKS, benchmark_scores
from edgelib.tasks.reading.chartqa import relaxed_match
from edgelib.tasks.reading.docvqa import anls, edit_distance

TEXT = st.text("abA 1%", max_size=6)


def by_definition(a: str, b: str) -> int:
    """The shortest chain of edits, letter by letter from the front."""
    if not a or not b:
        return len(a) + len(b)
    return min(by_definition(a[1:], b[1:]) + (a[0] != b[0]), by_definition(a[1:], b) + 1, by_definition(a, b[1:]) + 1)


@given(TEXT, TEXT, TEXT)
def test_edit_distance_is_the_shortest_chain_of_edits(a, b, c):
    assert edit_distance(a, b) == by_definition(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


# The first four stand in the papers (Biten et al., 2019; Mathew et al., 2021) or follow from their formula at once.
@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("ITC", ["itc"], 1.0),
        ("Dr. Hawking", ["Dr Hawking"], 10 / 11),
        ("stop", ["exit", "spot", "shop"], 0.75),
        ("no", ["yes"], 0.0),
        ("abcd", ["abxy"], 0.5),
        ("abcd", ["axyz"], 0.0),
        ("  two   words ", ["two words"], 1.0),
        ("", ["a"], 0.0),
        ("a   b", ["a c"], 0.8),
    ],
)
def test_anls_is_the_share_that_was_read_right(said, answers, score):
    assert anls(said, answers) == pytest.approx(score)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_anls_is_the_best_over_answers_and_never_between_zero_and_half(said, answers):
    score = anls(said, answers)
    assert score == max(anls(said, [answer]) for answer in answers) and (score == 0 or 0.5 <= score <= 1)


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("105", "100", True),
        ("95", "100.0", True),
        ("105.1", "100", False),
        ("-104", "-100", True),
        ("12%", "0.12", True),
        ("12", "12%", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("Blue", "blue", True),
        ("blue.", "blue", False),
        ("1,000", "1000", False),
        ("nan", "3", False),
        ("inf", "3", False),
    ],
)
def test_relaxed_accuracy_lets_numbers_be_a_twentieth_off(said, answer, right):
    assert relaxed_match(said, answer) is right


def table(folder, **columns):
    """Six questions about three pictures, as parquet."""
    rows = []
    for number in range(6):
        picture = np.random.default_rng(number // 2).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(buffer := io.BytesIO(), "PNG")
        row = {"question": f"What does line {number} say?", "image": {"bytes": buffer.getvalue(), "path": None}}
        rows.append(row | {name: values[number] for name, values in columns.items()})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")
    return folder


def test_the_columns_of_docvqa_are_read_and_scored(tmp_path):
    answers = [["ITC Limited", "itc limited"]] * 6
    folder = table(
        tmp_path / "docvqa",
        questionId=[str(n) for n in range(6)],
        docId=[n // 2 for n in range(6)],
        question_types=[["layout"]] * 6,
        answers=answers,
    )
    data = edgelib.dataset(folder, "validation")
    assert data.task is TASKS["docvqa"] and len(data.images) == 3 and data.rows["item"][5] == "validation/5"
    rows = data.rows.assign(prediction=["ITC Limited", "itc limitd", "?"] * 2, reference=answers, category="all")
    [found] = benchmark_scores("docvqa", rows, n_boot=100).to_dict("records")
    assert found["score"] == "anls" and found["value"] == pytest.approx((1 + 10 / 11) / 3)


def test_infographics_are_read_by_naming_their_image_url(tmp_path):
    columns = dict(questionId=list("012345"), image_url=[f"u{n // 2}" for n in range(6)], answers=[["a"]] * 6)
    folder = table(tmp_path / "info", **columns)
    with pytest.raises(edgelib.errors.EdgelibError, match="docvqa lacks docId"):
        edgelib.dataset(folder, "validation")
    data = edgelib.dataset(folder, "validation", columns={"docId": "image_url"})
    assert data.task is TASKS["docvqa"] and len(data.images) == 3


def test_charts_are_read_by_naming_the_role_of_their_answers(tmp_path):
    folder = table(tmp_path / "chartqa", type=["human_test"] * 6, answer=["14", "Yes", "0.57", "3", "Blue", "2019"])
    data = edgelib.dataset(folder, "validation", columns={"chart_answer": "answer"})
    assert data.task is TASKS["chartqa"] and len(data.images) == 3
    worth = data.task.answer_scores(["14.5", "yes", "57%", "4", "blue", "2020"], data.rows["chart_answer"])
    assert worth["score"].tolist() == [1, 1, 1, 0, 1, 1]
