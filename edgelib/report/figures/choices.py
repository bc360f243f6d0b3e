"""Figures of choices: frontiers and mixes of formats. Rows and axes in, axes out; nothing loads, computes or saves."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgelib.errors import EdgelibError
from edgelib.report.figures.base import log_axes
from edgelib.report.figures.palette import GREY, LIGHT, looks, series


def frontier(
    table: pd.DataFrame,
    ax: Axes,
    cost: str,
    criterion: str,
    *,
    budget: float | None = None,
    scale: float = 1.0,
    log: bool = False,
    names: bool = True,
    step: bool = True,
) -> Axes:
    """Configurations by cost and criterion with its interval, their step frontier, and the part over budget shaded.

    table: index config; columns cost, criterion, <criterion>_low, <criterion>_high (fractions), optional legal (False
    is drawn open and joins no frontier). budget: the most the cost may be, in its own unit; scale divides both.
    names: write each name beside its point; without, the labels are there for a legend. step: join the frontier; where
    the cost has <cost>_low and _high, its interval is drawn too.
    Raises EdgelibError for NaN, because a point without a place is no point.
    """
    wanted = table[[cost, criterion, f"{criterion}_low", f"{criterion}_high"]]
    if wanted.isna().any(axis=None):
        raise EdgelibError(
            f"the frontier has NaN for {wanted.index[wanted.isna().any(axis=1)][0]!r}; measure or drop it"
        )
    styles = looks(table.index)
    legal = table["legal"] if "legal" in table else pd.Series(True, index=table.index)
    y = 100 * table[criterion]
    at = table[cost] / scale
    # Of equal cost, each a little further right than the one before, so that none hides another.
    x = at * 1.025 ** table.groupby(cost).cumcount()
    for config in table.index:
        style, open_ = styles[config], not legal[config]
        spread = np.abs(100 * wanted.loc[config, [f"{criterion}_low", f"{criterion}_high"]].to_numpy(float) - y[config])
        inside = "white" if open_ else style.colour
        ax.errorbar(
            x[config],
            y[config],
            yerr=spread[:, None],
            color=style.colour,
            marker=style.marker,
            markersize=6,
            markerfacecolor=inside,
            elinewidth=0.8,
            linestyle="",
            label=style.label,
        )
        if names:
            ax.annotate(
                style.label,
                (x[config], y[config]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
                color=style.ink,
            )
    if f"{cost}_low" in table:
        ends = (table[[f"{cost}_low", f"{cost}_high"]] / scale).to_numpy(float)
        for config, (low, high) in zip(table.index, ends, strict=True):
            ax.plot([low, high], [y[config]] * 2, color=styles[config].colour, linewidth=0.8, alpha=0.6, zorder=0)
    inside = legal & ((table[cost] <= budget) if budget is not None else True)
    best = pd.DataFrame({"x": at[inside], "y": y[inside]}).sort_values(["x", "y"], ascending=[True, False])
    best = best[best["y"] > best["y"].cummax().shift(fill_value=-np.inf)]
    if step and len(best):
        ax.step(best["x"], best["y"], where="post", color=GREY, linewidth=1.2, zorder=0)
    if log:
        log_axes(ax, "x")
    ax.margins(x=0.15)
    if budget is not None:
        low, high = ax.get_xlim()
        if budget / scale < high:
            ax.axvspan(max(budget / scale, low), high, color=LIGHT, alpha=0.6, zorder=-1)
            ax.set_xlim(low, high)
    ax.grid(axis="x", visible=True)
    return ax


CROWDED = 5  # with more configurations a legend names the points, not a text beside each


def frontier_panels(table: pd.DataFrame, cost: str = "bytes", scale: float = 2**20) -> Figure:
    """Draw the frontier of clean and of corrupted accuracy against packed size, side by side (`uncertain_frontier`)."""
    crowded = len(table) > CROWDED
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.6))
    for ax, criterion, title in zip(axes, ("accuracy", "corrupted"), ("clean", "corrupted"), strict=True):
        frontier(table, ax, cost, criterion, scale=scale, log=True, names=not crowded)
        ax.set(title=title, xlabel="Packed size (MiB)")
    axes[0].set_ylabel("Simulated accuracy (%)")
    if crowded:
        axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def tier_panels(tables: Mapping[str, pd.DataFrame], places: Mapping[str, tuple], crowded: bool) -> Figure:
    """Draw corrupted accuracy against the time of one image, a panel per tier, what is over its budget of time shaded.

    tables: tier -> `options_table` of what runs there; latency has its interval, and what is chosen has a ring around
    it. places: tier -> (device, budgets).
    """
    figure, axes = plt.subplots(1, max(1, len(tables)), figsize=(7.4, 3.5), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        device, budgets = places[name]
        if len(table):
            budget = budgets.get("latency_ms")
            frontier(table, ax, "latency_ms", "corrupted", budget=budget, log=True, names=not crowded, step=False)
            chosen = table[table["chosen"]]
            ax.plot(
                chosen["latency_ms"],
                100 * chosen["corrupted"],
                "o",
                markersize=13,
                markerfacecolor="none",
                markeredgecolor=GREY,
                label="shipped",
            )
        ax.set_title(f"{name}\n{device.name}", fontsize=9)
        ax.set_xlabel("Time of one image (ms)", fontsize=9)
    axes.flat[0].set_ylabel("Simulated corrupted accuracy (%)")
    drawn = [ax.get_legend_handles_labels() for ax in axes.flat]
    entries = {name: handle for handles, names in drawn for handle, name in zip(handles, names, strict=True)}
    if crowded and entries:
        axes.flat[-1].legend(entries.values(), entries, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bits_by_depth(table: pd.DataFrame, ax: Axes, order: list[str]) -> Axes:
    """The format of every layer (columns layer, format), in the model's order, one row of dots per format."""
    for place, name in enumerate(order):
        at = np.flatnonzero(table["format"].to_numpy() == name)
        ax.plot(at, np.full(len(at), place), series(place).marker, color=series(place).colour, markersize=5)
    ax.set_yticks(range(len(order)), order)
    ax.set(xlabel="Linear layer, in the model's order", ylim=(-0.5, len(order) - 0.5))
    ax.grid(axis="x", visible=True)
    return ax
