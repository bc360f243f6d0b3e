"""POPE scores against the official reading of answers, the definitions, and the collapses it hides."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from helpers import REFERENCE
from hypothesis import given
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.stats.paired import paired_difference
from edgelib.tasks import pope
from edgelib.tasks.yes_no import spoken

PEER = json.loads((REFERENCE / "metrics" / "pope.json").read_text(encoding="utf-8"))
LABELS, ANSWERS, OFFICIAL, VLMEVALKIT = (list(column) for column in zip(*PEER["items"], strict=True))
# Answers that say one of the two words, beside a mark that the peer does not take off.
BESIDE_A_MARK = {"*No*", "No:", "¿No?", "a.no", "Answer:No"}


def definition(labels, said):
    """The five scores by counting, as exact fractions; said is yes, no or None."""
    pairs = list(zip(labels, said, strict=True))
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("no", "yes"))
    right, positive = tp + pairs.count(("no", "no")), labels.count("yes")
    precision = Fraction(tp, tp + fp) if tp + fp else Fraction(0)
    recall = Fraction(tp, positive) if positive else Fraction(0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else Fraction(0)
    scores = (Fraction(right, len(pairs)), precision, recall, f1, Fraction(tp + fp, len(pairs)))
    return dict(zip(pope.SCORES, map(float, scores), strict=True))


def five(scores):
    return {name: scores[name] for name in pope.SCORES}


def test_official_scores_equal_those_of_the_official_reading():
    assert five(pope.pope_scores(LABELS, ANSWERS)) == pytest.approx(definition(LABELS, OFFICIAL), abs=1e-12)


@pytest.mark.parametrize("label", ["yes", "no"])
def test_official_reading_of_every_answer(label):
    for answer, reading in dict(zip(ANSWERS, OFFICIAL, strict=True)).items():
        assert pope.pope_scores([label], [answer])["accuracy"] == (reading == label), answer


def test_strict_reading_is_that_of_vlmevalkit_but_for_words_beside_a_mark():
    peer = {a: {"Yes": "yes", "No": "no", "Unknown": None}[v] for a, v in zip(ANSWERS, VLMEVALKIT, strict=True)}
    differing = {answer for answer, reading in peer.items() if spoken(answer) != reading}
    assert differing == BESIDE_A_MARK
    assert {spoken(answer) for answer in differing} == {"no"} and {peer[answer] for answer in differing} == {None}


def test_strict_scores_equal_the_definition_and_count_the_unparsed_as_wrong():
    scores = pope.pope_scores(LABELS, ANSWERS, rule="strict")
    said = [spoken(answer) for answer in ANSWERS]
    assert five(scores) == pytest.approx(definition(LABELS, said), abs=1e-12)
    assert scores["unparsed"] == said.count(None) and scores["n"] == len(ANSWERS)


replies = st.sampled_from(["yes", "No.", "maybe", "", "Yes, there is", "I do not see it", "NO", "yes or no"])


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), replies), min_size=1, max_size=30))
def test_scores_equal_the_definition_on_any_input(pairs):
    labels, answers = (list(column) for column in zip(*pairs, strict=True))
    strict = pope.pope_scores(labels, answers, "strict")
    assert five(strict) == pytest.approx(definition(labels, [spoken(a) for a in answers]), abs=1e-12)
    assert all(0 <= value <= 1 and math.isfinite(value) for value in five(strict).values())
    assert pope.pope_scores(labels, answers)["unparsed"] == strict["unparsed"]


YES, NO, WORDLESS = ["Yes"] * 4, ["No"] * 4, ["", "maybe", "?", "Nope"]
DEGENERATE = {
    "all yes": (["yes", "no"] * 2, YES, "official", (0.5, 0.5, 1, 2 / 3, 1), 0),
    "all no": (["yes", "no"] * 2, NO, "official", (0.5, 0, 0, 0, 0), 0),
    "no yes label": (["no"] * 4, YES, "official", (0, 0, 0, 0, 1), 0),
    "no yes label, all right": (["no"] * 4, NO, "official", (1, 0, 0, 0, 0), 0),
    "no no label": (["yes"] * 4, YES, "official", (1, 1, 1, 1, 1), 0),
    "none parsed, official": (["yes", "no"] * 2, WORDLESS, "official", (0.5, 0.5, 1, 2 / 3, 1), 4),
    "none parsed, strict": (["yes", "no"] * 2, WORDLESS, "strict", (0, 0, 0, 0, 0), 4),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_answers_have_scores(case):
    labels, answers, rule, values, unparsed = DEGENERATE[case]
    expected = dict(zip(pope.SCORES, values, strict=True)) | dict(n=4, unparsed=unparsed)
    assert pope.pope_scores(labels, answers, rule) == pytest.approx(expected)
    table = pope.pope_interval(labels, answers, rule=rule)
    assert np.isfinite(table[["value", "low", "high"]].to_numpy()).all()
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_yes_ratio_is_that_of_answers_not_of_labels():
    assert pope.pope_scores(["yes"] * 4, ["no", "no", "no", "yes"])["yes_ratio"] == 0.25


@pytest.mark.parametrize(
    "labels",
    [[True, False], np.array([True, False]), pd.Series([True, False], index=[5, 3]), [1, 0], ["Yes", "NO "]],
    ids=["booleans", "array", "series", "numbers", "capitals"],
)
def test_labels_come_in_several_kinds(labels):
    assert pope.pope_scores(labels, ["yes", "no"])["accuracy"] == 1


def test_answers_may_stand_in_records():
    assert pope.pope_scores(["yes"], [{"question": "Is there a dog?", "answer": "Yes"}])["accuracy"] == 1


def sheet(images, accuracy, seed=0):
    """Labels, answers and images of six questions per image; images differ in difficulty."""
    rng = np.random.default_rng(seed)
    labels = np.tile([True, False], 3 * images)
    chance = np.repeat(np.clip(accuracy + rng.normal(0, 0.2, images), 0, 1), 6)
    right = rng.random(6 * images) < chance
    return labels, np.where(right == labels, "yes", "no"), np.repeat(np.arange(images), 6)


def test_interval_of_accuracy_is_wilson_wide_and_of_all_scores_around_the_value():
    labels, answers, _ = sheet(100, 0.85)
    table = pope.pope_interval(labels, answers).set_index("score")
    scores = pope.pope_scores(labels, answers)
    assert table["value"].to_dict() == pytest.approx(five(scores))
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    width = 2 * 1.96 * np.sqrt(scores["accuracy"] * (1 - scores["accuracy"]) / 600)
    assert table.loc["accuracy", "high"] - table.loc["accuracy", "low"] == pytest.approx(width, rel=0.1)


def test_interval_knows_neither_the_order_of_items_nor_the_names_of_images():
    labels, answers, image = sheet(30, 0.85)
    order = np.random.default_rng(1).permutation(len(labels))
    table = pope.pope_interval(labels, answers, cluster=image)
    again = pope.pope_interval(labels[order], answers[order], cluster=[f"img_{997 * i}" for i in image[order]])
    pd.testing.assert_frame_equal(table, again)


def test_an_interval_without_an_error_seen_is_not_a_point():
    row = pope.pope_interval(["yes", "no"] * 30, ["yes", "no"] * 30).set_index("score").loc["f1"]
    assert row.value == row.high == 1 and 0.88 < row.low < 0.99


def test_interval_covers_the_true_f1():
    """Where errors come in clusters, an interval over items would cover less often than it says."""
    labels, answers, _ = sheet(20_000, 0.9)
    truth, covered = pope.pope_scores(labels, answers)["f1"], 0
    for seed in range(1, 101):
        labels, answers, image = sheet(80, 0.9, seed)
        row = pope.pope_interval(labels, answers, cluster=image, n_boot=300).set_index("score").loc["f1"]
        covered += row.low <= truth <= row.high
    assert covered >= 88  # 95 expected; fewer than 88 has a probability of 1 in 500


def test_difference_of_accuracy_is_the_paired_difference():
    labels, a, image = sheet(60, 0.9)
    _, b, _ = sheet(60, 0.8, seed=1)
    ours = pope.pope_difference(labels, a, b, score="accuracy", cluster=image)
    theirs = paired_difference((a == "yes") == labels, (b == "yes") == labels, cluster=image)
    assert ours.effect == pytest.approx(theirs.effect) and (ours.n, ours.n_clusters) == (360, 60)
    assert ours.interval == pytest.approx(theirs.interval, abs=0.01)
    assert ours.p == pytest.approx(theirs.p, abs=0.01) and ours.mde == pytest.approx(theirs.mde, rel=0.1)


def test_difference_of_f1_is_the_difference_of_the_scores_and_turns_round():
    labels, a, image = sheet(60, 0.9)
    _, b, _ = sheet(60, 0.7, seed=1)
    forth, back = (pope.pope_difference(labels, *pair, cluster=image) for pair in ((a, b), (b, a)))
    scores = [pope.pope_scores(labels, answers)["f1"] for answers in (a, b)]
    assert forth.effect == pytest.approx(scores[0] - scores[1]) == -back.effect
    assert forth.interval[0] > 0 and forth.p < 0.01 and back.interval[1] < 0
    assert forth.p == pytest.approx(back.p, abs=0.01)


def test_two_models_that_answer_alike_differ_by_nothing_with_an_honest_interval():
    labels, answers, image = sheet(40, 0.9)
    same = pope.pope_difference(labels, answers, answers, cluster=image)
    assert (same.effect, same.p) == (0, 1) and same.interval[0] < 0 < same.interval[1] and same.mde > 0


BAD = {
    "empty": (lambda: pope.pope_scores([], []), "no answers"),
    "lengths": (lambda: pope.pope_scores(["yes", "no"], ["yes"]), "got 2 and 1"),
    "label of another kind": (lambda: pope.pope_scores(["yes", "maybe"], ["a", "b"]), "'maybe' at position 1"),
    "number as a label": (lambda: pope.pope_scores([2], ["yes"]), "got 2"),
    "missing label": (lambda: pope.pope_scores([None], ["yes"]), "got None"),
    "missing answer": (lambda: pope.pope_scores(["yes"], [float("nan")]), "got nan at position 0"),
    "answers as one text": (lambda: pope.pope_scores(["yes"], "yes"), "must be a list"),
    "labels as a number": (lambda: pope.pope_scores(1, ["yes"]), "must be a list"),
    "misspelt rule": (lambda: pope.pope_scores(["yes"], ["yes"], "strickt"), "did you mean 'strict'"),
    "misspelt score": (lambda: pope.pope_difference([1], ["yes"], ["no"], score="recalls"), "did you mean 'recall'"),
    "images": (lambda: pope.pope_interval(["yes"], ["yes"], cluster=[1, 2]), "one image per item"),
    "level": (lambda: pope.pope_interval(["yes"] * 2, ["yes"] * 2, level=95), "level"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
