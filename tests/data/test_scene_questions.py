"""Question sets about scenes: true to their records, balanced, in the schemas of their namesakes."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from edgelib.data.scenes.captions import second_language
from edgelib.data.scenes.questions import WRITERS, blind_answers, scene_questions
from edgelib.data.scenes.questions_mme import PAIRS
from edgelib.data.scenes.questions_pope import CATEGORIES, together
from edgelib.data.scenes.questions_scene import (
    SEEN_PIXELS,
    Draws,
    Scene,
    Thing,
    question_records,
    visible_scenes,
    wording,
)
from edgelib.data.scenes.questions_vqa import KINDS, annotators, german_phrase, majority, vqa_questions
from edgelib.data.scenes.records import COLOURS, TEXTURES
from edgelib.data.scenes.shapes import SHAPES
from edgelib.errors import EdgelibError
from edgelib.tasks.mme import SUB_TASKS, mme_scores
from edgelib.tasks.pope import pope_scores
from edgelib.tasks.vqa import vqa_accuracies

N = 140
COLUMNS = {
    "vqa": {"question_id", "image_id", "question", "question_type", "answer_type", "multiple_choice_answer", "answers"},
    "pope": {"question_id", "question", "answer", "image_source", "category"},
    "mme": {"question_id", "question", "answer", "category"},
}


@pytest.fixture(scope="module")
def sets():
    return {task: scene_questions(task, N) for task in WRITERS}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return next(visible_scenes("test", 0))[0]


@pytest.mark.parametrize("task", WRITERS)
def test_columns_are_those_of_the_hub_and_images_are_used(task, sets):
    rows, images = sets[task]
    assert set(rows.columns) == COLUMNS[task] | {"image"}
    assert images.shape == (N, 3, 48, 48) and images.dtype == torch.uint8
    assert sorted(rows["image"].unique()) == list(range(N))
    if task != "mme":
        assert rows["question_id"].is_unique


@pytest.mark.parametrize("task", WRITERS)
def test_first_images_have_the_same_questions_whatever_n(task, sets):
    rows, images = sets[task]
    fewer, first = scene_questions(task, 20)
    assert torch.equal(first, images[:20])
    assert fewer.equals(rows[rows["image"] < 20])


@pytest.mark.parametrize("other", [dict(split="train"), dict(split="validation"), dict(seed=1)], ids=str)
def test_splits_and_seeds_share_no_image(other, sets):
    images = scene_questions("vqa", N, **other)[1]
    own = {image.numpy().tobytes() for image in sets["vqa"][1]}
    assert not own & {image.numpy().tobytes() for image in images}


def test_every_object_shows(scenes):
    _, _, cover, shape = next(visible_scenes("test", 0))
    assert (cover.sum(dim=(2, 3))[shape >= 0] >= SEEN_PIXELS).all()
    assert [len(scene.things) for scene in scenes] == (shape >= 0).sum(1).tolist()


def test_scenes_do_not_depend_on_where_the_stream_starts():
    first, second = islice(visible_scenes("train", 0), 2)
    again = next(visible_scenes("train", 0, start=256))
    assert again[0] == second[0] and torch.equal(again[1], second[1]) and first[0] != second[0]


# An oracle that reads the words of a question and looks at the scene, without the code that wrote the question.


def named(question: str, words) -> str:
    """The one word of a table that the question has."""
    found = [word for word in re.findall(r"[a-zäöüß]+", question.lower()) if word in words]
    assert len(found) == 1, question
    return found[0]


def find(scene: Scene, **attribute) -> Thing:
    (thing,) = [t for t in scene.things if all(getattr(t, key) == value for key, value in attribute.items())]
    return thing


def in_german(scene: Scene) -> dict[str, str]:
    """{German word in lower case: English word} of shapes and colours."""
    words = second_language()
    shapes = {noun["word"].lower(): shape for shape, noun in words["shape"].items()}
    return shapes | {word: colour for colour, word in words["colour"].items()}


def oracle(question: str, scene: Scene) -> str:
    text, n = question.lower(), len(scene.things)
    if "german word" in text or "how do you say" in text:
        colour = [c for c in COLOURS if re.search(rf"\b{c}\b", text)]
        shape = named(text, SHAPES)
        return german_phrase(colour[0], shape) if colour else second_language()["shape"][shape]["word"].lower()
    if "called in german" in text:
        return second_language()["shape"][find(scene, colour=named(text, COLOURS)).shape]["word"].lower()
    if "welche form" in text:
        farbe = re.search(r"das (\w+)e objekt", text)[1]
        return second_language()["shape"][find(scene, colour=in_german(scene)[farbe]).shape]["word"].lower()
    if "welche farbe" in text:
        return second_language()["colour"][find(scene, shape=in_german(scene)[text.split()[-1].strip("?")]).colour]
    if "wie viele" in text or "how many objects are" in text or "how many objects can" in text:
        return str(n)
    if "how many objects would" in text:
        return str(n + wording()["numbers"].index(named(text, wording()["numbers"])))
    if "background" in text:
        return scene.texture
    if "largest" in text:
        return max(scene.things, key=lambda thing: thing.radius).shape
    if re.search("what color", text):
        return find(scene, shape=named(text, SHAPES)).colour
    if re.search("what (shape is|is) the", text):
        return find(scene, colour=named(text, COLOURS)).shape
    if re.search("which side|left or right", text):
        return "left" if find(scene, shape=named(text, SHAPES)).x < 0 else "right"
    if " side of" in text:
        side = "left" if find(scene, shape=named(text, SHAPES)).x < 0 else "right"
        return "yes" if side == named(text, ("left", "right")) else "no"
    if re.search("to the (left|right)", text):
        one, two = (find(scene, colour=colour) for colour in re.findall(r"(\w+) object", text))
        side = "left" if one.x < two.x else "right"
        return "yes" if side == named(text, ("left", "right")) else "no"
    colours = [c for c in COLOURS if re.search(rf"\b{c}\b", text)]
    shape = named(text, SHAPES)
    there = [t for t in scene.things if t.shape == shape and t.colour in (colours or COLOURS)]
    return "yes" if there else "no"


def test_vqa_answers_are_what_the_scene_shows(scenes):
    asked = [(scene, each) for scene in scenes for each in vqa_questions(scene, draws(scene.index))]
    for scene, each in asked:
        assert oracle(each["question"], scene) == each["answer"], (each, scene)
    assert {each["question_type"] for _, each in asked} == {
        opening for kind in wording()["vqa"].values() for opening in kind["ask"]
    }


def draws(seed: int) -> Draws:
    return Draws(np.random.default_rng(seed).random(400).tolist())


def test_vqa_answers_fit_their_type(sets):
    rows = sets["vqa"][0]
    answers = rows["multiple_choice_answer"]
    assert answers.isin(["yes", "no"]).eq(rows["answer_type"] == "yes/no").all()
    assert answers.str.isdigit().eq(rows["answer_type"] == "number").all()
    assert set(KINDS) == set(wording()["vqa"])


def test_questions_begin_with_their_type(sets):
    rows = sets["vqa"][0]
    for question, opening in zip(rows["question"], rows["question_type"], strict=True):
        assert re.sub(r"\ban\b", "a", question.lower()).startswith(opening)


def test_ten_annotators_mostly_agree(sets):
    rows = sets["vqa"][0]
    assert all([a["answer_id"] for a in answers] == list(range(1, 11)) for answers in rows["answers"])
    texts = [[a["answer"] for a in answers] for answers in rows["answers"]]
    dissent = np.mean([t != m for m, row in zip(rows["multiple_choice_answer"], texts, strict=True) for t in row])
    assert 0.03 < dissent < 0.09
    assert vqa_accuracies(rows["multiple_choice_answer"], texts).mean() > 0.99


def test_majority_is_the_first_of_the_most_frequent():
    assert majority([{"answer": text} for text in ["blue", "red", "red", "blue", "cyan"]]) == "blue"
    said = {a["answer"] for seed in range(200) for a in annotators("2", draws(seed))}
    assert said == {"1", "2", "3"}


def test_pope_answers_are_what_the_scene_shows(sets, scenes):
    for row in sets["pope"][0].itertuples():
        there = named(row.question, SHAPES) in [thing.shape for thing in scenes[row.image].things]
        assert row.answer == ("yes" if there else "no")


def test_pope_is_balanced_and_asks_the_same_of_what_is_there(sets):
    rows = sets["pope"][0]
    counts = rows.groupby(["image", "category", "answer"]).size().unstack("answer")
    assert (counts["yes"] == counts["no"]).all()
    present = rows[rows["answer"] == "yes"].groupby(["image", "category"])["question"].apply(tuple).unstack()
    assert (present.nunique(axis=1) == 1).all() and list(present.columns) == sorted(CATEGORIES)
    assert pope_scores(rows["answer"], rows["answer"])["f1"] == 1.0


def test_pope_absent_shapes_follow_frequency_and_company(sets, scenes):
    rows, shapes, counts = sets["pope"][0], list(SHAPES), together(0)
    shape = question_records("train", torch.arange(20_000), 0).shape
    expected = [sum(((shape == a).any(1) & (shape == b).any(1)).tolist()) for a, b in ((0, 0), (2, 5))]
    assert [counts[0, 0], counts[2, 5]] == expected
    absent = rows[rows["answer"] == "no"]
    for (image, category), group in absent.groupby(["image", "category"]):
        present = [shapes.index(t.shape) for t in scenes[image].things]
        asked = [shapes.index(named(question, SHAPES)) for question in group["question"]]
        assert len(set(asked)) == len(asked) and not set(asked) & set(present)
        weight = {"popular": counts.diagonal(), "adversarial": counts[present].sum(axis=0)}.get(category)
        if weight is not None:
            rest = [s for s in range(len(shapes)) if s not in (*asked, *present)]
            assert min(weight[asked]) >= max(weight[rest])


def test_mme_has_every_sub_task_in_pairs(sets):
    rows = sets["mme"][0]
    assert set(PAIRS) == set(SUB_TASKS) == set(rows["category"])
    images = rows.groupby("category")["image"].nunique()
    assert images.max() - images.min() <= 2
    pairs = rows.groupby("question_id")
    assert (pairs["answer"].apply(set) == {"Yes", "No"}).all() and (pairs["question"].nunique() == 2).all()
    assert (pairs["image"].nunique() == 1).all()
    assert rows["question"].str.endswith("Please answer yes or no.").all()
    frame = rows.rename(columns={"category": "task", "question_id": "name"}).assign(prediction=rows["answer"])
    scores = mme_scores(frame)
    assert (scores["perception"], scores["cognition"], scores["missing"]) == (2000.0, 800.0, [])


def mme_oracle(category: str, text: str, scene: Scene) -> bool:
    n, largest, numbers = len(scene.things), max(scene.things, key=lambda t: t.radius), wording()["numbers"]
    said = [numbers.index(word) for word in re.findall(r"[a-z]+", text) if word in numbers]
    if category == "count":
        return said == [n]
    if category == "numerical_calculation":
        return n + said[0] == said[1]
    if category == "code_reasoning":
        return n * said[0] == said[1]
    if category == "posters":
        return named(text, TEXTURES) == scene.texture
    if category == "scene":
        return ("dark" in text) == (scene.brightness < 0.45)
    if category in ("celebrity", "artwork"):
        return largest.shape == named(text, SHAPES)
    if category == "text_translation":
        form = in_german(scene)[text.split(" please")[0].split()[-1].strip(".?")]
        return find(scene, colour=named(text, COLOURS)).shape == form
    if category == "commonsense_reasoning":
        shape = find(scene, colour=named(text, COLOURS)).shape
        return shape in (("circle", "ring") if "roll" in text else ("square", "triangle", "star", "cross", "arrow"))
    return oracle(text, scene) == "yes"


def test_mme_answers_are_what_the_scene_shows(sets, scenes):
    for row in sets["mme"][0].itertuples():
        truth = mme_oracle(row.category, row.question.lower(), scenes[row.image])
        assert row.answer == ("Yes" if truth else "No"), (row.category, row.question, scenes[row.image])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(task="gqa"), "gqa"),
        (dict(split="dev"), "unknown split 'dev'"),
        (dict(n_images=0), "n_images must be 1 or more, got 0"),
    ],
    ids=["task", "split", "images"],
)
def test_errors_name_the_wrong_value(wrong, message):
    with pytest.raises(EdgelibError, match=message):
        scene_questions(**{"task": "vqa", "n_images": 2, **wrong})


def test_blind_answers_fall_back_from_question_to_type_to_all():
    known = pd.DataFrame(
        [("a?", "x", "1"), ("a?", "x", "2"), ("a?", "x", "2"), ("b?", "x", "1"), ("b?", "x", "1"), ("c?", "y", "no")],
        columns=["question", "question_type", "multiple_choice_answer"],
    )
    rows = pd.DataFrame(dict(question=["a?", "new", "newer"], question_type=["x", "x", "z"]))
    assert blind_answers(rows, known) == ["2", "1", "1"]
    with pytest.raises(EdgelibError, match="no known questions"):
        blind_answers(rows, known[:0])


def test_questions_alone_do_not_give_the_answers_away(sets):
    rows = sets["vqa"][0]
    known, _ = scene_questions("vqa", 1000, split="train")
    texts = [[a["answer"] for a in answers] for answers in rows["answers"]]
    assert vqa_accuracies(blind_answers(rows, known), texts).mean() < 0.55
