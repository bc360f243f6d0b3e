"""MME scores against the official tool's, brute force over images, and sheets that it would read wrongly."""

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
from edgelib.tasks import mme

PEER = json.loads((REFERENCE / "metrics" / "mme.json").read_text(encoding="utf-8"))
QUESTIONS = PEER["structure"]["questions_per_task_in_official_templates"]
SHEETS = {sheet["name"]: sheet for sheet in PEER["sets"]}
PREDICTIONS = {"perfect": lambda answer: answer, "all_yes": lambda _: "Yes.", "all_no": lambda _: "no"}


def sheet(questions, predict=lambda answer: answer):
    """Answers to as many questions per task as given, two per image, one yes and one no."""
    rows = [
        (task, image, answer) for task, n in questions.items() for image in range(n // 2) for answer in ("yes", "no")
    ]
    frame = pd.DataFrame(rows, columns=["task", "image", "answer"])
    return frame.assign(prediction=[predict(answer) for answer in frame["answer"]])


def random_sheet(questions, accuracy, seed=0):
    rng = np.random.default_rng(seed)
    return sheet(questions, lambda answer: answer if rng.random() < accuracy else {"yes": "No", "no": "Yes"}[answer])


def test_tasks_are_the_official_ones():
    assert list(mme.PERCEPTION) == PEER["structure"]["perception"]
    assert list(mme.COGNITION) == PEER["structure"]["cognition"]


@pytest.mark.parametrize(("answer", "reading"), PEER["readings"], ids=[repr(answer) for answer, _ in PEER["readings"]])
def test_answers_are_read_as_by_the_official_tool(answer, reading):
    scores = mme.mme_scores(sheet({"existence": 2}, lambda _: answer))
    expected = dict(acc=0 if reading == "other" else 0.5, acc_plus=0, score=0 if reading == "other" else 50)
    assert scores["per_task"]["existence"] == expected and scores["unparsed"] == 2 * (reading == "other")
    yes = pd.DataFrame(dict(task="OCR", image=[1, 1], answer="yes", prediction=answer))
    assert mme.mme_scores(yes)["total"] == 200 * (reading == "yes")


@pytest.mark.parametrize("name", SHEETS)
def test_scores_equal_the_official_tool(name):
    scores, peer = mme.mme_scores(sheet(QUESTIONS, PREDICTIONS[name])), SHEETS[name]
    assert [scores[key] for key in ("perception", "cognition", "total")] == pytest.approx(
        [peer[key] for key in ("perception", "cognition", "total")]
    )
    assert set(scores["per_task"]) == set(peer["per_task"])
    for task, values in peer["per_task"].items():
        assert scores["per_task"][task] == pytest.approx(values)
    assert (scores["n"], scores["missing"]) == (2374, [])


def test_nothing_parsed_scores_nothing():
    scores = mme.mme_scores(sheet(QUESTIONS, lambda _: "I cannot tell"))
    assert (scores["total"], scores["unparsed"]) == (0, 2374)
    assert all(values == dict(acc=0, acc_plus=0, score=0) for values in scores["per_task"].values())


entries = st.lists(
    st.tuples(st.sampled_from(["OCR", "color", "code_reasoning", "ours"]), st.tuples(*[st.sampled_from("yn?")] * 2)),
    min_size=1,
    max_size=20,
)


@given(entries, st.randoms())
def test_scores_equal_brute_force_in_any_order(entries, rng):
    words = {"y": "Yes", "n": "no", "?": "other"}
    rows = [
        (task, f"{task}/{i}.png", answer, words[reply])
        for i, (task, replies) in enumerate(entries)
        for answer, reply in zip(("yes", "no"), replies, strict=True)
    ]
    rng.shuffle(rows)
    scores = mme.mme_scores(pd.DataFrame(rows, columns=mme.COLUMNS))
    for task in {task for task, _ in entries}:
        pairs = [replies for name, replies in entries if name == task]
        acc = sum((a == "y") + (b == "n") for a, b in pairs) / (2 * len(pairs))
        plus = sum(pair == ("y", "n") for pair in pairs) / len(pairs)
        assert scores["per_task"][task] == pytest.approx(dict(acc=acc, acc_plus=plus, score=100 * (acc + plus)))
    points = {task: values["score"] for task, values in scores["per_task"].items()}
    assert scores["cognition"] == points.get("code_reasoning", 0)
    assert scores["perception"] == pytest.approx(points.get("OCR", 0) + points.get("color", 0))
    assert scores["total"] == pytest.approx(scores["perception"] + scores["cognition"])
    assert scores["unparsed"] == sum(replies.count("?") for _, replies in entries)


def test_tasks_beyond_the_official_ones_are_scored_but_not_summed():
    scores = mme.mme_scores(sheet({"OCR": 4, "texture": 4}))
    assert scores["per_task"]["texture"]["score"] == 200 and scores["total"] == 200
    assert len(scores["missing"]) == 13 and "OCR" not in scores["missing"]
    assert mme.mme_scores(sheet({"texture": 4}))["total"] == 0


def test_labels_may_be_booleans():
    frame = sheet({"OCR": 4})
    assert mme.mme_scores(frame.assign(answer=frame["answer"] == "yes")) == mme.mme_scores(frame)


SMALL = {"existence": 40, "OCR": 40, "code_reasoning": 60, "texture": 20}


def test_interval_rows_are_the_scores_with_their_counts():
    frame = random_sheet(SMALL, 0.8)
    table, scores = mme.mme_interval(frame).set_index("score"), mme.mme_scores(frame)
    assert list(table.index) == ["perception", "cognition", "total", *SMALL]
    for name in ("perception", "cognition", "total"):
        assert table.loc[name, "value"] == pytest.approx(scores[name])
    for task in SMALL:
        assert table.loc[task, "value"] == pytest.approx(scores["per_task"][task]["score"])
        assert table.loc[task, ["n", "n_clusters", "unparsed"]].tolist() == [SMALL[task], SMALL[task] // 2, 0]
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    assert table.loc["total", ["n", "n_clusters"]].tolist() == [140, 70]


def test_interval_of_a_total_has_the_width_of_independent_tasks():
    frame = random_sheet(dict.fromkeys(mme.SUB_TASKS, 200), 0.8)
    table = mme.mme_interval(frame, n_boot=4000).set_index("score")
    points = 50 * (frame["prediction"].str.lower() == frame["answer"]).to_numpy().reshape(-1, 2).sum(axis=1)
    points = points + 100 * (points == 100)
    variance = sum(points[start : start + 100].var() / 99 for start in range(0, 1400, 100))
    assert table.loc["total", "high"] - table.loc["total", "low"] == pytest.approx(2 * 1.96 * variance**0.5, rel=0.06)


def test_interval_is_the_same_whatever_the_order_of_the_rows():
    frame = random_sheet(SMALL, 0.8)
    tables = [
        mme.mme_interval(f).sort_values("score", ignore_index=True)
        for f in (frame, frame.sample(frac=1, random_state=0))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_a_perfect_sheet_has_an_interval_below_its_score():
    table = mme.mme_interval(sheet({"existence": 60, "OCR": 40})).set_index("score")
    assert (
        table["value"].to_dict() == table["high"].to_dict() == dict(perception=400, total=400, existence=200, OCR=200)
    )
    assert (table["low"] < table["value"]).all()


def test_difference_is_that_of_the_scores_and_turns_round():
    a, b = random_sheet(SMALL, 0.9), random_sheet(SMALL, 0.5, seed=1)
    for score in ("total", "perception", "cognition"):
        forth, back = mme.mme_difference(a, b, score=score), mme.mme_difference(b, a, score=score)
        assert forth.effect == pytest.approx(mme.mme_scores(a)[score] - mme.mme_scores(b)[score])
        assert back.effect == pytest.approx(-forth.effect) and back.p == pytest.approx(forth.p, abs=0.01)
        assert forth.interval[0] < forth.effect < forth.interval[1]
    assert mme.mme_difference(a, b).p < 0.01 and mme.mme_difference(a, b).interval[0] > 0


def test_difference_in_one_task_is_the_paired_difference_of_its_images():
    a, b = random_sheet({"OCR": 400}, 0.9), random_sheet({"OCR": 400}, 0.85, seed=1)
    ours = mme.mme_difference(a, b.sample(frac=1, random_state=0), score="OCR")
    points = [(f["prediction"].str.lower() == f["answer"]).to_numpy().reshape(-1, 2) for f in (a, b)]
    theirs = paired_difference(*[50 * p.sum(axis=1) + 100 * p.all(axis=1) for p in points])
    assert ours.effect == pytest.approx(theirs.effect) and (ours.n, ours.n_clusters) == (400, 200)
    assert ours.interval == pytest.approx(theirs.interval, abs=2)
    assert ours.p == pytest.approx(theirs.p, abs=0.02) and ours.mde == pytest.approx(theirs.mde, rel=0.1)


def test_two_models_that_answer_alike_differ_by_nothing_with_an_honest_interval():
    frame = random_sheet(SMALL, 0.8)
    same = mme.mme_difference(frame, frame)
    assert (same.effect, same.p) == (0, 1) and same.interval[0] < 0 < same.interval[1] and same.mde > 0


def test_one_image_supports_no_interval():
    frame = sheet({"OCR": 2})
    assert mme.mme_difference(frame, frame).interval == (-np.inf, np.inf)


GOOD = sheet({"OCR": 4})
BAD = {
    "not a table": (lambda: mme.mme_scores([("OCR", 1, "yes", "yes")]), "table with columns task"),
    "missing column": (lambda: mme.mme_scores(GOOD.rename(columns=dict(image="images"))), "did you mean 'images'"),
    "empty": (lambda: mme.mme_scores(GOOD[:0]), "no MME answers"),
    "one question": (lambda: mme.mme_scores(GOOD[:3]), "image '1' of task 'OCR' has 1"),
    "four questions": (lambda: mme.mme_scores(GOOD.assign(image="a.png")), "image 'a.png' of task 'OCR' has 4"),
    "another label": (lambda: mme.mme_scores(GOOD.assign(answer="Yes, it is")), "column 'answer' .* 'Yes, it is'"),
    "missing label": (lambda: mme.mme_scores(GOOD.assign(answer=None)), "column 'answer'"),
    "missing prediction": (lambda: mme.mme_scores(GOOD.assign(prediction=np.nan)), "column 'prediction' .* nan"),
    "missing image": (lambda: mme.mme_scores(GOOD.assign(image=None)), "column 'image' has missing"),
    "missing task": (lambda: mme.mme_scores(GOOD.assign(task=None)), "column 'task' has missing"),
    "number as a task": (lambda: mme.mme_scores(GOOD.assign(task=3)), "got 3"),
    "total as a task": (lambda: mme.mme_scores(GOOD.assign(task="total")), "'total'"),
    "task in small letters": (lambda: mme.mme_scores(GOOD.assign(task="ocr")), "did you mean 'OCR'"),
    "task with a space": (lambda: mme.mme_scores(GOOD.assign(task="code reasoning")), "did you mean 'code_reasoning'"),
    "image of another kind": (lambda: mme.mme_scores(GOOD.assign(image=[[1]] * 4)), "names or numbers"),
    "other questions": (lambda: mme.mme_difference(GOOD, GOOD[:2]), "only one of them has image '1'"),
    "misspelt score": (lambda: mme.mme_difference(GOOD, GOOD, score="OCRR"), "'OCRR' .*'OCR'.*; choose from OCR"),
    "a total without tasks": (lambda: mme.mme_difference(GOOD, GOOD, score="cognition"), "'cognition'"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
