"""Outcomes to choose configurations by: sweeps over calibration draws, and models of mixed precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import pandas as pd

from edgelib.data.calibration import calibration_set
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError
from edgelib.infer.classify import outcomes
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.quant.mixed import quantize_mixed
from edgelib.quant.scheme import scheme
from edgelib.study.store import CellStore
from edgelib.study.sweep import Grid, sweep

ONCE = "once"


class DrawParameters(Protocol):
    """What repeated calibration is made from."""

    calibration: str
    n_calibration: int
    seeds: int
    seed: int
    dataset: str
    label_column: str | None
    image_column: str | None
    local_files_only: bool
    executor: str
    workers: int


def calibration_sweeps(grid: Grid, p: DrawParameters, store: CellStore) -> pd.DataFrame:
    """Return the rows of a sweep with a column run: "once", or the calibration draw of a config that needs one.

    The first draw is the grid's own calibration set; further draws differ in their seed only, and sweep those
    configurations alone, with the reference that drift is measured from.
    """
    reading = {"offline": p.local_files_only, "label_column": p.label_column, "image_column": p.image_column}
    drawn = [v for v in grid.variants if scheme(v.config).needs_calibration]
    rows = sweep(grid, store, executor=p.executor, workers=p.workers)
    needs = {v.config for v in drawn}
    rows["run"] = ["0" if config in needs else ONCE for config in rows["config"]]
    parts = [rows]
    for draw in range(1, p.seeds if drawn else 1):
        seen = calibration_set(p.calibration, p.n_calibration, p.seed + draw, p.dataset, exclude=grid.data, **reading)
        variants = tuple(dict.fromkeys([*(grid.reference(v.model) for v in drawn), *drawn]))
        again = sweep(replace(grid, calibration=seen, variants=variants), store, executor=p.executor, workers=p.workers)
        parts.append(again[again["config"].isin(needs)].assign(run=str(draw)))
    return pd.concat(parts, ignore_index=True)


def outcome_tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return {"accuracy", "corrupted"}: tables of items by (config, run), the second a mean over corrupted copies.

    Raises EdgelibError for rows without clean or without corrupted outcomes.
    """
    clean = rows["severity"] == 0
    if clean.all() or not clean.any():
        raise EdgelibError("outcomes need clean images (severity 0) and at least one corruption to choose by")
    tables = {}
    for name, part in (("accuracy", rows[clean]), ("corrupted", rows[~clean])):
        table = part.pivot_table("correct", "item", ["config", "run"], aggfunc="mean", sort=False)
        tables[name] = table.sort_index()
    return tables


def mixed_outcomes(grid: Grid, model: ZeroShotModel, formats: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Return outcome rows of models of mixed precision under the conditions of a grid: config, run, then as a sweep.

    formats: {name of the mix: {layer: scheme}}, schemes that need no calibration.
    """
    models = {name: quantize_mixed(model, layers) for name, layers in formats.items()}
    vectors = {name: m.class_vectors(grid.data.class_names, templates(grid.prompts)) for name, m in models.items()}
    parts = []
    for condition in grid.conditions:
        found = outcomes(models, vectors, grid.data, condition, seed=grid.seed, table=grid.table)
        where = {"corruption": condition.corruption, "severity": condition.severity, "run": ONCE}
        parts += [rows.assign(config=name, **where) for name, rows in found.items()]
    return pd.concat(parts, ignore_index=True)
