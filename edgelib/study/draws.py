"""Outcomes to choose configurations by: over calibration draws, and of models of mixed precision."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError
from edgelib.infer.classify import outcomes
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.quant.mixed import quantize_mixed
from edgelib.quant.scheme import scheme
from edgelib.study.classifier_grid import ClassifierGrid

ONCE = "once"


def with_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a sweep with a column run: "once", or the number of the calibration draw of a config that needs one."""
    drawn = {config: scheme(config).needs_calibration for config in rows["config"].unique()}
    number = rows["draw"].astype(str) if "draw" in rows else "0"
    return rows.drop(columns="draw", errors="ignore").assign(
        run=pd.Series(number, rows.index).where(rows["config"].map(drawn), ONCE)
    )


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


def criterion_tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of `outcome_tables` as "clean" and "corrupted", and one for each corruption over severities.

    A single corruption is "corrupted" itself and has its own table as well. Raises EdgelibError as `outcome_tables`.
    """
    both = outcome_tables(rows)
    tables = {"clean": both["accuracy"], "corrupted": both["corrupted"]}
    for name, part in rows[rows["severity"] > 0].groupby("corruption", sort=False):
        own = part.pivot_table("correct", "item", ["config", "run"], aggfunc="mean", sort=False)
        tables[str(name)] = own.sort_index()
    return tables


def mixed_outcomes(
    grid: ClassifierGrid, model: ZeroShotModel, formats: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """Return outcome rows of models of mixed precision under the conditions of a grid: config, run, then as a sweep.

    formats: {name of the mix: {layer: scheme}}, schemes that need no calibration.
    """
    models = {name: quantize_mixed(model, layers) for name, layers in formats.items()}
    vectors = {name: m.class_vectors(grid.data.class_names, templates(grid.prompts)) for name, m in models.items()}
    parts = []
    for condition in grid.conditions:
        tables = outcomes(models, vectors, grid.data, condition, seed=grid.seed, table=grid.table)
        where = {"corruption": condition.corruption, "severity": condition.severity, "run": ONCE}
        parts += [rows.assign(config=name, **where) for name, rows in tables.items()]
    return pd.concat(parts, ignore_index=True)
