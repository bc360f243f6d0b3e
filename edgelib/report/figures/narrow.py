"""The same drawing for a phone: panels in at most two columns, legends above, letters that stay readable."""

from __future__ import annotations

import textwrap
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase, SubplotSpec
from matplotlib.text import Text

WIDTH = 3.45  # inches of 96 pixels: what a page leaves of a screen of 390 pixels
LEAST, MOST = 7.2, 8.5  # points; 7 points are 9.3 pixels
LETTERS = {"title": 13, "row": 17, "tile": 11, "axis": 36, "figure": 52}  # that fit on a line
MOST_TALLER = 1.6  # times, for names of several lines; where that is not enough they stay on one
MOST_TILES = 6  # columns of pictures whose titles stand upright


def narrow(figure: Figure) -> Figure:
    """Draw a figure anew for a screen of 390 pixels, in place, and return it.

    Panels on one scale are laid out in at most two columns, other grids keep their rows and columns. Legends go above,
    long names are broken, every letter has 7 points or more.
    """
    width, height = figure.get_size_inches()
    axes = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    if not axes:
        return figure
    tiles = all(ax.images and ax.axison and not len(ax.get_xticks()) for ax in axes)
    _smaller(figure)
    height *= _stacked(figure, axes)
    height *= max((_broken(ax, height) for ax in axes), default=1.0)
    if tiles:  # they keep their shape
        height = height * WIDTH / width + _tile_names(axes)
    figure.supxlabel(_filled(figure.get_supxlabel(), LETTERS["figure"]), fontsize=MOST)
    figure.set_size_inches(WIDTH, height + _legends_above(figure))
    return figure


def _filled(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, break_long_words=False)


def _grid(ax: Axes) -> GridSpecBase:
    return cast(SubplotSpec, ax.get_subplotspec()).get_gridspec()


def _fitting(size: float | str) -> float:
    return float(np.clip(0.85 * float(size), LEAST, MOST))


def _smaller(figure: Figure) -> None:
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            ticks = axis.get_ticklabels()
            axis.set_tick_params(labelsize=_fitting(ticks[0].get_fontsize() if ticks else MOST))
    for text in figure.findobj(Text):
        text.set_fontsize(_fitting(text.get_fontsize()))


def _stacked(figure: Figure, axes: list[Axes]) -> float:
    """Lay panels on one scale, or pictures without axes, out in two columns; returns how much higher that makes all."""
    first, grid = axes[0], _grid(axes[0])
    shared = first.get_shared_y_axes()
    if grid.ncols <= 2 or not all(shared.joined(first, ax) or not ax.axison for ax in axes):
        return 1.0
    shown = [ax for ax in axes if ax.has_data()]
    for ax in [ax for ax in axes if ax not in shown]:
        ax.remove()
        axes.remove(ax)
    label = next((ax.get_ylabel() for ax in shown if ax.get_ylabel()), "")
    below = next((ax.get_xlabel() for ax in reversed(shown) if ax.get_xlabel()), "")
    same = len(axes) > 1 and first.get_shared_x_axes().joined(first, axes[1])
    rows = max(1, -(-len(shown) // 2))
    anew = figure.add_gridspec(rows, 2)
    for k, ax in enumerate(shown):
        ax.set_subplotspec(anew[k // 2, k % 2])
        left, last = k % 2 == 0, k + 2 >= len(shown)
        ax.set(ylabel=label if left else "", xlabel=below if last else "")
        ax.tick_params(labelleft=left, labelbottom=last or not same)
    return rows / grid.nrows


def _broken(ax: Axes, height: float) -> float:
    """Break long names of an axis and turn what was slanted further; returns how much higher the figure has to be."""
    names, taller = [tick.get_text() for tick in ax.get_yticklabels()], 1.0
    if any(len(name) > LETTERS["row"] for name in names):
        broken = [_filled(" ".join(name.split()), LETTERS["row"]) for name in names]
        lines = len(names) * max(name.count("\n") + 1 for name in broken)
        needed = 1.6 * LEAST / 72 * lines * _grid(ax).nrows / height
        if needed < MOST_TALLER:
            ax.set_yticks(ax.get_yticks(), broken)
            taller = max(1.0, needed)
    if ax.axison and ax.get_title(loc="left"):
        ax.set_title(_filled(ax.get_title(loc="left"), LETTERS["title"]), loc="left", fontsize=LEAST + 0.8)
    ax.xaxis.label.set_text(_filled(ax.get_xlabel(), LETTERS["axis"]))
    if any(0 < tick.get_rotation() < 60 for tick in ax.get_xticklabels()):
        ax.tick_params(axis="x", labelrotation=60)
    return taller


def _tile_names(axes: list[Axes]) -> float:
    """Break the names of rows of tiles, turn those of many columns; returns the inches that these then take."""
    columns = _grid(axes[0]).ncols
    for ax in axes:
        ax.yaxis.label.set_text(_filled(ax.get_ylabel(), LETTERS["tile"]))
        if columns > MOST_TILES:
            ax.title.set(rotation=60, horizontalalignment="left", rotation_mode="anchor")
    return 0.5 if columns > MOST_TILES else 0.0


def _legends_above(figure: Figure) -> float:
    """Put all legends above the figure as one; returns the inches that it takes."""
    old = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
    if not old:
        return 0.0
    wanted = {text.get_text() for legend in old for text in legend.get_texts()}
    entries = {
        name: handle
        for ax in figure.axes
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
        if name in wanted
    }
    for legend in old:
        legend.remove()
    columns = 2 if max(map(len, entries)) <= 24 else 1
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns, fontsize=LEAST, frameon=False)
    return 0.17 * -(-len(entries) // columns) + 0.1
