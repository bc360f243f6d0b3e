"""Generated sets: worlds that are drawn instead of read, with no last item.

Images of a large set are not kept: they are drawn again whenever they are looked at (`edgelib.data.streams`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.images import select_images
from edgelib.data.question_tables import Asked, question_rows
from edgelib.data.readers.sources import Labelled, Options, Source, first_given, indexed_names, refuse_columns
from edgelib.data.scenes import records as scenes
from edgelib.data.scenes.questions import WRITERS, scene_questions
from edgelib.data.streams import Stream, held
from edgelib.tasks.benchmarks import TASKS

DEFAULT_LENGTH = 1000  # items of a split when the caller names no number
_RENDER_BATCH = 64  # bounds the memory of drawing, not the result


@lru_cache(maxsize=4)  # a study draws many calibration sets from one pool
def _scene_rows(split: str, length: int, seed: int) -> pd.DataFrame:
    names = [f"scenes/{split}/{seed}/{i:06d}" for i in range(length)]
    return scenes.record_table(scenes.draw_records(split, torch.arange(length), seed), names)


@dataclass(frozen=True)
class _Drawn:
    """Draws scenes of a split: their indices [n] -> uint8 [n, 3, 48, 48]."""

    split: str
    seed: int

    def __call__(self, index: np.ndarray) -> Tensor:
        images = torch.empty(len(index), 3, scenes.IMAGE_SIZE, scenes.IMAGE_SIZE, dtype=torch.uint8)
        for part, own in zip(torch.from_numpy(index).split(_RENDER_BATCH), images.split(_RENDER_BATCH), strict=True):
            own.copy_(scenes.render(scenes.draw_records(self.split, part, self.seed))[0])
        return images


def open_scenes(length: int, seed: int) -> Source:
    """The first `length` scenes of every split of the embedded world `seed`; only fetched scenes are drawn."""

    def read(split: str, options: Options) -> Labelled:
        refuse_columns(options, "scenes")
        names = indexed_names(first_given(options.class_names, tuple(scenes.SHAPES)), "scenes")

        def fetch(positions: np.ndarray) -> Tensor | Stream:
            return held(Stream(_Drawn(split, seed), np.asarray(positions), (scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)))

        return Labelled(_scene_rows(split, length, seed).copy(), names, fetch)

    return Source("scenes", {split: partial(read, split) for split in scenes.SPLITS})


def open_scene_questions(task: str) -> Callable[[int, int], Source]:
    """A generated source: (length, seed) -> questions about the first `length` scenes of each split."""
    name = f"scenes-{task}"

    def open_source(length: int, seed: int) -> Source:
        def read(split: str, options: Options) -> Asked:
            refuse_columns(options, name)
            table, images = scene_questions(task, length, seed, split)
            shown = table["image"].to_numpy()
            rows, _ = question_rows(table, TASKS[task], f"{name}/{split}/{seed}", name)
            return Asked(TASKS[task], rows.assign(image=shown), lambda positions: select_images(images, positions))

        return Source(name, {split: partial(read, split) for split in scenes.SPLITS})

    return open_source


# name -> function of (length, seed); the length of questions is that of their images
QUESTIONS = {f"scenes-{task}": open_scene_questions(task) for task in WRITERS}
GENERATED = {"scenes": open_scenes, **QUESTIONS}
