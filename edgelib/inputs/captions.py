"""Captions of scenes: true sentences made from the record, and which other scenes they are true of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

ATTRIBUTES = ("shape", "colour", "size", "texture")
TEMPLATES = (
    "a photo of a {shape}.",
    "a {shape}.",
    "a photo of a {colour} {shape}.",
    "a {size} {colour} {shape}.",
    "a {colour} {shape} on a {texture} background.",
    "a {size} {shape} on a {texture} background.",
)


@dataclass(frozen=True)
class Captions:
    """Captions of the first scenes of a table; truth [scene, caption] says whether caption j is true of scene i."""

    text: list[str]
    truth: np.ndarray


def captions(rows: pd.DataFrame, template: np.ndarray, count: int) -> Captions:
    """Caption the first `count` rows of a scenes table, each with the template of the given index."""
    values, template = rows[list(ATTRIBUTES)].to_numpy(), template[:count]
    said = values[:count]
    text = [TEMPLATES[t].format(**dict(zip(ATTRIBUTES, v, strict=True))) for t, v in zip(template, said, strict=True)]
    mentions = np.array([["{" + a + "}" in t for a in ATTRIBUTES] for t in TEMPLATES])[template]
    truth = ((values[:, None, :] == said[None, :, :]) | ~mentions[None]).all(axis=2)
    return Captions(text, truth)


def vocabulary_text() -> list[str]:
    """Every caption the templates can make, with each attribute at each value: what a tokenizer is trained on."""
    from edgelib.inputs.scenes import COLOURS, SIZES, TEXTURES
    from edgelib.inputs.shapes import SHAPES

    return [
        t.format(shape=s, colour=c, size=z, texture=x)
        for t in TEMPLATES for s in SHAPES for c in COLOURS for z in SIZES for x in TEXTURES
    ]  # fmt: skip
