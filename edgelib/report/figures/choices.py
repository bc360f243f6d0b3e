"""Figures of choices: frontiers, times within budgets, mixes of formats. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgelib.errors import EdgelibError
from edgelib.report.figures.base import log_axes, long_axis, rows_of
from edgelib.report.figures.palette import GREY, LIGHT, label, looks

MIB = 2**20


def frontier(table: pd.DataFrame, ax: Axes, cost: str, criterion: str) -> Axes:
    """A criterion with its interval, a row per configuration, the cheapest on top; the line is the frontier.

    table: index config; columns cost, criterion, <criterion>_low, <criterion>_high (fractions). The line is the best of
    what costs no more; what moves it is drawn filled, the rest open.
    Raises EdgelibError for NaN, because a point without a place is no point.
    """
    wanted = table[[cost, criterion, f"{criterion}_low", f"{criterion}_high"]]
    if wanted.isna().any(axis=None):
        raise EdgelibError(
            f"the frontier has NaN for {wanted.index[wanted.isna().any(axis=1)][0]!r}; measure or drop it"
        )
    rows, styles = wanted.sort_values(cost, kind="stable"), looks(table.index)
    by_cost = rows.groupby(cost)[criterion].max().cummax()
    best, before = rows[cost].map(by_cost), rows[cost].map(by_cost.shift(fill_value=-np.inf))
    moves = (rows[criterion] == best) & (best > before)
    for place, (config, filled) in enumerate(moves.items()):
        style = styles[config]
        value, low, high = 100 * rows.loc[config, [criterion, f"{criterion}_low", f"{criterion}_high"]].to_numpy(float)
        colours: dict[str, Any] = {"color": style.colour, "markerfacecolor": style.colour if filled else "none"}
        ax.errorbar(value, place, xerr=[[value - low], [high - value]], marker=style.marker, markersize=6, **colours)
    edges = np.repeat(np.arange(len(rows) + 1) - 0.5, 2)[1:-1]
    ax.plot(100 * np.repeat(best, 2), edges, color=GREY, linewidth=1.2, zorder=0)
    return rows_of(ax, list(rows.index))


def frontier_panels(table: pd.DataFrame, cost: str = "bytes", scale: float = MIB, unit: str = "MiB") -> Figure:
    """Draw the frontiers of clean and of corrupted accuracy, each name with its cost (`uncertain_frontier`)."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 1.2 + 0.27 * len(table)), sharey=True)
    for ax, criterion, title in zip(axes, ("accuracy", "corrupted"), ("clean", "corrupted"), strict=True):
        frontier(table, ax, cost, criterion)
        ax.set_title(title, fontsize=10)
    costs = table[cost].sort_values(kind="stable") / scale
    names = [f"{label(str(config))}, {value:,.0f}\N{NO-BREAK SPACE}{unit}" for config, value in costs.items()]
    axes[0].set_yticks(range(len(names)), names)
    figure.supxlabel("Simulated accuracy (%)", fontsize=10)
    return figure


def tier_panels(tables: Mapping[str, pd.DataFrame], places: Mapping[str, tuple]) -> Figure:
    """Draw the projected time of one image with its interval, a panel per tier and a row per configuration.

    tables: tier -> `options_table` of what runs there. What is over a tier's budget of time is shaded, and what is
    chosen has a ring, dotted where the upper end of its time is over the budget. places: tier -> (device, budgets).
    """
    configs = list(dict.fromkeys(config for table in tables.values() for config in table.index))
    if not configs:
        return long_axis(1).figure  # type: ignore[return-value]
    size = (7.2, 1.6 + 0.27 * len(configs))
    figure, axes = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=True):
        device, budgets = places[name]
        budget = budgets.get("latency_ms", np.inf)
        _times(table, ax, configs, budget)
        limit = f"\nat most {budget:g} ms" if np.isfinite(budget) else ""
        ax.set_title(f"{name}\n{device.name}{limit}", fontsize=9)
    figure.supxlabel("Projected time of one image (ms)", fontsize=10)
    return figure


def _times(table: pd.DataFrame, ax: Axes, configs: list[str], budget: float) -> None:
    styles = looks(configs)
    for place, config in enumerate(configs):
        if config not in table.index:
            at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "color": GREY, "fontsize": 8}
            ax.annotate("no kernel", (0.03, place), **at)
            continue
        row, style = table.loc[config], styles[config]
        time, low, high = row["latency_ms"], row["latency_ms_low"], row["latency_ms_high"]
        point: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": 6}
        ax.errorbar(time, place, xerr=[[time - low], [high - time]], **point)
        if row["chosen"]:
            line = "-" if high <= budget else ":"
            ring: dict[str, Any] = {
                "s": 150,
                "facecolors": "none",
                "edgecolors": GREY,
                "linestyles": line,
                "linewidths": 1.4,
            }
            ax.scatter([time], [place], zorder=3, **ring)
    if len(table):
        log_axes(ax, "x")
    low, high = ax.get_xlim()
    if budget < high:
        ax.axvspan(max(budget, low), high, color=LIGHT, alpha=0.6, zorder=-1, linewidth=0)
        ax.set_xlim(low, high)
    rows_of(ax, configs)


def bits_by_depth(table: pd.DataFrame, ax: Axes, order: list[str]) -> Axes:
    """The format of every layer (columns layer, format), in the model's order, one row of dots per format."""
    styles = looks(order)
    for place, name in enumerate(order):
        at = np.flatnonzero(table["format"].to_numpy() == name)
        ax.plot(at, np.full(len(at), place), styles[name].marker, color=styles[name].colour, markersize=5)
    ax.set_yticks(range(len(order)), [styles[name].label for name in order])
    ax.set(xlabel="Linear layer, in the model's order", ylim=(-0.5, len(order) - 0.5))
    ax.grid(axis="x", visible=True)
    return ax
