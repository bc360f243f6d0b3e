"""What questions are asked about: scenes whose objects can all be seen, as plain values, and the draws of each."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor

from edgelib.data.scenes.records import COLOURS, TEXTURES, Records, draw_records, render
from edgelib.data.scenes.shapes import SHAPES
from edgelib.ground.randomness import address, keys_for, uniform

T = TypeVar("T")
SEEN_PIXELS = 30  # an object of fewer visible pixels has no shape that a reader could name
_SCALE = (0.8, 1.45, 1.45)  # of the radii: the subject gives room to objects that questions compare it with
_REACH = 0.78  # centres stay within this, so that the larger objects are not cut by the border
_DRAWS = 160  # numbers that the questions of one scene may use
_CHUNK = 256


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What questions can speak of. `index` is the position of its record in the split."""

    index: int
    things: tuple[Thing, ...]
    texture: str
    brightness: float  # mean of the background in [0, 1]


class Draws:
    """Numbers in [0, 1), used one after the other."""

    def __init__(self, numbers: Sequence[float]):
        self._numbers = iter(numbers)

    def chance(self, share: float) -> bool:
        """Return True in the given share of draws."""
        return next(self._numbers) < share

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, each as likely."""
        return options[int(next(self._numbers) * len(options))]

    def weighted(self, weights: dict[T, float]) -> T:
        """Return one key, as likely as its weight."""
        ends = list(accumulate(weights.values()))
        return list(weights)[bisect(ends, next(self._numbers) * ends[-1], hi=len(ends) - 1)]


@cache
def wording() -> dict:
    """Phrasings and word tables, from questions.yaml beside this file."""
    return yaml.safe_load(files("edgelib.data.scenes").joinpath("questions.yaml").read_text(encoding="utf-8"))


def with_article(word: str) -> str:
    """Put "a" or "an" before a word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def scene_name(scene: Scene, split: str, seed: int) -> str:
    """What a scene's image is called in the columns of a benchmark."""
    return f"scenes_{split}_{seed}_{scene.index:06d}"


def draws_of(task: str, split: str, seed: int, index: Sequence[int]) -> list[Draws]:
    """The draws of each scene with the given index; they depend on (task, split, seed, index) only."""
    keys = keys_for(address("question", task, split, seed), torch.tensor(index, dtype=torch.int64))
    return [Draws(row) for row in uniform(keys, _DRAWS).tolist()]


def question_records(split: str, index: Tensor, seed: int) -> Records:
    """Records as `draw_records`, with a smaller subject and larger distractors, so that every object can be named."""
    records = draw_records(split, index, seed)
    centre = records.centre.clamp(-_REACH, _REACH)
    return replace(records, radius=records.radius * torch.tensor(_SCALE), centre=centre)


@dataclass(frozen=True)
class QuestionImages:
    """Draws the images of scenes that questions are about: their indices in a split [n] -> uint8 [n, 3, 48, 48]."""

    split: str
    seed: int

    def __call__(self, index: np.ndarray) -> Tensor:
        parts = torch.from_numpy(index).split(_CHUNK)
        return torch.cat([render(question_records(self.split, part, self.seed))[0] for part in parts])


def describe(records: Records, index: Tensor) -> list[Scene]:
    """The records as plain values."""
    shapes, colours = list(SHAPES), list(COLOURS)
    brightness = records.ground.mean(dim=(1, 2)).tolist()
    columns = (records.shape, records.colour, records.centre, records.radius)
    scenes = []
    for i, texture, light, *row in zip(
        index.tolist(), records.texture.tolist(), brightness, *(c.tolist() for c in columns), strict=True
    ):
        things = (Thing(shapes[s], colours[c], x, y, r) for s, c, (x, y), r in zip(*row, strict=True) if s >= 0)
        scenes.append(Scene(i, tuple(things), TEXTURES[texture], light))
    return scenes


def visible_scenes(split: str, seed: int, start: int = 0) -> Iterator[tuple[list[Scene], Tensor, Tensor, Tensor]]:
    """Yield (scenes, images uint8 [n, 3, 48, 48], cover as `render`, shape as in records), part by part without end.

    Scenes come in the order of their index, from `start` on, without those where an object shows less than SEEN_PIXELS.
    """
    while True:
        index = torch.arange(start, start + _CHUNK)
        records = question_records(split, index, seed)
        images, cover = render(records)
        kept = ((cover.sum(dim=(2, 3)) >= SEEN_PIXELS) | (records.shape < 0)).all(dim=1)
        seen = [scene for scene, keep in zip(describe(records, index), kept.tolist(), strict=True) if keep]
        yield seen, images[kept], cover[kept], records.shape[kept]
        start += _CHUNK
