"""One schema for questions of every benchmark and source, and the calibration sets drawn from them."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgelib.data.calibration import calibration_set
from edgelib.data.datasets import dataset
from edgelib.data.images import image_digests
from edgelib.data.questions import QuestionSet
from edgelib.data.scenes.questions import WRITERS
from edgelib.errors import EdgelibError
from edgelib.tasks.benchmarks import TASKS
from edgelib.tasks.pope import POPE
from edgelib.tasks.vqa import VQA

SCENES = {task: dataset(f"scenes-{task}", n=14) for task in WRITERS}


def png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def hub_rows(task: str) -> list[dict]:
    """The scenes as the hub has them: a picture in every row, annotators in records, ids as they are there."""
    data = SCENES[task]
    rows = []
    for row in data.rows.to_dict("records"):
        kept = {name: row[name] for name in TASKS[task].wanted if name in row}
        if task == "vqa":
            kept["answers"] = [
                {"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(row["answers"])
            ]
        rows.append(kept | {"image": {"bytes": png(data.images[row["image"]]), "path": None}})
    return rows


def write_parquet(folder, rows, name="test-00000-of-00001.parquet"):
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


def write_saved(folder, rows):
    import datasets

    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


WRITERS = {"parquet": write_parquet, "saved": write_saved}


def says(call, *args, **kwargs) -> str:
    with pytest.raises(EdgelibError) as error:
        call(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("task", SCENES)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_source_gives_the_same_questions_and_pixels(task, write, tmp_path):
    own, read = SCENES[task], dataset(write(tmp_path, hub_rows(task)))
    assert (read.task.name, read.split, len(read.images)) == (task, "test", len(own.images))
    columns = ["question", "image_id", *TASKS[task].columns]
    assert read.rows[columns].to_dict("records") == own.rows[columns].to_dict("records")
    seen = [read.images[[i]][0] for i in read.rows["image"]]
    assert all(torch.equal(a, own.images[i]) for a, i in zip(seen, own.rows["image"], strict=True))
    assert read.references(range(5)) == own.references(range(5))


@pytest.mark.parametrize("task", SCENES)
def test_a_draw_takes_whole_images_and_begins_with_every_smaller_draw(task, tmp_path):
    folder = write_parquet(tmp_path, hub_rows(task))
    whole, some, few = dataset(folder), dataset(folder, n=6, seed=3), dataset(folder, n=2, seed=3)
    counts = whole.rows["image_id"].value_counts()
    assert some.rows["image_id"].nunique() == 6
    assert all(counts[name] == n for name, n in some.rows["image_id"].value_counts().items())
    assert some.rows["item"][: len(few)].tolist() == few.rows["item"].tolist()
    if task == "mme":
        assert dataset(folder, n=14).rows["category"].nunique() == 14
    assert "has 14; ask for at most 14" in says(dataset, folder, n=15)


@pytest.mark.parametrize("task", SCENES)
def test_scenes_do_not_depend_on_how_many_are_drawn(task):
    longer, shorter = SCENES[task], dataset(f"scenes-{task}", n=3)
    assert shorter.rows.to_dict("records") == longer.rows[: len(shorter)].to_dict("records")
    assert torch.equal(shorter.images, longer.images[:3])
    assert shorter.fingerprint == longer.subset(range(len(shorter))).fingerprint != longer.fingerprint


def toy(images: list[int]) -> QuestionSet:
    """Questions about the images at the given positions, of two sizes."""
    rows = [
        dict(item=f"q{k}", image=i, image_id=f"i{i}", question=f"{k}?", category="a", answer="yes")
        for k, i in enumerate(images)
    ]
    return QuestionSet("toy", POPE, pd.DataFrame(rows), torch.arange(5 * 12, dtype=torch.uint8).view(5, 3, 2, 2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=24), st.integers(1, 9))
def test_batches_hold_every_question_once_with_its_own_image(images, size):
    data, seen = toy(images), []
    for positions, pixels, which in data.batches(size):
        assert 1 <= len(positions) == len(which) <= size and len(pixels) == len(which.unique())
        seen += positions.tolist()
        for position, k in zip(positions.tolist(), which.tolist(), strict=True):
            assert torch.equal(pixels[k], data.images[images[position]])
    assert sorted(seen) == list(range(len(images)))
    cuts = sum(len(b[1]) for b in data.batches(size)) - len(set(images))
    assert cuts == sum(-(-images.count(i) // size) - 1 for i in set(images)), "an image is cut only if it has to be"


def test_a_subset_keeps_questions_and_images_together():
    data = SCENES["vqa"]
    part = data.subset([9, 2, 10])
    assert part.rows["item"].tolist() == data.rows["item"][[9, 2, 10]].tolist() and len(part.images) == 2
    for i in range(3):
        assert torch.equal(part.images[part.rows["image"][i]], data.images[data.rows["image"][[9, 2, 10][i]]])
    assert "positions must be" in says(data.subset, [len(data)])


def test_the_fingerprint_follows_what_is_asked_and_seen():
    data = toy([0, 1])
    changes = [dict(question="else?"), dict(answer="no"), dict(item="q9"), dict(image=2)]
    prints = {
        QuestionSet("x", POPE, data.rows.assign(**{k: [v, data.rows[k][1]]}), data.images).fingerprint
        for change in changes
        for k, v in change.items()
    }
    assert len(prints | {data.fingerprint}) == 5
    assert QuestionSet("other name", POPE, data.rows, data.images.clone()).fingerprint == data.fingerprint


LAWS = {
    "no column": (dict(drop="answer"), "has no column 'answer'; has: item, image"),
    "empty": (dict(rows=0), "is empty"),
    "repeated": (dict(item="q0"), "item 'q0' of 'toy' is repeated (1 rows)"),
    "position": (dict(image=7), "positions 0 to 4 of its images"),
    "two ids": (dict(image=0, image_id=["a", "b"]), "an image of 'toy' has two values in 'image_id'"),
}


@pytest.mark.parametrize(("change", "text"), LAWS.values(), ids=LAWS)
def test_the_laws_of_a_question_set_are_enforced(change, text):
    rows = toy([0, 1]).rows
    rows = rows.drop(columns=change["drop"]) if "drop" in change else rows
    rows = rows.head(change["rows"]) if "rows" in change else rows
    rows = rows.assign(**{k: v for k, v in change.items() if k in rows})
    assert text in says(QuestionSet, "toy", POPE, rows, toy([0]).images)


def without(rows, *names):
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


BROKEN = {
    "field": (
        "vqa",
        lambda r: without(r, "answer_type"),
        "of vqa, but has no column answer_type",
    ),
    "image id": (
        "vqa",
        lambda r: without(r, "image_id"),
        "Closest: vqa lacks image_id; textvqa lacks",
    ),
    "no benchmark": (
        "vqa",
        lambda r: without(r, "answers"),
        "no benchmark (vqa, pope, mme, textvqa, docvqa, chartqa, llava-bench, exact)",
    ),
    "picture": ("pope", lambda r: without(r, "image"), "has no image column"),
    "answer type": ("mme", lambda r: [row | {"answer": 1} for row in r], "column 'answer'"),
    "answer text": ("mme", lambda r: [row | {"answer": "maybe"} for row in r], "yes or no, got 'maybe' in row 0"),
    "annotators": ("vqa", lambda r: [row | {"answers": 3.5} for row in r], "the annotators' texts, or records"),
    "no answers": (
        "vqa",
        lambda r: [row | {"answers": None} for row in r],
        "a split without answers",
    ),
    "question": (
        "pope",
        lambda r: [row | ({"question": None} if i == 2 else {}) for i, row in enumerate(r)],
        "got nan in row 2",
    ),
}


@pytest.mark.parametrize(("task", "change", "text"), BROKEN.values(), ids=BROKEN)
def test_broken_tables_say_what_is_wrong_and_what_is_there(task, change, text, tmp_path):
    assert text in says(dataset, write_parquet(tmp_path, change(hub_rows(task)[:6])))


def test_a_broken_picture_is_named_and_never_skipped(tmp_path):
    rows = hub_rows("pope")
    for row in rows:
        if row["image_source"] == rows[0]["image_source"]:
            row["image"] = {"bytes": row["image"]["bytes"][:60], "path": None}
    data = dataset(write_parquet(tmp_path, rows))
    assert f"image {rows[0]['image_source']} (row 0 of" in says(lambda: list(data.batches(4)))


def test_pope_ids_that_repeat_between_categories_stay_apart(tmp_path):
    rows = [row | {"question_id": str(i % 3)} for i, row in enumerate(hub_rows("pope")[:9])]
    items = dataset(write_parquet(tmp_path, rows)).rows["item"]
    assert items.is_unique and items[0] == "test/random/0#0"


# --- calibration sets


@pytest.mark.parametrize("task", SCENES)
def test_calibration_questions_take_turns_and_are_never_scored(task):
    seen = calibration_set("balanced", 28, source=f"scenes-{task}", exclude=SCENES[task])
    assert len(seen) == 28 and seen.task is TASKS[task] and seen.split == "train"
    assert not set(image_digests(seen.images)) & set(image_digests(SCENES[task].images))
    if task == "mme":
        assert (seen.rows["category"].value_counts() == 2).all()
    smaller = calibration_set("balanced", 9, source=SCENES[task])
    larger = calibration_set("balanced", 12, source=SCENES[task])
    assert smaller.rows["item"].tolist() == larger.rows["item"][:9].tolist()


def test_scored_questions_of_the_same_source_are_left_out():
    held = SCENES["pope"].subset(range(20))
    seen = calibration_set("clean", 10, source=SCENES["pope"], exclude=held)
    assert not set(seen.rows["image_id"]) & set(held.rows["image_id"])
    assert "outside 'scenes-pope', which is excluded" in says(
        calibration_set, "clean", len(SCENES["pope"]), source=SCENES["pope"], exclude=held
    )


def test_mixes_say_what_is_shown_of_a_question():
    def mix(name):
        return calibration_set(name, 16, source=SCENES["mme"])

    assert not mix("text-only").rows["image_seen"].any() and mix("text-only").rows["question"].ne("").all()
    assert mix("vision-only").rows["image_seen"].all() and mix("vision-only").rows["question"].eq("").all()
    heavy = mix("vision-heavy").rows
    assert heavy["image_seen"].sum() == 14 and (heavy["question"].eq("") == heavy["image_seen"]).all()
    balanced, dark = mix("balanced"), mix("dark")
    assert (
        dark.rows["item"].equals(balanced.rows["item"]) and dark.images.float().mean() < balanced.images.float().mean()
    )


def test_languages_are_told_by_a_column_or_by_the_sub_task():
    source = dataset("scenes-mme", n=56)
    assert "text_translation" not in set(calibration_set("english", 64, source=source).rows["category"])
    german = calibration_set("second-language", 4, source=source)
    assert set(german.rows["category"]) == {"text_translation"}
    told = QuestionSet("told", VQA, SCENES["vqa"].rows.assign(language="German"), SCENES["vqa"].images)
    assert len(calibration_set("second-language", 5, source=told)) == 5
    assert "does not say which language" in says(calibration_set, "english", 4, source=SCENES["vqa"])
    assert "has 0 for 'english'" in says(calibration_set, "english", 4, source=told)


def test_questions_have_no_classes():
    assert "questions have none" in says(calibration_set, "single-class", 4, source=SCENES["mme"])


def test_every_question_of_a_calibration_set_comes_once_with_its_image():
    seen = calibration_set("text-heavy", 16, source=SCENES["mme"])
    positions = np.concatenate([p.numpy() for _, p, _ in seen.calibration_batches(5)])
    assert sorted(positions) == list(range(16))
    for shown, own, images in seen.calibration_batches(5):
        assert (seen.rows["image_seen"].iloc[own.numpy()] == shown).all() and len(images) == len(own)
