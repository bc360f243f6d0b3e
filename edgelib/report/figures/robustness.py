"""Figures of the robustness gap: rows in, figures out. Nothing here loads a model or data, or saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgelib.corruptions import corrupt
from edgelib.report.figures.base import forest, heat_map, image_grid, panels
from edgelib.report.figures.palette import GREY, label, readable, series

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


def dose_panels(table: pd.DataFrame, y_label: str, scale: float = 1.0) -> Figure:
    """Draw an effect with its interval against the dose, a panel per configuration and a line per kind of outlier.

    table: columns config, kind, dose, effect, low, high (`by_dose`); the kind "plain" starts every line. An effect
    whose interval has no end (a model that guesses has nothing left to compare) is left out.
    """
    doses = sorted(table["dose"].unique())
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != "plain"]
    shown: dict[str, Any] = {"kinds": kinds, "doses": doses, "scale": scale, "sharex": True, "legend": True}
    x_label = "Outlier strength (times the usual size; 1: plain model)"
    names = table["config"].map(label)
    return panels(
        table.groupby(names, sort=False),
        _kinds,
        (7.2, 2.8),
        label=x_label,
        y_label=y_label,
        columns=min(4, max(1, names.nunique())),
        **shown,
    )


def _kinds(table: pd.DataFrame, ax: Axes, kinds: Sequence[str], doses: Sequence[float], scale: float) -> None:
    """A line per kind of outlier, each from the plain model on."""
    known = table[np.isfinite(table[["effect", "low", "high"]]).all(axis=1)]
    for k, kind in enumerate(kinds):
        style, rows = series(k), known[known["kind"].isin(["plain", kind])].sort_values("dose")
        values = scale * rows[["effect", "low", "high"]]
        spread = np.abs([values["effect"] - values["low"], values["high"] - values["effect"]])
        at = rows["dose"] * 1.12 ** (k - (len(kinds) - 1) / 2)
        look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": 5, "linewidth": 1.2}
        ax.errorbar(at, values["effect"], yerr=spread, label=f"outliers in {kind}s", **look)
    ax.axhline(0, color=GREY, linewidth=1.0)
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(doses) / 1.6, max(doses) * 1.6)
    ticks: list[float] = []
    for dose in doses:
        if not ticks or dose >= 8 * ticks[-1]:  # closer ones would run together
            ticks.append(dose)
    ax.set_xticks(ticks, [f"{dose:g}" for dose in ticks])
    ax.minorticks_off()
