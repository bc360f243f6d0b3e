"""Figures of answers: questions beside their pictures, sub-tasks, shares. Nothing here loads or saves."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from edgelib.data.questions import QuestionSet
from edgelib.report.figures.base import forest
from edgelib.report.figures.palette import GREY, looks

_LACKING = "\N{REPLACEMENT CHARACTER}"


def question_gallery(
    images: Sequence[np.ndarray], texts: Sequence[str], columns: int = 4, width: float = 7.2
) -> Figure:
    """Draw uint8 images [H, W, 3], each with its text below, wrapped to the width of its column.

    A letter that the font lacks, as those of other scripts and what is no letter at all, is a mark in its place.
    """
    rows = -(-len(images) // columns)
    letters = int(15.5 * width / columns)
    known = get_font(findfont(FontProperties())).get_charmap()
    texts = ["".join(c if ord(c) in known or c in string.whitespace else _LACKING for c in text) for text in texts]
    wrapped = ["\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, letters)) for text in texts]
    lines = max(text.count("\n") + 1 for text in wrapped)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, rows * (0.72 * width / columns + 0.15 * lines)),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, text in zip(axes.flat, images, wrapped, strict=False):
        ax.imshow(image, interpolation="nearest")
        ax.set_title(text, loc="left", fontsize=7.5, y=0, pad=-4, va="top")
    return figure


def question_samples(sets: Mapping[str, QuestionSet], each: int = 4) -> Figure:
    """Draw questions of several benchmarks, spread over each set, with their reference answers."""
    tiles, texts = [], []
    for asked in sets.values():
        for i in range(0, each * len(asked) // (each + 1), len(asked) // each or 1):
            row = asked.rows.iloc[i]
            tiles.append(_tile(asked, row["image"]))
            texts.append(f"{asked.task.title}: {row['question']}\n-> {asked.references([i])[0]}")
    return question_gallery(tiles, texts)


def disagreements(answers: pd.DataFrame, asked: QuestionSet, most: int = 8) -> Figure:
    """Draw the questions with the most different answers, and who says what; the star marks the reference answer.

    answers: rows of item, config and prediction to the questions `asked`. Without a disagreement, the first question.
    """
    wide = answers.pivot_table("prediction", "item", "config", aggfunc="first", sort=False)
    different = wide.nunique(axis=1).sort_values(ascending=False, kind="stable")
    chosen = different.index[different > 1][:most]
    tiles, texts = [], []
    for item in chosen if len(chosen) else wide.index[:1]:
        place = int(np.flatnonzero(asked.rows["item"] == item)[0])
        row, reference = asked.rows.iloc[place], asked.references([place])[0]
        groups = wide.loc[item].groupby(wide.loc[item], sort=False).groups
        said = [f"{'*' if text == reference else ''}{text}: {', '.join(who)}" for text, who in groups.items()]
        tiles.append(_tile(asked, row["image"]))
        texts.append("\n".join([row["question"], *said]))
    return question_gallery(tiles, texts)


def _tile(asked: QuestionSet, image) -> np.ndarray:
    return asked.images[[image]][0].permute(1, 2, 0).numpy()


def sub_task_panels(table: pd.DataFrame, width: float = 7.2, columns: int = 4) -> Figure:
    """One forest per config over the sub-tasks (columns config, task, n, effect, low, high), points on one scale."""
    styles = looks(table["config"])
    rows = -(-len(styles) // columns)
    tasks = table["task"].nunique()
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, rows * (0.7 + 0.17 * tasks)), sharex=True, sharey=True, squeeze=False
    )
    for ax in axes.flat[len(styles) :]:
        ax.set_axis_off()
    for ax, (config, part) in zip(axes.flat, table.groupby("config", sort=False), strict=False):
        names = [f"{task} ({n})" for task, n in zip(part["task"], part["n"], strict=True)]
        forest(part.assign(name=[name.replace("_", " ") for name in names]), ax, styles=styles)
        ax.tick_params(axis="y", labelsize=7.5)
        ax.set_title("\n".join(textwrap.wrap(styles[config].label, 20)), fontsize=8.5)
    return figure


def share_dots(table: pd.DataFrame, ax: Axes, label: str, mark: float | None = None, says: str = "") -> Axes:
    """Shares with intervals, one line per config (columns config, value, low, high), in percent; `mark` is a share to
    compare with, and `says` its name."""
    forest(table.rename(columns={"value": "effect"}), ax, label, scale=100)
    ax.lines[-1].set_visible(False)  # zero is no special share
    if mark is not None:
        ax.axvline(100 * mark, color=GREY, linestyle=":", linewidth=1.2)
        above: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(says, (100 * mark, 1), (0, 3), color=GREY, ha="center", fontsize=8, **above)
    return ax
