"""Figures of quantized caches: rows and axes in, axes out. Nothing here loads, computes or saves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from edgelib.kv.scheme import kv_scheme
from edgelib.report.figures.base import PLAIN
from edgelib.report.figures.palette import GREY, series


def cache_label(cache: str) -> str:
    """What tables and figures call a cache."""
    return "exact cache" if cache == "exact" else kv_scheme(cache).label


def cache_words(cache: str) -> str:
    """What a first sentence calls a cache: "an FP8 cache (E4M3, scale per layer)"."""
    name = cache_label(cache)
    return f"an FP8 cache ({name})" if name.startswith(("E4M3", "E5M2")) else f"a cache in {name}"


def cache_looks(caches: Sequence[str]) -> dict[str, dict]:
    """Colour, marker and label of several caches, distinct among them."""
    return {
        cache: {"color": series(k).colour, "marker": series(k).marker, "label": cache_label(cache)}
        for k, cache in enumerate(dict.fromkeys(caches))
    }


def state_ranges(table: pd.DataFrame, ax: Axes, largest: float, name: str) -> Axes:
    """Amplitude and median spread by layer, of text and image tokens (columns layer, modality, amplitude, spread)."""
    for modality, rows in table.groupby("modality", sort=False):
        style = series(int(modality == "image"))
        colour, marker = style.colour, style.marker
        at = rows["layer"] + (0.08 if modality == "image" else -0.08)
        ax.vlines(at, rows["spread"], rows["amplitude"], color=colour, linewidth=1.2)
        ax.plot(at, rows["amplitude"], marker, color=colour, markersize=6, label=f"{modality}: largest")
        ax.plot(at, rows["spread"], marker, color=colour, markersize=5, fillstyle="none", label=f"{modality}: spread")
    ax.axhline(largest, color=GREY, linestyle=":", linewidth=1.2)
    ax.annotate(
        name,
        (0, largest),
        xycoords=("axes fraction", "data"),
        xytext=(3, 3),
        textcoords="offset points",
        color=GREY,
        fontsize=9,
    )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PLAIN)
    ax.set_xticks(sorted(table["layer"].unique()))
    ax.set(xlabel="Layer")
    return ax


def parts_of_loss(table: pd.DataFrame, ax: Axes) -> Axes:
    """Parts of a loss in points with intervals, one line per factor (columns game, factor, effect, low, high).

    The axis is linear up to two points and logarithmic beyond.
    """
    colours = {game: series(k).colour for k, game in enumerate(dict.fromkeys(table["game"]))}
    for place, row in enumerate(table.itertuples()):
        spread = [[100 * (row.effect - row.low)], [100 * (row.high - row.effect)]]
        ax.errorbar(100 * row.effect, place, xerr=spread, color=colours[row.game], marker="o", markersize=6)
    ax.axvline(0, color=GREY, linewidth=1.0)
    ax.set_xscale("symlog", linthresh=2)
    ax.xaxis.set_major_formatter(PLAIN)
    ax.set_yticks(range(len(table)), list(table["factor"]))
    ax.set(ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return ax


def dose_groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Part rows (columns kind, cache) into panels of one kind of outlier and at most two caches: name -> rows.

    More lines than two lie on each other where all of them stay at zero.
    """
    caches, groups = list(dict.fromkeys(table["cache"])), {}
    for first in range(0, len(caches), 2):
        pair = caches[first : first + 2]
        numbers = "/".join(dict.fromkeys(cache_label(cache).partition(",")[0] for cache in pair))
        own = table[table["cache"].isin(pair)]
        groups |= {f"{kind}: {numbers}": rows for kind, rows in own.groupby("kind", sort=False)}
    return groups


def loss_by_amplitude(table: pd.DataFrame, ax: Axes, largest: float, looks: dict[str, dict] | None = None) -> Axes:
    """Accuracy difference in points against the largest state (columns cache, amplitude, effect, low, high).

    looks: of `cache_looks`, where several panels share them.
    """
    shown = list(dict.fromkeys(table["cache"]))
    looks = looks or cache_looks(shown)
    for k, (cache, rows) in enumerate(table.groupby("cache", sort=False)):
        rows = rows.sort_values("amplitude")
        value = 100 * rows["effect"].to_numpy()
        spread = np.abs(100 * rows[["low", "high"]].to_numpy().T - value)
        at = rows["amplitude"] * 1.05 ** (k - (len(shown) - 1) / 2)
        ax.errorbar(at, value, yerr=spread, markersize=5, elinewidth=1.0, **looks[cache])
    ax.axhline(0, color=GREY, linewidth=1.0)
    ax.axvline(largest, color=GREY, linestyle=":", linewidth=1.2)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(PLAIN)
    return ax


def drift_by_step(table: pd.DataFrame, ax: Axes) -> Axes:
    """Divergence from the exact cache by decode step, one line per cache (columns cache, step, kl, low, high)."""
    looks = cache_looks(table["cache"])
    for cache, rows in table.groupby("cache", sort=False):
        rows = rows.sort_values("step")
        ax.plot(rows["step"] + 1, rows["kl"], markersize=5, **looks[cache])
        low = rows["low"].clip(lower=1e-9)  # a logarithmic axis has no zero
        ax.fill_between(rows["step"] + 1, low, rows["high"], color=looks[cache]["color"], alpha=0.15, lw=0)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PLAIN)
    ax.set(xlabel="Token of the answer", ylabel="KL from the exact cache (nats)")
    return ax
