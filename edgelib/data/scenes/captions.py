"""Captions: true sentences made from a scene's record or an image's class, and which other scenes they are true of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
import yaml

from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError, choose

LANGUAGES = ("english", "german")
CAPTION_COLUMN = "caption"  # where a source brings its own English captions
_CLASS_PROMPTS = "cifar"
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
    from edgelib.data.scenes.records import COLOURS, SIZES, TEXTURES
    from edgelib.data.scenes.shapes import SHAPES

    return [
        t.format(shape=s, colour=c, size=z, texture=x)
        for t in TEMPLATES
        for s in SHAPES
        for c in COLOURS
        for z in SIZES
        for x in TEXTURES
    ]


@cache
def second_language() -> dict:
    """The word tables of the second language, from second_language.yaml beside this file."""
    return yaml.safe_load(files("edgelib.data.scenes").joinpath("second_language.yaml").read_text(encoding="utf-8"))


def item_texts(
    rows: pd.DataFrame, class_names: Sequence[str], draw: np.ndarray, language: str = "english"
) -> list[str]:
    """One text for each item, which is true of it.

    draw: numbers in [0, 1), one per item, which choose its template. English texts are the source's `caption` column if
    it has one. Else items with the attributes of a scene are captioned as scenes, and others by their class: English in
    the templates of the prompt set "cifar", German in those of second_language.yaml, where the classes of CIFAR-10 and
    of the scenes are translated and other names stay as they are.
    Raises EdgelibError for an unknown language, and naming an item whose own caption is not a text.
    """
    choose(dict.fromkeys(LANGUAGES), language, "language")
    if language == "english" and CAPTION_COLUMN in rows:
        return _own_captions(rows)
    if _are_scenes(rows):
        write = _english_caption if language == "english" else _german_caption
        values, count = rows[list(ATTRIBUTES)].to_dict("records"), len(TEMPLATES)
        return [write(int(t), value) for t, value in zip(draw * count, values, strict=True)]
    words = second_language()
    lines = templates(_CLASS_PROMPTS) if language == "english" else words["prompts"]
    known = {} if language == "english" else _german_names()
    names = [known.get(name, name) for name in class_names]
    return [lines[int(t)].format(names[label]) for t, label in zip(draw * len(lines), rows["label"], strict=True)]


def _own_captions(rows: pd.DataFrame) -> list[str]:
    for item, text in zip(rows["item"], rows[CAPTION_COLUMN], strict=True):
        if not isinstance(text, str) or not text.strip():
            raise EdgelibError(
                f"the {CAPTION_COLUMN} of item {item!r} is {text!r}, expected a text; write one, or drop the column to "
                "use sentences about the class"
            )
    return rows[CAPTION_COLUMN].tolist()


def _are_scenes(rows: pd.DataFrame) -> bool:
    """Whether the rows have the attributes of scenes, at values that captions know."""
    return all(a in rows and set(rows[a].unique()) <= set(second_language()[a]) for a in ATTRIBUTES)


def _english_caption(template: int, values: dict[str, str]) -> str:
    return TEMPLATES[template].format(**{key: values[key] for key in ATTRIBUTES})


def _german_caption(template: int, values: dict[str, str]) -> str:
    words = second_language()
    noun = words["shape"][values["shape"]]
    others = {key: words[key][values[key]] for key in ATTRIBUTES if key != "shape"}
    return words["captions"][template].format(shape=noun["word"], **others, **words["genders"][noun["gender"]])


def _german_names() -> dict[str, str]:
    words = second_language()
    return words["class_names"] | {name: noun["word"] for name, noun in words["shape"].items()}
