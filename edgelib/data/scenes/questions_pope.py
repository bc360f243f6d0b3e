"""POPE on scenes: is there an X in the image? Absent shapes are drawn at random, by frequency, or by company.

Li et al., "Evaluating object hallucination in large vision-language models", 2023. The objects are the ten shapes. How
often shapes occur, alone and together, is counted over the first training scenes, so it is the same for every set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import torch

from edgelib.data.scenes.questions_scene import Draws, Scene, question_records, scene_name, with_article, wording
from edgelib.data.scenes.shapes import SHAPES

CATEGORIES = ("random", "popular", "adversarial")
_COUNTED = 20_000  # training scenes behind the frequencies


@cache
def together(seed: int) -> np.ndarray:
    """How many training scenes show shape i and shape j, int [shapes, shapes]; the diagonal counts shape i."""
    shape = question_records("train", torch.arange(_COUNTED), seed).shape.numpy()
    shown = (shape[:, :, None] == np.arange(len(SHAPES))).any(axis=1).astype(int)
    return shown.T @ shown


def _absent(category: str, present: list[str], seed: int, draws: Draws) -> list[str]:
    """As many absent shapes as there are present ones."""
    shapes, counts = list(SHAPES), together(seed)
    absent = [shape for shape in shapes if shape not in present]
    if category == "random":
        absent.sort(key=lambda _: draws.pick(range(1 << 16)))
    elif category == "popular":
        absent.sort(key=lambda shape: -counts[shapes.index(shape), shapes.index(shape)])
    else:
        rows = [shapes.index(shape) for shape in present]
        absent.sort(key=lambda shape: -counts[rows, shapes.index(shape)].sum())
    return absent[: len(present)]


def pope_questions(scene: Scene, draws: Draws, seed: int) -> list[dict[str, str]]:
    """question, answer ("yes" or "no") and category; for each category every shape there, and as many that are not."""
    present = [thing.shape for thing in scene.things]
    ask = wording()["pope"]
    return [
        dict(question=ask.format(a_shape=with_article(shape)), answer="yes" if shape in present else "no", category=c)
        for c in CATEGORIES
        for pair in zip(present, _absent(c, present, seed, draws), strict=True)
        for shape in pair
    ]


def pope_rows(scenes: Iterable[tuple[Scene, Draws]], split: str, seed: int) -> Iterator[list[dict]]:
    """Yield each scene's questions as rows of lmms-lab/POPE, numbered through."""
    number = 0
    for scene, draws in scenes:
        rows = []
        for asked in pope_questions(scene, draws, seed):
            number += 1
            rows.append({"question_id": str(number), **asked, "image_source": scene_name(scene, split, seed)})
        yield rows
