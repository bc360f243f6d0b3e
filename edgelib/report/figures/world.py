"""Figures of the embedded world: scenes, training, what is hard. Nothing here loads, computes or saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgelib.data.labelled import Dataset
from edgelib.report.figures.base import image_grid
from edgelib.report.figures.palette import GREY, SKY, series


def class_gallery(data: Dataset, each: int = 4) -> Figure:
    """Draw the first images of every class, a column per class; a class with fewer than `each` repeats them."""
    labels = data.rows["label"].to_numpy()
    picks = np.stack([np.resize(np.flatnonzero(labels == c), each) for c in range(len(data.class_names))], axis=1)
    images: Any = data.images  # a tensor: the embedded world has one size
    tiles = images[torch.from_numpy(picks.ravel())].view(*picks.shape, *images.shape[1:])
    return image_grid(tiles.permute(0, 1, 3, 4, 2).numpy(), [""] * each, data.class_names)


def training_curves(logs: pd.DataFrame, ax: Axes, chance: float) -> Axes:
    """Accuracy against scenes seen, one line per model (columns model, scenes_seen, accuracy), and guessing."""
    for k, (name, log) in enumerate(logs.groupby("model")):
        look = series(k)
        ax.plot(log["scenes_seen"] / 1000, 100 * log["accuracy"], look.marker, ls="-", c=look.colour, ms=4, label=name)
    ax.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2, label="guessing")
    ax.set(ylim=(0, 100), xlabel="Scenes seen (thousands)", ylabel="Accuracy (%)")
    ax.legend()
    return ax


def accuracy_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy with intervals by attribute and value, a gap between attributes (`attribute_table`)."""
    place = np.arange(len(table)) + 0.6 * pd.factorize(table["by"])[0]
    spread = np.abs([table["mean"] - table["low"], table["high"] - table["mean"]])
    ax.bar(place, 100 * table["mean"], color=SKY, yerr=100 * spread)
    ax.set_xticks(place, table["value"], rotation=40, ha="right")
    ax.set(ylim=(0, 100), ylabel="Accuracy (%)")
    return ax
