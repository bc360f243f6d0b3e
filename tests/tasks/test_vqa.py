"""VQA accuracy against the official evaluator, its definition by brute force, and what people get wrong with it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers import REFERENCE
from hypothesis import given
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.stats.paired import paired_difference
from edgelib.tasks import vqa
from edgelib.tasks.benchmarks import benchmark_scores

PEER = json.loads((REFERENCE / "metrics" / "vqav2.json").read_text(encoding="utf-8"))
CASES = [
    (prediction, [text for times, text in runs for _ in range(times)], official, always)
    for prediction, runs, official, always in PEER["cases"]
]
TEN_YES = ["yes"] * 10


def test_official_rule_equals_the_official_evaluator():
    ours = [100 * vqa.vqa_accuracy(prediction, answers) for prediction, answers, _, _ in CASES]
    assert ours == pytest.approx([official for _, _, official, _ in CASES], abs=0.005 + 1e-9)


def test_always_normalise_equals_lmms_eval():
    ours = [100 * vqa.vqa_accuracy(prediction, answers, "always-normalise") for prediction, answers, _, _ in CASES]
    assert ours == pytest.approx([always for _, _, _, always in CASES], abs=0.005 + 1e-9)


def test_normal_forms_equal_the_official_ones():
    assert {raw: vqa.normalise(raw) for raw, _ in PEER["normal_forms"]} == dict(PEER["normal_forms"])


def test_a_table_of_items_equals_the_items_one_by_one():
    predictions, answers, official, _ = zip(*CASES, strict=True)
    frame = pd.DataFrame(dict(prediction=predictions, answers=answers), index=range(7, 7 + len(CASES)))
    ours = vqa.vqa_accuracies(frame["prediction"], frame["answers"])
    assert 100 * ours == pytest.approx(np.array(official), abs=0.005 + 1e-9)


@given(matches=st.integers(0, 10))
def test_the_ladder_leaves_one_annotator_out(matches):
    answers = ["cat"] * matches + [f"word{i}" for i in range(10 - matches)]
    assert vqa.vqa_accuracy("cat", answers) == pytest.approx([0, 0.3, 0.6, 0.9, *[1] * 7][matches])


texts = st.lists(
    st.sampled_from(["a", "The", "one", "Yes", "dont", ",", "1", ".", "-", " ", "é", "'", "\n"]), max_size=5
)
texts = texts.map("".join)


@given(prediction=texts, answers=st.lists(texts, min_size=1, max_size=10), rule=st.sampled_from([*vqa.RULES]))
def test_accuracy_is_its_definition_over_annotators(prediction, answers, rule):
    strip = [a.replace("\n", " ").strip() for a in answers]
    if rule == "always-normalise" or len(set(strip)) > 1:
        strip, said = [vqa.normalise(a) for a in strip], vqa.normalise(prediction)
    else:
        said = prediction.replace("\n", " ").strip()
    shares = [min(1, sum(other == said for j, other in enumerate(strip) if j != i) / 3) for i in range(len(strip))]
    assert vqa.vqa_accuracy(prediction, answers, rule) == pytest.approx(np.mean(shares), abs=1e-12)


@given(prediction=texts, answers=st.lists(texts, min_size=1, max_size=10), shift=st.integers(0, 9))
def test_the_order_of_the_annotators_does_not_matter(prediction, answers, shift):
    turned = answers[shift % len(answers) :] + answers[: shift % len(answers)]
    assert vqa.vqa_accuracy(prediction, answers) == vqa.vqa_accuracy(prediction, turned)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A dog.", "dog"),
        ("the two cats", "2 cats"),
        ("none", "0"),
        ("1,000", "1000"),
        ("black-white", "black white"),
        ("eleven", "eleven"),
        ("black - white", "black white"),
        ("1,2-3", "123"),
        ("3.5.", "3.5"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        ("10:30 a.m.", "10:30 am"),
        ("50%", "50%"),
        ("  Yes\n", "yes"),
        ("STRASSE", "strasse"),
        ("Café!", "café"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normal_form(text, normal):
    assert vqa.normalise(text) == normal


def test_unanimous_annotators_are_compared_letter_by_letter_by_the_official_rule():
    assert vqa.vqa_accuracy("Yes", TEN_YES) == 0 and vqa.vqa_accuracy(" yes\n", TEN_YES) == 1
    assert vqa.vqa_accuracy("Yes", TEN_YES, rule="always-normalise") == 1
    assert vqa.vqa_accuracy("Yes", [*TEN_YES[1:], "Yeah"]) == 1


def test_records_are_annotators_with_or_without_an_id():
    answers = ["red", "red", "red", "blue", "green", "red", "Red", "red.", "pink", "tan"]
    records = [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(answers, 1)]
    bare = [{"answer": text} for text in answers]
    assert vqa.vqa_accuracy("red", answers) == vqa.vqa_accuracy("red", records) == vqa.vqa_accuracy("red", bare) == 1
    assert vqa.vqa_accuracy("red", np.array(answers)) == vqa.vqa_accuracy("red", tuple(answers)) == 1


@pytest.mark.parametrize(("n", "accuracy"), [(1, 0), (2, 1 / 3), (3, 2 / 3), (4, 1), (9, 1)])
def test_fewer_than_four_annotators_never_agree_fully(n, accuracy):
    assert vqa.vqa_accuracy("yes", ["yes"] * n) == pytest.approx(accuracy)


def test_scores_are_the_mean_and_the_count_of_empty_predictions():
    scores = vqa.vqa_scores(["yes", "the", "", "no"], [TEN_YES] * 4)
    assert scores == dict(accuracy=0.25, n=4, unparsed=2)


def interval(predictions, image) -> pd.Series:
    """The one row of scores of answers to questions about images."""
    rows = pd.DataFrame(dict(prediction=predictions, reference=[TEN_YES] * len(predictions), image_id=image))
    return benchmark_scores(vqa.VQA, rows).iloc[0]


def test_interval_holds_the_mean_and_widens_with_clusters():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(60), 5)
    predictions = np.where(np.repeat(rng.random(60) < 0.7, 5), "yes", "no").tolist()
    plain, clustered = interval(predictions, range(300)), interval(predictions, image)
    assert plain.value == clustered.value == pytest.approx(np.mean(np.array(predictions) == "yes"))
    assert (clustered.n_clusters, clustered.n, clustered.unparsed) == (60, 300, 0)
    assert clustered.low < plain.low < plain.value < plain.high < clustered.high


def test_an_interval_without_an_error_seen_is_not_a_point():
    row = interval(["yes"] * 40, range(40))
    assert row.value == row.high == 1 and 0.85 < row.low < 0.99


def test_item_accuracies_are_outcomes_of_a_paired_comparison():
    a = vqa.vqa_accuracies(["yes", "no", "yes"], [TEN_YES] * 3)
    b = vqa.vqa_accuracies(["yes", "yes", "no"], [TEN_YES] * 3)
    assert paired_difference(a, b).effect == 0


BAD = {
    "prediction of another kind": (lambda: vqa.vqa_accuracy(2, ["2"] * 10), "got 2 at position 0"),
    "missing prediction": (lambda: vqa.vqa_accuracy(None, TEN_YES), "missing answer as ''"),
    "answers as one text": (lambda: vqa.vqa_accuracy("yes", "yes"), "must be a list"),
    "an answer of another kind": (lambda: vqa.vqa_accuracy("2", ["2", 2]), "got 2 at position 1"),
    "a record without an answer": (lambda: vqa.vqa_accuracy("2", [{"text": "2"}]), "{'text': '2'} at position 0"),
    "no annotators": (lambda: vqa.vqa_accuracy("yes", []), "no annotator's answer"),
    "lengths": (lambda: vqa.vqa_accuracies(["yes"], [TEN_YES] * 2), "got 1 and 2"),
    "misspelt rule": (lambda: vqa.vqa_accuracy("yes", TEN_YES, "official-rule"), "did you mean 'official'"),
    "no items": (lambda: vqa.vqa_scores([], []), "no predictions"),
    "predictions as one text": (lambda: vqa.vqa_scores("yes", [TEN_YES]), "must be a list"),
    "missing image": (lambda: interval(["yes"], [None]), "None or NaN"),
    "no rows": (lambda: interval([], []), "no answers to score"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
