"""A store looked through: every cell against its digest, its name and its own word, a sample against a new run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.ground.checks import seed_number, whole_number
from edgelib.study.protocol import Study
from edgelib.study.store.cells import ENDING, CellStore, name_of
from edgelib.study.store.sealed import Damaged, read_spec, seal

LAST_BITS = 1e-4  # by which a number may move with batch size, threads or processor


@dataclass(frozen=True)
class Checked:
    """What a store holds. cells: whole ones. damaged: place -> reason. leftovers: what stopped writers left behind."""

    cells: int
    damaged: dict[str, str]
    leftovers: tuple[str, ...]


def check_store(store: CellStore) -> Checked:
    """Read every cell of a store and compare it with its digest, its metadata and its name. Changes nothing.

    Raises StoreError for a file that cannot be read now.
    """
    names = list(store.files.names(ENDING))
    with ThreadPoolExecutor(4) as pool:
        reasons = dict(zip(names, pool.map(lambda name: _damage(store, name), names), strict=True))
    damaged = {str(store.files.where(name)): reason for name, reason in reasons.items() if reason is not None}
    leftovers = [str(store.files.where(n)) for ending in (".tmp", ".aside") for n in store.files.names(ending)]
    return Checked(len(names) - len(damaged), damaged, tuple(leftovers))


def _damage(store: CellStore, name: str) -> str | None:
    try:
        data = store.files.read(name)
        if data is None:
            return "it was removed while it was read"
        return None if name_of(read_spec(data)) == name else "it holds another cell"
    except Damaged as error:
        return str(error)


def recompute(study: Study, store: CellStore, n: int, *, seed: int = 0) -> pd.DataFrame:
    """Compute up to n stored cells of a study again, drawn by the seed, and compare them with what is stored.

    Returns one row per cell: the marks of `study.columns`, verdict ("same bytes", "last bits differ": numbers within
    1e-4 and all else equal, or "different") and largest, the largest difference of a number. Stores nothing.
    Raises EdgelibError if none of the study's cells is stored.
    """
    n = whole_number(n, "cells to recompute", at_least=1)
    cells = list(study.cells())
    tables = store.load([study.spec(*cell) for cell in cells])
    stored = {cell: table for cell, table in zip(cells, tables, strict=True) if table is not None}
    if not stored:
        raise EdgelibError("the store holds no cell of this study; run its sweep first, or name its own parameters")
    chosen = random.Random(seed_number(seed)).sample(list(stored), min(n, len(stored)))
    built = study.build(list(dict.fromkeys(variant for variant, _ in chosen)))
    found = []
    for variant, place in chosen:
        rows = study.evaluate(built, place, [variant])[variant]
        verdict, largest = _compared(study.spec(variant, place), stored[variant, place].to_pandas(), rows)
        found.append(study.columns(variant, place) | {"verdict": verdict, "largest": largest})
    return pd.DataFrame(found)


def _compared(spec: dict, stored: pd.DataFrame, rows: pd.DataFrame) -> tuple[str, float]:
    """The verdict on two tables of one cell, and the largest difference of a number."""
    if seal(spec, stored) == seal(spec, rows):
        return "same bytes", 0.0
    if list(stored.columns) != list(rows.columns) or len(stored) != len(rows):
        return "different", float("inf")
    numbers = [name for name in rows if rows[name].dtype.kind == "f"]
    if not _equal(stored.drop(columns=numbers), rows.drop(columns=numbers)):
        return "different", float("inf")
    away = [np.abs(stored[c].to_numpy(float) - rows[c].to_numpy(float)) for c in numbers]
    same = all((np.isnan(stored[c]) == np.isnan(rows[c])).all() for c in numbers)
    largest = float(max(np.nanmax(a, initial=0.0) for a in away)) if same else float("inf")
    return ("last bits differ" if largest <= LAST_BITS else "different"), largest


def _equal(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return all(_plain(a[name]) == _plain(b[name]) for name in a)


def _plain(column: pd.Series) -> Sequence:
    """Values that compare as wholes: arrays as lists."""
    return [v.tolist() if isinstance(v, np.ndarray) else v for v in column]
