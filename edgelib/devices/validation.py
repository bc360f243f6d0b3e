"""How far projections can be trusted: published points against projections that have not seen their device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.devices.device import WIDE
from edgelib.devices.projection import fit, left_out, projected_ms
from edgelib.errors import EdgelibError


@dataclass(frozen=True)
class Validation:
    """Published points against projections that have not seen their device.

    points: a row per point with projected, low, high, inside, error (projected / measured - 1).
    by_step: per kind of step: n, devices, mean and median absolute error, coverage (share inside the interval), factor
    (median reach of the interval either way).
    """

    points: pd.DataFrame
    by_step: pd.DataFrame
    level: float


def validate(points: pd.DataFrame, level: float = 0.9) -> Validation:
    """Project every published point from the other devices alone, with an interval that has not seen it either."""
    errors = left_out(points, level)
    table = errors.assign(error=errors["projected"] / errors["ms"] - 1)
    table["inside"] = (table["low"] <= table["ms"]) & (table["ms"] <= table["high"])
    groups = [*table.groupby("step", sort=False), ("all", table)]
    by_step = pd.DataFrame(
        [
            dict(
                step=step,
                n=len(own),
                devices=own["silicon"].nunique(),
                error=own["error"].abs().mean(),
                median_error=own["error"].abs().median(),
                coverage=own["inside"].mean(),
                factor=(own["high"] / own["projected"]).median(),
            )
            for step, own in groups
        ]
    )
    return Validation(table, by_step, level)


def speedups(points: pd.DataFrame, column: str = "projected") -> pd.DataFrame:
    """Return, for each device, runtime, model and step measured with wide and with narrow weights, both speed-ups.

    measured: wide ms / narrow ms; `column`: the same of the projected times.
    """
    keys = ["device", "model", "step", "tokens", "engine", "runtime"]
    wide, narrow = points[points["weight"].isin(WIDE)], points[~points["weight"].isin(WIDE)]
    pairs = narrow.merge(wide, on=keys, suffixes=("", "_wide"))
    pairs["measured"] = pairs["ms_wide"] / pairs["ms"]
    pairs[column] = pairs[f"{column}_wide"] / pairs[column]
    return pairs[[*keys, "weight", "activation", "measured", column]]


def calibrated(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with `projected` ms when the device's own wide points calibrate the fit of the other devices.

    That is what one can do with the device at hand: time the unquantized model, project the quantized one. A model
    without a wide point keeps the projection of `left_out`. Only narrow points are returned.
    """
    parts = []
    for silicon in points["silicon"].unique():
        own = points["silicon"] == silicon
        population = fit(points[~own])
        for _, case in points[own].groupby(["engine", "model"], sort=False):
            wide = case["weight"].isin(WIDE)
            parts.append(case[~wide].assign(projected=projected_ms(case[~wide], fit(case[wide], population))))
    return pd.concat(parts).sort_index()


def own_spread(errors: pd.DataFrame, kind: str) -> float:
    """Return the standard deviation of log errors around their device's mean: what a device's projections do not share.

    errors: of `left_out`. All kinds are pooled where this one has no device with two points.
    Raises EdgelibError where no device has two points.
    """
    same = errors[errors["kind"] == kind]
    for part in (same, errors):
        sizes = part.groupby("silicon")["log_error"].transform("size")
        several = part[sizes > 1]
        if len(several):
            means = several.groupby("silicon")["log_error"].transform("mean")
            return float(
                np.sqrt(((several["log_error"] - means) ** 2).sum() / (len(several) - several["silicon"].nunique()))
            )
    raise EdgelibError("the spread within a device needs a device with at least 2 measured points")
