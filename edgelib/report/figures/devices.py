"""Figures of speed and devices: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from edgelib.devices.device import Device
from edgelib.devices.roofline import attainable
from edgelib.report.figures.base import log_axes
from edgelib.report.figures.palette import BLACK, BLUE, GREEN, GREY, LIGHT, PURPLE, VERMILLION, looks, series


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
    log_axes(ax, "x")
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
    span = min(0.2, table["intensity"].min() / 2), table["intensity"].max() * 3
    at = np.geomspace(span[0], span[1], 200)
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
        ax.plot(rows["intensity"], rows["tops"], series(k).marker, color=series(k).colour, markersize=6, label=name)
    log_axes(ax, "xy")
    ax.set(xlabel="Arithmetic intensity (operations per byte)", ylabel="Achieved rate (1e12 operations/s)")
    ax.grid(axis="x", visible=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def projected_and_measured(points: pd.DataFrame, ax: Axes, names: Mapping[str, str]) -> Axes:
    """Measured against projected times with intervals, a colour per device; filled: decoding, open: other steps.

    points: columns device, step, ms, projected, low, high. names: device -> label. The dotted line is equality.
    """
    for k, (device, rows) in enumerate(points.groupby("device", sort=False)):
        colour, marker = series(k).colour, series(k).marker
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
    log_axes(ax, "xy")
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
        ax.text(j, i, "runs" if legal else "no", ha="center", va="center", fontsize=8, color=BLACK if legal else GREY)
    ax.set_xticks(range(len(configs)), list(configs.values()), rotation=25, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(devices)), list(devices.values()))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def memory_split(table: pd.DataFrame, ax: Axes, label: str = "Memory (MiB)") -> Axes:
    """Stacked bars of weights, keys and values, activations and workspace (columns name and those, in bytes)."""
    parts = {"weights": BLUE, "kv": VERMILLION, "activations": GREEN, "workspace": PURPLE}
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
