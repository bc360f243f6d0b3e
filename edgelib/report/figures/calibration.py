"""Figures of calibration experiments: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgelib.errors import EdgelibError
from edgelib.report.figures.base import legend_above
from edgelib.report.figures.palette import BLACK, GREY, looks, readable, series


def variance_dots(table: pd.DataFrame, ax: Axes, names: dict[str, str] | None = None) -> Axes:
    """Variance shares with intervals, a line per component (columns component, share, low, high, optional config).

    Several configs are dodged, with labels for a legend; shares that are NaN are left out. names: component -> label.
    """
    components = list(dict.fromkeys(table["component"]))
    groups = list(table.groupby("config", sort=False)) if "config" in table else [("", table)]
    styles = looks([config for config, _ in groups])
    for k, (config, rows) in enumerate(groups):
        style, rows = styles[config], rows.dropna(subset=["share", "low", "high"])
        place = [components.index(c) + 0.16 * (k - (len(groups) - 1) / 2) for c in rows["component"]]
        share, low, high = (100 * rows[column].to_numpy() for column in ("share", "low", "high"))
        colour = style.colour if len(groups) > 1 else BLACK
        ax.errorbar(
            share,
            place,
            xerr=np.maximum([share - low, high - share], 0),
            color=colour,
            marker=style.marker,
            markersize=6,
            linestyle="",
            label=style.label,
            clip_on=False,
        )
    ax.set_yticks(range(len(components)), [(names or {}).get(c, readable(c)) for c in components])
    ax.set(xlim=(0, 100), xlabel="Share of the variance between runs (%)", ylim=(len(components) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def accuracy_by_size(table: pd.DataFrame, axes: Sequence[Axes], reference: float | None = None) -> Sequence[Axes]:
    """Accuracy against the number of calibration images, a panel per mix: a dot per seed, a line through their means.

    table: columns mix, size, accuracy (a fraction), config, one row per run. reference: accuracy of the unquantized
    model, a dashed line. Raises EdgelibError unless there is one axis per mix.
    """
    panels = list(table.groupby("mix", sort=False))
    if len(panels) != len(axes):
        raise EdgelibError(f"accuracy_by_size needs an axis per mix: got {len(axes)} axes for {len(panels)} mixes")
    styles, sizes = looks(table["config"]), sorted(table["size"].unique())
    for ax, (mix, panel) in zip(axes, panels, strict=True):
        for k, (config, rows) in enumerate(panel.groupby("config", sort=False)):
            style, dodge = styles[config], 1.05 ** (k - (panel["config"].nunique() - 1) / 2)
            means = 100 * rows.groupby("size")["accuracy"].mean()
            ax.plot(rows["size"] * dodge, 100 * rows["accuracy"], style.marker, color=style.colour, ms=3, alpha=0.45)
            ax.plot(means.index * dodge, means, style.marker, ls="-", color=style.colour, ms=5, label=style.label)
        if reference is not None:
            ax.axhline(100 * reference, color=BLACK, linestyle="--", linewidth=1.0, label="unquantized")
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.minorticks_off()
        ax.set(title=readable(str(mix)), xlabel="Calibration images")
    axes[0].set_ylabel("Accuracy (%)")
    return axes


def size_panels(runs: pd.DataFrame, reference: float, columns: int = 2) -> Figure:
    """Draw `accuracy_by_size`, a panel per mix, on one scale."""
    mixes = runs["mix"].nunique()
    rows = -(-mixes // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7.2, 2.5 * rows), sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[mixes:]:
        ax.set_axis_off()
    accuracy_by_size(runs, axes.flat[:mixes], reference)
    for ax in axes.flat[: mixes - columns]:
        ax.set_xlabel("")
    legend_above(figure)
    return figure


def layer_panels(layers: pd.DataFrame) -> Figure:
    """Draw the power chosen (top) and the error relative to rounding to nearest (bottom) by depth, a column per twin.

    layers: of `layer_report`; layers without a depth, a power or a loss are left out.
    """
    twins = list(layers.groupby("twin", sort=False))
    figure, axes = plt.subplots(2, len(twins), figsize=(7.2, 4.6), sharex=True, sharey="row", squeeze=False)
    for column, (twin, table) in enumerate(twins):
        for row, value in enumerate(("ratio", "relative_loss")):
            by_depth(table.dropna(subset=["depth", value]), axes[row, column], "", value)
        axes[0, column].set(title=twin, xlabel="")
    axes[0, 0].set_ylabel("Power")
    axes[1, 0].set_ylabel("Error / RTN error")
    legend_above(figure)
    return figure


def by_depth(table: pd.DataFrame, ax: Axes, label: str, value: str = "value") -> Axes:
    """A number per layer against the depth of its block: a dot per layer, a line through each tower's means.

    table: columns tower, depth (block number from 0) and `value`. label: quantity (unit) of the y axis.
    """
    for k, (tower, rows) in enumerate(table.groupby("tower", sort=False)):
        style = series(k)
        means = rows.groupby("depth")[value].mean()
        dodge = 0.12 * (k - (table["tower"].nunique() - 1) / 2)
        ax.plot(rows["depth"] + dodge, rows[value], style.marker, color=style.colour, markersize=4, alpha=0.6)
        ax.plot(means.index + dodge, means, color=style.colour, linewidth=1.2, label=readable(str(tower)))
    ax.set_xticks(sorted(table["depth"].unique()))
    ax.set(xlabel="Depth (block)", ylabel=label)
    return ax


def predicted_and_observed(
    table: pd.DataFrame, ax: Axes, what: str = "accuracy drop", unit: str = "points", scale: float = 100.0
) -> Axes:
    """Observed against predicted, a dot per run of a left-out group; the dotted line is equality.

    table: columns group, observed, predicted, as in `Prediction.runs`. A group "place, config" has the colour of its
    configuration and a marker for its place, which the legend names apart; any other group has a colour of its own.
    """
    parts = table["group"].astype(str).str.partition(", ")
    config, place = parts[2].where(parts[2] != "", parts[0]), parts[0].where(parts[2] != "", "")
    styles, markers = looks(config), {name: series(k).marker for k, name in enumerate(dict.fromkeys(place))}
    for (where, which), rows in table.groupby([place, config], sort=False):
        at, seen = scale * rows["predicted"], scale * rows["observed"]
        ax.plot(at, seen, markers[where], color=styles[which].colour, markersize=5, alpha=0.8)
    for which in styles:
        ax.plot([], [], "s", color=styles[which].colour, markersize=6, label=styles[which].label)
    for where in filter(None, markers):
        ax.plot([], [], markers[where], color=GREY, markersize=5, label=readable(where))
    ends = scale * table[["predicted", "observed"]].to_numpy()
    ax.plot([ends.min(), ends.max()], [ends.min(), ends.max()], color=GREY, linestyle=":", linewidth=1.2)
    ax.set(xlabel=f"Predicted {what} ({unit})", ylabel=f"Observed {what} ({unit})")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
