"""Figures of speed and devices: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from edgelib.devices.device import Device
from edgelib.devices.roofline import attainable
from edgelib.report.figures.base import log_axes, panels
from edgelib.report.figures.palette import BLACK, BLUE, GREEN, GREY, LIGHT, PURPLE, VERMILLION, Look, looks, series


def speedups(table: pd.DataFrame, ax: Axes, label: str) -> Axes:
    """Speed-ups on a logarithmic axis, a line per row (columns config, speedup, name); 1 is the baseline."""
    styles = looks(table["config"])
    for place, row in enumerate(table.itertuples()):
        style = styles[row.config]
        ax.plot([1, row.speedup], [place, place], color=LIGHT, zorder=0)
        ax.plot(row.speedup, place, style.marker, color=style.colour, markersize=6)
        beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        ax.annotate(f"{row.speedup:.2f}x", (1, place), (6, 0), color=style.ink, fontsize=9, **beside)
    ax.axvline(1, color=GREY, linewidth=1.0)
    log_axes(ax, "x")
    ax.margins(x=0.05)
    ax.set_yticks(range(len(table)), list(table["name"]))
    ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def roofline_panels(table: pd.DataFrame, device: Device) -> Figure:
    """Draw achieved rates under the roofs of a device, a panel per model (columns model, config, intensity, tops).

    The sloping roof is the device's bandwidth, each level one its rate in one format; what lies under the slope is
    bound by memory, what lies under a level roof by arithmetic. A kernel has one colour in all panels.
    """
    span = (
        min(0.2, table["intensity"].min() / 2),
        table["intensity"].max() * 100,
    )  # names of roofs stand beyond the points
    kernels = {config: series(k) for k, config in enumerate(dict.fromkeys(table["config"]))}
    labels: dict[str, Any] = {
        "label": "Arithmetic intensity (operations per byte)",
        "y_label": "Achieved rate (1e12 operations/s)",
    }
    more: dict[str, Any] = {"device": device, "span": span, "kernels": kernels}
    return panels(table.groupby("model", sort=False), roofline, (7.2, 4.0), **labels, legend=True, sharex=True, **more)


def roofline(
    table: pd.DataFrame, ax: Axes, device: Device, span: tuple[float, float], kernels: Mapping[str, Look]
) -> Axes:
    """Achieved rates (columns config, intensity, tops) under the roofs of a device over a span of intensities, both
    axes logarithmic. kernels: config -> look."""
    at = np.geomspace(*span, 200)
    for unit, rate in device.rates.items():
        if rate is None:
            continue
        ax.plot(at, attainable(at, device.fact("bandwidth_gb_s"), rate), color=GREY, linewidth=1.2)
        above: dict[str, Any] = {
            "xytext": (0, 3),
            "textcoords": "offset points",
            "ha": "right",
            "color": GREY,
            "fontsize": 8,
        }
        ax.annotate(f"{unit} {rate:.2g}", (at[-1], rate), **above)
    for config, rows in table.groupby("config", sort=False):
        style = kernels[config]
        ax.plot(rows["intensity"], rows["tops"], style.marker, color=style.colour, markersize=5, label=config)
    log_axes(ax, "xy")
    for side in (ax.xaxis, ax.yaxis):
        side.set_major_locator(LogLocator(10))
    ax.grid(axis="x", visible=True)
    return ax


STEPS = {"encode": "an image", "prefill": "a prompt", "decode": "a later token"}


def projection_panels(points: pd.DataFrame) -> Figure:
    """Draw projected against measured times with intervals, a panel per step, a colour per kind of runtime.

    points: columns step, runtime, ms, projected, low, high. The dotted line is equality.
    """
    styles = {name: series(k) for k, name in enumerate(dict.fromkeys(points["runtime"]))}
    steps = {title: points[points["step"] == step] for step, title in STEPS.items()}
    labels: dict[str, Any] = {"label": "Measured, published by others (ms)", "y_label": "Projected (ms)"}
    shown = {title: rows for title, rows in steps.items() if len(rows)}
    return panels(shown, projected_and_measured, (7.2, 3.4), **labels, legend=True, styles=styles)


def projected_and_measured(points: pd.DataFrame, ax: Axes, styles: Mapping[str, Look]) -> Axes:
    """Projected against measured times with intervals (columns runtime, ms, projected, low, high) and the line of
    equality, both axes logarithmic. styles: runtime -> look."""
    for runtime, rows in points.groupby("runtime", sort=False):
        style = styles[runtime]
        spread = [rows["projected"] - rows["low"], rows["high"] - rows["projected"]]
        line: dict[str, Any] = {"linestyle": "", "color": style.colour, "alpha": 0.6, "elinewidth": 0.6, "capsize": 0}
        ax.errorbar(
            rows["ms"], rows["projected"], yerr=spread, marker=style.marker, markersize=4, label=runtime, **line
        )
    ends = [points["ms"].min() / 1.5, points["ms"].max() * 1.5]
    ax.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2)
    ax.set_xlim(*ends)
    log_axes(ax, "xy")
    ax.xaxis.set_major_locator(LogLocator(10))
    ax.grid(axis="x", visible=True)
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
