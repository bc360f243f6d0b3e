"""Figures: rows and an axis in, the axis out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from edgelib.report.figures.palette import GREY, Look, label, looks, readable

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
Groups = Mapping[str, pd.DataFrame] | Iterable[tuple[str, pd.DataFrame]]


def log_axes(ax: Axes, which: str) -> None:
    """Make the axes named in `which` ("x", "y", "xy") logarithmic, with plain numbers that do not run together."""
    for axis in which:
        getattr(ax, f"set_{axis}scale")("log")
        side = getattr(ax, f"{axis}axis")
        low, high = getattr(ax, f"get_{axis}lim")()
        steps = (1.0, 2.0, 5.0) if high < 500 * low else (1.0,)  # labels of three per decade run into each other
        side.set_major_locator(LogLocator(10, subs=steps))
        side.set_major_formatter(PLAIN)
        side.set_minor_formatter(NullFormatter())


def long_axis(lines: int, each: float = 0.4, width: float = 6.4) -> Axes:
    """Return the axis of a new figure that is high enough for so many horizontal lines."""
    return plt.subplots(figsize=(width, 0.9 + each * lines))[1]


def rows_of(ax: Axes, configs: Sequence[str]) -> Axes:
    """Name the rows of an axis after configurations, the first on top, with grid lines across them only."""
    ax.set_yticks(range(len(configs)), [label(config) for config in configs])
    ax.set_ylim(len(configs) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def legend_above(figure: Figure, columns: int = 3) -> None:
    """Put one legend above all axes of a figure, each name once; nothing where nothing has a name."""
    drawn = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in figure.axes)
    entries = {name: handle for pairs in drawn for handle, name in pairs}
    if entries:
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns, fontsize=8)


def panels(
    groups: Groups,
    draw: Callable[..., object],
    size: tuple[float, float] = (7.2, 3.2),
    *,
    label: str = "",
    y_label: str = "",
    columns: int | None = None,
    legend: bool = False,
    sharex: bool = False,
    **options,
) -> Figure:
    """Draw a small figure per group on one scale: draw(rows, axis, **options) under the group's name.

    groups: name -> rows, or what `groupby` gives. label, y_label: of the axes that they share. legend: one for all
    above. Without any group the figure is empty and says so.
    """
    groups = dict(groups if isinstance(groups, Mapping) else iter(groups))
    columns = columns or max(len(groups), 1)
    rows = max(-(-len(groups) // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=sharex, sharey=True, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, (name, table) in zip(axes.flat, groups.items(), strict=False):
        draw(table, ax, **options)
        ax.set_title(readable(str(name)), fontsize=10 if columns < 3 else 9)
        ax.set(xlabel="", ylabel="")
    for ax in axes[:, 0]:
        ax.set_ylabel(y_label)
    figure.supxlabel(label if groups else "nothing to show: the parameters ask for none", fontsize=10)
    if legend:
        legend_above(figure)
    return figure


def image_grid(images: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], width: float = 6.4) -> Figure:
    """Draw uint8 images [rows, columns, H, W, 3] as a labelled grid, pixels kept square and sharp."""
    rows, columns = images.shape[:2]
    side = (width - 1.1) / columns
    size = (width, rows * side * 1.04 + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for i, j in np.ndindex(rows, columns):
        ax = axes[i, j]
        ax.imshow(images[i, j], interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if i == 0:
            ax.set_title(column_names[j], loc="center", fontsize=9)
        if j == 0:
            ax.set_ylabel(row_names[i], rotation=0, ha="right", va="center", fontsize=9)
    return figure


def end_labels(ax: Axes, labels: list[tuple[float, float, str, str]], gap: float) -> None:
    """Write (x, y, text, ink) to the right of the lines' ends, pushed apart so that none covers another."""
    heights = sorted(range(len(labels)), key=lambda i: labels[i][1])
    y = [labels[i][1] for i in heights]
    for _ in range(200):
        moved = False
        for a in range(len(y) - 1):
            overlap = gap - (y[a + 1] - y[a])
            if overlap > 1e-9:
                y[a], y[a + 1], moved = y[a] - overlap / 2, y[a + 1] + overlap / 2, True
        if not moved:
            break
    x = max(end[0] for end in labels)
    for i, height in zip(heights, y, strict=True):
        _, _, text, ink = labels[i]
        ax.annotate(
            text,
            (x, height),
            xytext=(8, 0),
            textcoords="offset points",
            color=ink,
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


def lines_with_intervals(
    table: pd.DataFrame,
    ax: Axes,
    x: str,
    y: str = "value",
    *,
    scale: float = 1.0,
    label_gap: float = 5.0,
) -> Axes:
    """One line per config through y with its interval (low, high) at each x, dodged, labelled at its right end."""
    styles = looks(table["config"])
    ends = []
    for k, (config, rows) in enumerate(table.groupby("config", sort=False)):
        style, rows = styles[config], rows.sort_values(x)
        at = rows[x].to_numpy(float) + 0.06 * (k - (len(styles) - 1) / 2)
        value = scale * rows[y].to_numpy()
        spread = np.abs(scale * rows[["low", "high"]].to_numpy().T - value)
        ax.errorbar(at, value, yerr=spread, color=style.colour, marker=style.marker, markersize=5, elinewidth=1.0)
        ends.append((float(at[-1]), float(value[-1]), style.label, style.ink))
    end_labels(ax, ends, label_gap)
    return ax


def accuracy_by_severity(table: pd.DataFrame, ax: Axes, chance: float) -> Axes:
    """Accuracy against severity per config (columns config, severity, value, low, high), with the level of guessing."""
    lines_with_intervals(table, ax, "severity", scale=100.0)
    ax.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2)
    ax.annotate("guessing", (0, 100 * chance), xytext=(2, 3), textcoords="offset points", color=GREY, fontsize=9)
    severities = sorted(table["severity"].unique())
    ax.set(ylim=(0, 100), xlabel="Severity (0: clean)", ylabel="Accuracy (%)", xticks=severities)
    return ax


