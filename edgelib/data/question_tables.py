"""Question sets from tables in the columns of lmms-lab/VQAv2, lmms-lab/POPE and lmms-lab/MME, and from scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.data.images import Images, select_images
from edgelib.data.questions import TASKS, YES_NO
from edgelib.data.readers.sources import Options, Source, refuse_columns
from edgelib.data.scenes.questions import scene_questions
from edgelib.data.scenes.records import SPLITS
from edgelib.errors import EdgelibError

QUESTION = "question"
# Columns that tell the benchmarks apart, and the one that names an image: a cluster of questions.
_MARKS = {"vqa": "answers", "pope": "image_source", "mme": "category"}
_IMAGE_ID = {"vqa": "image_id", "pope": "image_source", "mme": "question_id"}


@dataclass(frozen=True)
class Asked:
    """One split of questions, before any image is decoded: rows with `image`, and fetch(positions of images)."""

    task: str
    rows: pd.DataFrame
    fetch: Callable[[np.ndarray], Images]

    @property
    def strata(self) -> np.ndarray:
        """A small whole number for each image, in the order of `image`: its sub-task in MME, else 0."""
        first = self.rows.drop_duplicates("image").set_index("image").sort_index()
        return pd.factorize(first["category"])[0] if self.task == "mme" else np.zeros(len(first), np.int64)

    def chosen(self, images: np.ndarray) -> tuple[pd.DataFrame, Images]:
        """All questions about the images at these positions, in that order, and the images."""
        place = pd.Series(np.arange(len(images)), index=images)
        rows = self.rows[self.rows["image"].isin(images)]
        rows = rows.assign(image=place[rows["image"]].to_numpy()).sort_values("image", kind="stable")
        return rows, self.fetch(images)


def is_question_table(names: Iterable[str], options: Options) -> bool:
    """Whether a table's columns ask questions: it has `question`, and the caller names no label column."""
    return QUESTION in names and options.label_column is None


def question_task(names: Iterable[str], where: str) -> str:
    """The benchmark whose columns a table has. Raises EdgelibError naming a column that is missing, and those there."""
    names = list(names)
    task = next((task for task, mark in _MARKS.items() if mark in names), None)
    if task is None:
        raise EdgelibError(
            f"{where} asks questions, but has none of the columns answers (VQAv2), image_source (POPE) and category "
            f"(MME) that tell benchmarks apart; present: {', '.join(names)}"
        )
    for column in wanted_columns(task):
        if column not in names:
            raise EdgelibError(
                f"{where} has no column {column!r}, which questions in the columns of {task} need "
                f"({', '.join(wanted_columns(task))}); present: {', '.join(names)}"
            )
    return task


def wanted_columns(task: str) -> list[str]:
    """The columns that a table of questions must have, beside the image."""
    return list(dict.fromkeys(["question_id", _IMAGE_ID[task], QUESTION, *TASKS[task]]))


def question_rows(table: pd.DataFrame, task: str, split: str, where: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of a `QuestionSet` from a table's own columns, and the row in which each distinct image stands first.

    item is 'split/question_id', with the category of POPE before the id, which repeats there, and a number after an id
    that two rows share; answers are plain texts. Raises EdgelibError for values of a wrong kind, naming the first row.
    """
    rows = table.reset_index(drop=True)
    for column in (QUESTION, *TASKS[task]):
        if column != "answers":
            _require_texts(rows, column, where)
    if task == "vqa":
        rows["answers"] = [_annotators(value, i, where) for i, value in enumerate(rows["answers"])]
    if task in YES_NO:
        wrong = rows[~rows["answer"].str.strip().str.lower().isin(["yes", "no"])]
        if len(wrong):
            raise EdgelibError(
                f"column 'answer' of {where} must say yes or no, got {wrong['answer'].iloc[0]!r} in row "
                f"{wrong.index[0]} ({len(wrong)} such rows)"
            )
    ids = rows["question_id"].astype(str)
    ids = rows["category"] + "/" + ids if task == "pope" else ids
    again = ids.groupby(ids).cumcount()
    ids = ids.where(~ids.duplicated(keep=False), ids + "#" + again.astype(str))
    image, names = pd.factorize(rows[_IMAGE_ID[task]].astype(str))
    first = np.unique(image, return_index=True)[1]
    rows = rows.drop(columns=["item", "image", "image_id"], errors="ignore")
    rows.insert(0, "item", [f"{split}/{i}" for i in ids])
    rows.insert(1, "image", image)
    rows.insert(2, "image_id", names.to_numpy()[image])
    return rows, first


def _require_texts(rows: pd.DataFrame, column: str, where: str) -> None:
    for i, value in enumerate(rows[column]):
        if not isinstance(value, str):
            raise EdgelibError(f"column {column!r} of {where} must hold texts, got {value!r} in row {i}; mend it first")


def _annotators(value: object, row: int, where: str) -> list[str]:
    """Texts of one question's annotators, who may stand in records {"answer": text}."""
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    entries = entries if isinstance(entries, list) else [entries]
    texts = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in entries]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise EdgelibError(
            f"column 'answers' of {where} must hold the annotators' texts, or records {{'answer': text}}, got "
            f"{value!r} in row {row}; a split without answers (the test split of VQAv2) cannot be scored: take another"
        )
    return texts


def open_scene_questions(task: str) -> Callable[[int, int], Source]:
    """A generated source: (length, seed) -> questions about the first `length` scenes of each split."""

    def open_source(length: int, seed: int) -> Source:
        def read(split: str, options: Options) -> Asked:
            refuse_columns(options, f"scenes-{task}")
            table, images = scene_questions(task, length, seed, split)
            shown = table["image"].to_numpy()
            rows, _ = question_rows(table, task, f"scenes-{task}/{split}/{seed}", f"scenes-{task}")
            return Asked(task, rows.assign(image=shown), lambda positions: select_images(images, positions))

        return Source(f"scenes-{task}", {split: lambda options, split=split: read(split, options) for split in SPLITS})

    return open_source


def with_images(asked: tuple[pd.DataFrame, np.ndarray], task: str, fetch: Callable[[np.ndarray], Images]) -> Asked:
    """Questions whose image i stands in row first[i] of a table that fetches images by row."""
    rows, first = asked
    return Asked(task, rows, lambda positions: fetch(first[positions]))
