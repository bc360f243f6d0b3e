"""Benchmarks as values: what answers and models are worth, which of them a table is, and how one is added."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import edgelib
from edgelib.errors import EdgelibError
from edgelib.source import ROOT, files_behind
from edgelib.tasks import benchmarks
from edgelib.tasks.base import Task
from edgelib.tasks.benchmarks import TASKS, benchmark_difference, benchmark_scores, task_of
from edgelib.tasks.mme import MME, mme_scores
from edgelib.tasks.pope import POPE
from edgelib.tasks.vqa import VQA, vqa_scores

SAID = ["Yes", "no.", "There is not one", "Yes and no", "", "nothing", "yes, a cat", "I know"]
LABELS = ["yes", "no", "no", "yes", "no", "yes", "no", "no"]
TEN = [["yes"] * 10, ["no"] * 7 + ["yes"] * 3, ["2"] * 10, ["a cat"] * 4 + ["dog"] * 6] * 2


def test_vqa_scores_are_the_means_of_their_answers():
    rows, whole = VQA.answer_scores(SAID, TEN), vqa_scores(SAID, TEN)
    assert rows["score"].mean() == pytest.approx(whole["accuracy"])
    assert (~rows["parsed"]).sum() == whole["unparsed"] == 1


def test_pope_scores_are_the_means_of_their_answers():
    rows, whole = POPE.answer_scores(SAID, LABELS), edgelib.pope_scores(LABELS, SAID)
    assert rows["score"].mean() == pytest.approx(whole["accuracy"])
    assert (rows["said"] == "yes").mean() == pytest.approx(whole["yes_ratio"])
    assert (~rows["parsed"]).sum() == whole["unparsed"]


def test_mme_scores_are_the_means_of_their_answers():
    frame = pd.DataFrame(dict(task="count", image=[i // 2 for i in range(8)], answer=LABELS, prediction=SAID))
    rows, whole = MME.answer_scores(SAID, LABELS), mme_scores(frame)
    assert rows["score"].mean() == pytest.approx(whole["per_task"]["count"]["acc"])
    assert (~rows["parsed"]).sum() == whole["unparsed"]


def answers(task: Task) -> pd.DataFrame:
    """Rows of answers to any benchmark: two questions about each of four images."""
    references = TEN if "answers" in task.columns else LABELS
    frame = pd.DataFrame(dict(image_id=[i // 2 for i in range(8)], category="count", prediction=SAID))
    return frame.assign(reference=references, score=task.answer_scores(SAID, references)["score"])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_benchmark_has_its_primary_score_with_an_interval_and_a_difference(task):
    rows, boot = answers(task), dict(n_boot=100, seed=1)
    own = benchmark_scores(task, rows, **boot).set_index("score").loc[task.primary]
    assert own.low <= own.value <= own.high and own.n == 8 and own.n_clusters == 4
    silent = rows.assign(prediction="", score=task.answer_scores([""] * 8, rows["reference"])["score"])
    test = benchmark_difference(task.name, rows, silent, **boot)
    worth = benchmark_scores(task.name, silent, **boot).set_index("score").value[task.primary]
    assert test.effect == pytest.approx(own.value - worth) and test.n_clusters == 4


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_benchmark_travels_to_other_processes(task):
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize(
    ("task", "score", "words"),
    [
        pytest.param("vqa", "f1", "unknown VQA score 'f1'; choose from accuracy", id="a score of another benchmark"),
        pytest.param(
            "gqa",
            "accuracy",
            "unknown benchmark 'gqa'.*chartqa, docvqa, exact, llava-bench, mme, pope, textvqa, vqa",
            id="nobody scores it",
        ),
    ],
)
def test_differences_of_what_is_not_scored_are_refused(task, score, words):
    rows = pd.DataFrame(dict(image_id=["a", "b"], score=[1.0, 0.0]))
    with pytest.raises(EdgelibError, match=words):
        benchmark_difference(task, rows, rows, score)


def test_a_difference_of_means_needs_images_and_scores_only():
    a, b = (pd.DataFrame(dict(image_id=list("aabb"), score=score)) for score in ([1, 0.9, 0, 0.3], [0.9, 0, 0, 0.3]))
    test = benchmark_difference("vqa", a, b, "accuracy", n_boot=100)
    assert test.effect == pytest.approx(0.25) and test.n_clusters == 2


@pytest.mark.parametrize("column", ["reference", "category", "image_strata"])
def test_a_benchmark_names_no_column_that_it_does_not_want(column):
    with pytest.raises(EdgelibError, match="names the column 'colour', which is not among its columns"):
        replace(POPE, **{column: "colour"})


@pytest.mark.parametrize("study", ["answer_grid", "kv_grid"])
def test_stored_answers_do_not_depend_on_how_any_benchmark_counts_them(study):
    behind = {file.relative_to(ROOT).as_posix() for file in files_behind([f"edgelib.study.{study}"])}
    assert "tasks/base.py" in behind and not behind & {f"tasks/{name}.py" for name in (*TASKS, "benchmarks", "scores")}


# --- which benchmark a table is of


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("more", [[], ["image", "height", "url"]], ids=["alone", "with other columns"])
def test_a_table_with_the_columns_of_a_benchmark_is_of_it(task, more):
    assert task_of([*more, *reversed(task.wanted)], "t.parquet") is task


# As the hub has them, beside `image`.
PUBLISHED = {
    "vqa": "question_type multiple_choice_answer answers image_id answer_type question_id question",
    "pope": "id question_id question answer image_source category",
    "mme": "question_id question answer category",
    "textvqa": "image_id question_id question question_tokens image_width image_height flickr_original_url "
    "flickr_300k_url answers image_classes set_name ocr_tokens",
    "docvqa": "questionId question question_types docId ucsf_document_id ucsf_document_page_no answers data_split",
    "chartqa": "type question chart_answer",
    "llava-bench": "question_id question caption gpt_answer category image_id",
    "exact": "question answer",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_published_tables_are_told_apart(task):
    assert task_of([*PUBLISHED[task].split(), "image"], "t.parquet") is TASKS[task]


UNCLEAR = {
    "half of VQAv2": (
        "question_id image_id question answers question_type",
        "could be questions of vqa, but has no column answer_type, or of textvqa, which has no question_type",
    ),
    "two at once": (
        "question_id image_id question answers answer category",
        r"all columns of mme and of textvqa.*category, answer \(mme\); image_id, answers \(textvqa\)",
    ),
    "none": ("question_id question text", r"no benchmark \(vqa, pope.* Closest: mme lacks category, answer"),
}


@pytest.mark.parametrize(("columns", "words"), UNCLEAR.values(), ids=UNCLEAR)
def test_a_table_that_does_not_say_what_it_is_is_refused(columns, words):
    with pytest.raises(EdgelibError, match=words):
        task_of(columns.split(), "t.parquet")


# --- a benchmark that the library does not know


def one_of(predictions: list[str], references: list) -> dict:
    said = [text.strip().lower() for text in predictions]
    right = [text == given.lower() for text, given in zip(said, references, strict=True)]
    return dict(score=right, said=said, parsed=[bool(text) for text in said])


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(buffer, "PNG")
    return buffer.getvalue()


def with_options(table: pd.DataFrame) -> list[str]:
    return [f"{q} {a} or {b}?" for q, a, b in zip(table["question"], table["a"], table["b"], strict=True)]


CHOICE = Task(
    name="choice",
    title="Choice",
    label="Choice accuracy",
    image_id="picture",
    columns=("a", "b", "truth", "subject"),
    reference="truth",
    judge=one_of,
    category="subject",
    strata=("subject",),
    prompt=with_options,
)


def test_a_new_benchmark_is_one_value_from_table_to_difference(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmarks.TASKS, "choice", CHOICE)
    images = edgelib.dataset("scenes", n=4).images
    rows = [
        dict(question_id=i, picture=f"p{i // 2}", question="Is it", a="red", b="blue", truth="red", subject="st"[i % 2])
        for i in range(8)
    ]
    for i, row in enumerate(rows):
        row["image"] = png(images[i // 2])
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    data = edgelib.dataset(tmp_path)
    assert data.task is CHOICE and data.rows["question"][0] == "Is it red or blue?" and len(data.images) == 4
    seen = edgelib.calibration_set("balanced", 4, source=data)
    assert sorted(seen.rows["subject"]) == ["s", "s", "t", "t"] and seen.references(range(2)) == ["red", "red"]
    found = edgelib.evaluate(edgelib.load("scenes-vlm"), data)
    assert set(found["category"]) == {"s", "t"} and found["yes_margin"].isna().all()
    assert found["score"].tolist() == [text.strip().lower() == "red" for text in found["prediction"]]
    assert benchmark_scores("choice", found, n_boot=100).value[0] == pytest.approx(found["score"].mean())
    assert benchmark_difference("choice", found, found.assign(score=0.0)).effect == pytest.approx(found["score"].mean())
