"""Figures of speed, devices and choices: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from edgelib.devices.roofline import attainable
from edgelib.devices.table import Device
from edgelib.errors import EdgelibError
from edgelib.report.figures.base import GREY, LIGHT, looks

_HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#A6761D", "#6A4C93", "#466F14"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def _log(ax: Axes, which: str) -> None:
    for axis in which:
        getattr(ax, f"set_{axis}scale")("log")
        side = getattr(ax, f"{axis}axis")
        low, high = getattr(ax, f"get_{axis}lim")()
        steps = (1.0, 2.0, 5.0) if high < 500 * low else (1.0,)  # labels of three per decade run into each other
        side.set_major_locator(LogLocator(10, subs=steps))
        side.set_major_formatter(_PLAIN)
        side.set_minor_formatter(NullFormatter())


def speedups(table: pd.DataFrame, ax: Axes, label: str) -> Axes:
    """Speed-ups on a logarithmic axis, a line per row (columns config, speedup, name); 1 is the baseline."""
    styles = looks(table["config"])
    for place, row in enumerate(table.itertuples()):
        style = styles[row.config]
        ax.plot([1, row.speedup], [place, place], color=LIGHT, zorder=0)
        ax.plot(row.speedup, place, style.marker, color=style.colour, markersize=6)
        ax.annotate(
            f"{row.speedup:.2f}x",
            (row.speedup, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=style.ink,
            fontsize=9,
        )
    ax.axvline(1, color=GREY, linewidth=1.0)
    _log(ax, "x")
    ax.margins(x=0.18)
    ax.set_yticks(range(len(table)), list(table["name"]))
    ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def roofline(table: pd.DataFrame, device: Device, ax: Axes) -> Axes:
    """Achieved rates under the roofs of a device (columns name, intensity, tops), both axes logarithmic.

    The sloping roof is the device's bandwidth, each level one its rate in one format; what lies under the slope is
    bound by memory, what lies under a level roof by arithmetic.
    """
    span = np.array([min(0.2, table["intensity"].min() / 2), table["intensity"].max() * 3])
    at = np.geomspace(*span, 200)
    for unit, rate in device.rates.items():
        if rate is None:
            continue
        roof = attainable(at, device.fact("bandwidth_gb_s"), rate)
        ax.plot(at, roof, color=GREY, linewidth=1.2)
        ax.annotate(
            f"{unit} {rate:g} Tops/s", (at[0], rate), xytext=(0, 3), textcoords="offset points", color=GREY, fontsize=8
        )
        ax.plot(at[:2], [rate, rate], alpha=0)  # the label counts for the limits
    for k, (name, rows) in enumerate(table.groupby("name", sort=False)):
        colour, marker = _HUES[k % len(_HUES)], _MARKERS[(k + k // len(_HUES)) % len(_MARKERS)]
        ax.plot(rows["intensity"], rows["tops"], marker, color=colour, markersize=6, label=name)
    _log(ax, "xy")
    ax.set(xlabel="Arithmetic intensity (operations per byte)", ylabel="Achieved rate (1e12 operations/s)")
    ax.grid(axis="x", visible=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def projected_and_measured(points: pd.DataFrame, ax: Axes, names: Mapping[str, str]) -> Axes:
    """Measured against projected times with intervals, a colour per device; filled: decoding, open: other steps.

    points: columns device, step, ms, projected, low, high. names: device -> label. The dotted line is equality.
    """
    for k, (device, rows) in enumerate(points.groupby("device", sort=False)):
        colour, marker = _HUES[k % len(_HUES)], _MARKERS[k % len(_MARKERS)]
        spread = [rows["projected"] - rows["low"], rows["high"] - rows["projected"]]
        ax.errorbar(
            rows["ms"], rows["projected"], yerr=spread, linestyle="", color=colour, elinewidth=0.6, capsize=0, alpha=0.5
        )
        for decoding in (True, False):
            some = rows[(rows["step"] == "decode") == decoding]
            inside, label = (colour, names[device]) if decoding else ("white", None)
            ax.plot(some["ms"], some["projected"], marker, color=colour, ms=5, markerfacecolor=inside, label=label)
    ends = [points["ms"].min() / 1.5, points["ms"].max() * 1.5]
    ax.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2)
    _log(ax, "xy")
    ax.set(xlabel="Measured, published by others (ms)", ylabel="Projected (ms)", xlim=ends)
    ax.grid(axis="x", visible=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def legality_grid(table: pd.DataFrame, ax: Axes, devices: Mapping[str, str], configs: Mapping[str, str]) -> Axes:
    """What runs where (columns device, config, legal): "runs" on blue, "no" on white; keys -> labels, in order."""
    cells = table.pivot(index="device", columns="config", values="legal").loc[list(devices), list(configs)]
    ax.imshow(cells.to_numpy(float), aspect="auto", cmap="Blues", vmin=0, vmax=1.9)
    for i, j in np.ndindex(cells.shape):
        legal = bool(cells.iat[i, j])
        ax.text(j, i, "runs" if legal else "no", ha="center", va="center", fontsize=8, color="black" if legal else GREY)
    ax.set_xticks(range(len(configs)), list(configs.values()), rotation=25, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(devices)), list(devices.values()))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def memory_split(table: pd.DataFrame, ax: Axes, label: str = "Memory (MiB)") -> Axes:
    """Stacked bars of weights, keys and values, activations and workspace (columns name and those, in bytes)."""
    parts = {"weights": "#0072B2", "kv": "#D55E00", "activations": "#009E73", "workspace": "#CC79A7"}
    left = np.zeros(len(table))
    for part, colour in parts.items():
        wide = table[part].to_numpy(float) / 2**20
        ax.barh(
            range(len(table)),
            wide,
            left=left,
            color=colour,
            height=0.6,
            label={"kv": "keys and values"}.get(part, part),
        )
        left += wide
    ax.set_yticks(range(len(table)), list(table["name"]))
    ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


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
) -> Axes:
    """Configurations by cost and criterion with its interval, their step frontier, and the part over budget shaded.

    table: index config; columns cost, criterion, <criterion>_low, <criterion>_high (fractions), optional legal (False
    is drawn open and joins no frontier). budget: the most the cost may be, in its own unit; scale divides both.
    names: write each name beside its point; without, the labels are there for a legend.
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
    inside = legal & ((table[cost] <= budget) if budget is not None else True)
    best = pd.DataFrame({"x": at[inside], "y": y[inside]}).sort_values(["x", "y"], ascending=[True, False])
    best = best[best["y"] > best["y"].cummax().shift(fill_value=-np.inf)]
    if len(best):
        ax.step(best["x"], best["y"], where="post", color=GREY, linewidth=1.2, zorder=0)
    if log:
        _log(ax, "x")
    ax.margins(x=0.15)
    if budget is not None:
        low, high = ax.get_xlim()
        if budget / scale < high:
            ax.axvspan(max(budget / scale, low), high, color=LIGHT, alpha=0.6, zorder=-1)
            ax.set_xlim(low, high)
    ax.grid(axis="x", visible=True)
    return ax


def bits_by_depth(table: pd.DataFrame, ax: Axes, order: list[str]) -> Axes:
    """The format of every layer (columns layer, format), in the model's order, one row of dots per format."""
    for place, name in enumerate(order):
        at = np.flatnonzero(table["format"].to_numpy() == name)
        ax.plot(at, np.full(len(at), place), _MARKERS[place], color=_HUES[place], markersize=5)
    ax.set_yticks(range(len(order)), order)
    ax.set(xlabel="Linear layer, in the model's order", ylim=(-0.5, len(order) - 0.5))
    ax.grid(axis="x", visible=True)
    return ax
