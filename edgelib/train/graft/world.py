"""What a graft learns from: scenes, what covers each patch of them in words, and questions with their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgelib.data.scenes.questions_scene import Scene, draws_of, visible_scenes, with_article
from edgelib.data.scenes.questions_vqa import vqa_questions

DESCRIBE = "Describe the picture."
_THING, _GROUND = "{colour} {shape}", "{texture} background"


class Sights(NamedTuple):
    """N scenes: images uint8 [N, 3, H, W], what they show, and the share of each object in each pixel."""

    images: Tensor
    scenes: list[Scene]
    cover: Tensor  # float32 [N, objects, H, W]


def sights(count: int, split: str, seed: int, start: int = 0) -> Iterator[Sights]:
    """Yield scenes of a split, `count` at a time and without end, from an index on; each comes once."""
    waiting: list[tuple] = []
    for scenes, images, cover, _ in visible_scenes(split, seed, start):
        waiting += zip(scenes, images, cover, strict=True)
        while len(waiting) >= count:
            shown, drawn, covered = zip(*waiting[:count], strict=True)
            waiting = waiting[count:]
            yield Sights(torch.stack(drawn), list(shown), torch.stack(covered))


def patch_shares(cover: Tensor, grid: int) -> Tensor:
    """Share of each patch [N, grid**2, objects + 1] that each object covers; the last is the background's."""
    share = F.adaptive_avg_pool2d(cover, grid).flatten(2).transpose(1, 2)
    return torch.cat([share, (1 - share.sum(-1, keepdim=True)).clamp(min=0)], -1)


def words_of(scene: Scene, objects: int) -> list[str]:
    """What each object of a scene is called, "" where there are fewer, and last the background."""
    things = [_THING.format(colour=thing.colour, shape=thing.shape) for thing in scene.things]
    return [*things, *[""] * (objects - len(things)), _GROUND.format(texture=scene.texture)]


def sentence(scene: Scene) -> str:
    """All that there is to say of a scene: "A red circle and a blue star on a striped background."."""
    *first, last = [with_article(f"{thing.colour} {thing.shape}") for thing in scene.things]
    things = f"{', '.join(first)} and {last}" if first else last
    return f"{things} on {with_article(_GROUND.format(texture=scene.texture))}.".capitalize()


def cases(scenes: list[Scene], split: str, seed: int) -> list[list[tuple[str, str]]]:
    """(question, answer) pairs of each scene: its visual questions, and a description."""
    drawn = draws_of("vqa", split, seed, [scene.index for scene in scenes])
    return [
        [(DESCRIBE, sentence(scene)), *((case["question"], case["answer"]) for case in vqa_questions(scene, draws))]
        for scene, draws in zip(scenes, drawn, strict=True)
    ]
