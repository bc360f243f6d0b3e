"""Figures of the robustness gap: rows in, figures out. Nothing here loads a model or data, or saves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgelib.corruptions import corrupt
from edgelib.report.figures.base import dose_response, forest, heat_map, image_grid, legend_above, panels
from edgelib.report.figures.palette import label, readable

SCALES = {
    "logit": ("above chance", "log odds"),
    "logit, no floor": ("plain", "log odds"),
    "accuracy": ("accuracy", "points"),
    "retention": ("retention", "points"),
    "matched accuracy": ("matched", "points"),
    "matched logit": ("matched", "log odds"),
}


def corrupted_picture(
    image: torch.Tensor,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int = 0,
    table: str | None = None,
) -> Figure:
    """Draw one image, uint8 [1, 3, H, W], under every corruption: a row each, clean on the left, then by severity."""
    severities = [0, *severities]
    tiles = [torch.cat([corrupt(image, c, s, seed=seed, table=table) for s in severities]) for c in corruptions]
    titles = ["clean", *(f"severity {s}" for s in severities[1:])]
    return image_grid(torch.stack(tiles).permute(0, 1, 3, 4, 2).numpy(), [readable(c) for c in corruptions], titles)


def accuracy_heat(cells: pd.DataFrame, chance: float) -> Axes:
    """Draw accuracy by corruption and config, mean over severities, clean images in the first row (`cell_table`)."""
    heat = 100 * cells.pivot_table("accuracy", "corruption", "config", sort=False)
    heat = heat.loc[["clean", *dict.fromkeys(c for c in cells["corruption"] if c != "clean")]]
    heat = heat[list(dict.fromkeys(cells["config"]))].rename(index=readable, columns=label)
    ax = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(heat)))[1]
    return heat_map(heat, ax, "Simulated accuracy (%)", low=100 * chance, high=100)


def gap_scales(gaps: pd.DataFrame) -> Figure:
    """Draw the gaps of every config on the six scales of `gap_table`, a panel with its unit each."""
    scales = {f"{title} ({unit})": gaps[gaps["scale"] == scale] for scale, (title, unit) in SCALES.items()}
    size = (7.2, 1.6 + 0.5 * (1 + gaps["config"].nunique()))
    return panels(scales, _gap, size, label="Gap (right: quantization makes corruption cost more)", columns=3)


def _gap(table: pd.DataFrame, ax: Axes) -> None:
    in_points = len(table) and SCALES[table["scale"].iloc[0]][1] == "points"
    forest(table, ax, scale=100 if in_points else 1)
    ax.xaxis.set_major_locator(MaxNLocator(3))  # more would run together with those of the next panel


def dose_panels(scores: pd.DataFrame, gaps: pd.DataFrame) -> Figure:
    """Draw clean accuracy (top) and the gap (bottom) against the dose, a column per kind of outlier but "plain".

    scores, gaps: of `rs_table` and `gap_table` with the columns kind and dose (`by_dose`).
    """
    kinds = [kind for kind in dict.fromkeys(gaps["kind"]) if kind != "plain"]
    low, high = 100 * scores["clean_low"], 100 * scores["clean_high"]
    accuracy = scores.assign(effect=100 * scores["clean"], low=low, high=high)
    figure, axes = plt.subplots(2, max(len(kinds), 1), figsize=(6.8, 5.2), sharey="row", squeeze=False)
    for column, kind in enumerate(kinds):
        for ax, table in ((axes[0, column], accuracy), (axes[1, column], gaps[gaps["scale"] == "logit"])):
            dose_response(table[table["kind"].isin(["plain", kind])], ax)
        axes[0, column].set(title=f"outliers in {kind}s", ylim=(0, 100))
    axes[0, 0].set_ylabel("Clean accuracy (%)")
    axes[1, 0].set_ylabel("Gap (log odds)")
    legend_above(figure, 4)
    figure.supxlabel("Outlier strength (times the usual size; 1: plain model)", fontsize=10)
    return figure
