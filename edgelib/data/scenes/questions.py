"""Question sets about scenes in the schemas of VQAv2, POPE and MME. Synthetic stand-ins: no score on them is theirs.

A scene's questions derive from its record, the seed, the split and the task, so the first n images of a set are the
same whatever n; training, validation and test share no scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.scenes.questions_mme import mme_rows
from edgelib.data.scenes.questions_pope import pope_rows
from edgelib.data.scenes.questions_scene import Draws, QuestionImages, Scene, draws_of, visible_scenes
from edgelib.data.scenes.questions_vqa import vqa_rows
from edgelib.data.scenes.records import IMAGE_SIZE
from edgelib.data.streams import HELD_BYTES, Stream
from edgelib.errors import EdgelibError, choose

# Task -> function of (scenes with their draws, split, seed) that yields the rows of one scene after the other.
WRITERS: dict[str, Callable[[Iterator[tuple[Scene, Draws]], str, int], Iterator[list[dict]]]] = {
    "vqa": vqa_rows,
    "pope": pope_rows,
    "mme": mme_rows,
}


def scene_questions(
    task: str, n_images: int, seed: int = 0, split: str = "test"
) -> tuple[pd.DataFrame, Tensor | Stream]:
    """Return (rows, images uint8 [n_images, 3, 48, 48]): questions about the first n scenes of a split.

    Many images are not kept, but drawn again whenever they are looked at (`edgelib.data.streams`).

    rows: one per question, with the columns of the data set on the Hugging Face hub, and `image`, a position in images.

    - "vqa" (lmms-lab/VQAv2): question_id, image_id, question, question_type, answer_type ("yes/no", "number" or
      "other"), multiple_choice_answer, answers (ten of answer, answer_confidence, answer_id). Answers are in lower
      case; some ask for German. Annotators disagree now and then.
    - "pope" (lmms-lab/POPE): question_id, question, answer ("yes" or "no"), category ("random", "popular" or
      "adversarial"), image_source. Per image and category as many of one answer as of the other.
    - "mme" (lmms-lab/MME): question_id (of the image, shared by its two questions), question, answer ("Yes" or "No"),
      category. See `questions_mme` for what the sub-tasks ask.

    Raises EdgelibError for an unknown task or split, and for fewer than one image.
    """
    write = choose(WRITERS, task, "task of scenes questions")
    if n_images < 1:
        raise EdgelibError(f"n_images must be 1 or more, got {n_images!r}")
    stream = Stream(QuestionImages(split, seed), np.zeros(n_images, np.int64), (IMAGE_SIZE, IMAGE_SIZE))
    keep, index, images = stream.nbytes <= HELD_BYTES, [], []

    def scenes() -> Iterator[tuple[Scene, Draws]]:
        for part, drawn, _, _ in visible_scenes(split, seed):
            index.extend(scene.index for scene in part)
            images.extend([drawn] if keep else [])
            yield from zip(part, draws_of(task, split, seed, [scene.index for scene in part]), strict=True)

    rows: list[dict] = []
    for position, asked in zip(range(n_images), write(scenes(), split, seed)):  # noqa: B905 (scenes have no end)
        rows += [{**row, "image": position} for row in asked]
    if keep:
        return pd.DataFrame(rows), torch.cat(images)[:n_images]
    return pd.DataFrame(rows), replace(stream, places=np.array(index[:n_images], np.int64))


def true_answers(rows: pd.DataFrame) -> pd.Series:
    """One text a question of `scene_questions`: its answer, or what most annotators said."""
    return rows["multiple_choice_answer" if "multiple_choice_answer" in rows else "answer"]


def blind_answers(rows: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Answers to a set's questions by one who sees no image: the most frequent answer in `known` to the same question.

    A question that `known` lacks has the most frequent answer of its type (VQA) or category, else of all. Ties go to
    the answer that is first in the alphabet. Both tables are as from `scene_questions`, of the same task.
    Raises EdgelibError for an empty `known`.
    """
    if not len(known):
        raise EdgelibError("there are no known questions to guess from; give at least one")
    answer = true_answers(known).name
    kind = "question_type" if "question_type" in known else "category"

    def most_frequent(column: str) -> pd.Series:
        counts = known.groupby([column, answer]).size().reset_index(name="n")
        return (
            counts.sort_values(["n", answer], ascending=[False, True]).drop_duplicates(column).set_index(column)[answer]
        )

    guess = rows["question"].map(most_frequent("question"))
    return guess.fillna(rows[kind].map(most_frequent(kind))).fillna(known[answer].mode()[0]).tolist()