def difference_by_severity(table: pd.DataFrame, ax: Axes, styles: Mapping[str, Look]) -> Axes:
    """The accuracy of one config minus that of the reference, against severity (config, severity, value, low, high)."""
    style, points = styles[table["config"].iloc[0]], 100 * table[["value", "low", "high"]]
    spread = [points["value"] - points["low"], points["high"] - points["value"]]
    at, value = table["severity"], points["value"]
    ax.errorbar(at, value, yerr=spread, color=style.colour, marker=style.marker, markersize=5, linewidth=1.2)
    ax.axhline(0, color=GREY, linewidth=1.0)
    ax.set_xticks(sorted(table["severity"].unique()))
    return ax


def heat_map(values: pd.DataFrame, ax: Axes, label: str, colours: str = "cividis", low=None, high=None) -> Axes:
    """Draw a table of numbers as coloured cells, each carrying its number; rows and columns keep their order."""
    cells = values.to_numpy(float)
    low, high = np.nanmin(cells) if low is None else low, np.nanmax(cells) if high is None else high
    picture = ax.imshow(cells, aspect="auto", cmap=colours, vmin=low, vmax=high)
    for i, j in np.ndindex(cells.shape):
        red, green, blue, _ = picture.cmap(picture.norm(cells[i, j]))
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
        ax.text(j, i, f"{cells[i, j]:.0f}", ha="center", va="center", color="black" if bright else "white", fontsize=9)
    ax.set_xticks(range(len(values.columns)), list(values.columns), rotation=25, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(values.index)), list(values.index))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(picture, ax=ax, label=label, fraction=0.04, pad=0.02).outline.set_visible(False)
    return ax


def forest(
    table: pd.DataFrame, ax: Axes, label: str = "", scale: float = 1.0, styles: Mapping[str, Look] | None = None
) -> Axes:
    """Effects with intervals, one line each (columns config, effect, low, high, optional name); 0 is marked.

    styles: looks of the configurations, where a figure has more of them than this axis.
    """
    styles = styles or looks(table["config"])
    for place, row in enumerate(table.itertuples()):
        style = styles[row.config]
        spread = [[scale * (row.effect - row.low)], [scale * (row.high - row.effect)]]
        ax.errorbar(
            scale * row.effect, place, xerr=spread, color=style.colour, marker=style.marker, markersize=6, linestyle=""
        )
    names = table["name"] if "name" in table else [styles[c].label for c in table["config"]]
    ax.axvline(0, color=GREY, linewidth=1.0)
    ax.set_yticks(range(len(table)), list(names))
    ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax
