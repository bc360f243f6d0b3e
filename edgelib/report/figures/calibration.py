"""Figures of calibration experiments: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgelib.report.figures.base import legend_above, panels
from edgelib.report.figures.palette import BLACK, GREY, label, looks, readable, series


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


def size_panels(runs: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Draw differences to the unquantized model by mix and number of calibration images, a panel per configuration.

    runs: columns config, mix, size, difference (a fraction), a small dot each. means: config, mix, size, effect, low,
    high, the mean over the draws of one place with its interval. No two of them stand in one place.
    """
    mixes, sizes = list(dict.fromkeys(means["mix"])), list(dict.fromkeys(means["size"]))
    groups = {label(config): (config, rows) for config, rows in means.groupby("config", sort=False)}
    figure = panels(
        {name: rows for name, (_, rows) in groups.items()},
        _by_mix,
        (7.2, 1.2 + 2.2 * -(-len(groups) // 2)),
        y_label="Points",
        columns=2,
        sharex=True,
        legend=True,
        mixes=mixes,
        sizes=sizes,
        runs=runs,
    )
    figure.supxlabel("Calibration mix" if groups else figure.get_supxlabel(), fontsize=10)
    return figure


def _by_mix(means: pd.DataFrame, ax: Axes, mixes: Sequence[str], sizes: Sequence, runs: pd.DataFrame) -> None:
    """A group of places per mix, one per size, each with its draws as dots and their mean with its interval."""
    own = runs[runs["config"] == means["config"].iloc[0]]
    for k, size in enumerate(sizes):
        style, shift = series(k), 0.24 * (k - (len(sizes) - 1) / 2)
        dots, rows = own[own["size"] == size], means[means["size"] == size]
        values = 100 * rows[["effect", "low", "high"]]
        spread = np.abs([values["effect"] - values["low"], values["high"] - values["effect"]])
        ax.plot(
            dots["mix"].map(mixes.index) + shift + 0.09,
            100 * dots["difference"],
            ".",
            color=style.colour,
            ms=4,
            alpha=0.6,
        )
        look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": 5, "linestyle": ""}
        ax.errorbar(rows["mix"].map(mixes.index) + shift, values["effect"], yerr=spread, label=f"{size} images", **look)
    ax.axhline(0, color=GREY, linewidth=1.0)
    slanted: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(mixes)), [readable(mix) for mix in mixes], **slanted)
    ax.set_xlim(-0.6, len(mixes) - 0.4)


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
