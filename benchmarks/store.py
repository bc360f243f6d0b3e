"""Reading back a sweep that is stored: 10,000 cells of the embedded classifier's grid, beside plain pandas.

python benchmarks/store.py [--quick] [cells=10000]
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pandas as pd
from goals import Table, goal, machine, script

import edgelib
from edgelib.corruptions import CORRUPTIONS
from edgelib.study.classifier_grid import ClassifierGrid, Variant, conditions_of
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

IMAGES = 100
CONFIGS = ("fp32", "w8a8-minmax", "w8a8-mse", "w4a8-minmax", "w4a8-minmax-g32", "w4a16-minmax", "nvfp4", "mxfp4")


def large_grid(cells: int) -> ClassifierGrid:
    """So many cells: configurations x twins x conditions of the images."""
    conditions = conditions_of(list(CORRUPTIONS), [1, 2, 3, 4, 5])
    doses = [f"weight:{dose}" for dose in range(2, 2 + -(-cells // (len(CONFIGS) * len(conditions))))]
    variants = tuple(Variant("m", twin, config) for twin, config in product(["plain", *doses], CONFIGS))
    data = edgelib.dataset("scenes", n=IMAGES)
    return ClassifierGrid({"m": edgelib.load("scenes-clip")}, variants, conditions, data)


def outcomes_like(rng: np.random.Generator, grid: ClassifierGrid) -> pd.DataFrame:
    """Rows as the grid would compute them, of random numbers."""
    rows = grid.data.rows[["item", "label"]].copy()
    rows["prediction"] = rng.integers(0, 10, len(rows))
    rows["correct"] = rows["prediction"] == rows["label"]
    for name in ("margin", "drift"):
        rows[name] = rng.random(len(rows), dtype=np.float32)
    return rows


def timed(job) -> tuple[float, float, object]:
    """Seconds of wall time and of all cores together, and what the job returned."""
    start, cpu = time.perf_counter(), time.process_time()
    result = job()
    return time.perf_counter() - start, time.process_time() - cpu, result


def written(store: CellStore, grid: ClassifierGrid, cells: list) -> None:
    """Store all cells; threads, because each waits for the disk."""
    rng = np.random.default_rng(0)
    rows = [outcomes_like(rng, grid) for _ in cells]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda cell, table: store.write(grid.spec(*cell), table), cells, rows))


def by_pandas(grid: ClassifierGrid, paths: list, cells: list) -> pd.DataFrame:
    """The same rows by pandas alone: no digest, no spec, one file after the other."""
    parts = [pd.read_parquet(path).assign(**grid.columns(*cell)) for path, cell in zip(paths, cells, strict=True)]
    return pd.concat(parts, ignore_index=True)


def main(cells: int = 10_000) -> None:
    """Print the seconds of a warm sweep, which compares every digest, and of pandas, which compares nothing."""
    grid = large_grid(cells)
    chosen = list(grid.cells())[:cells]
    object.__setattr__(grid, "cells", lambda: iter(chosen))
    with tempfile.TemporaryDirectory() as folder:
        store = CellStore(folder)
        *writing, _ = timed(lambda: written(store, grid, chosen))
        paths = [store.path(grid.spec(*cell)) for cell in chosen]
        *pandas, expected = timed(lambda: by_pandas(grid, paths, chosen))
        *warm, rows = timed(lambda: sweep(grid, store, progress=False))
    pd.testing.assert_frame_equal(rows, expected[list(rows.columns)])
    print(f"{machine()}\n{len(chosen)} cells of {IMAGES} rows")
    table = Table(("", 34, ""), ("seconds", 10, ".2f"), ("ms a cell", 10, ".2f"), ("of a core", 10, ".2f"))
    for name, (seconds, cpu) in (
        ("written to the disk by 16 threads", writing),
        ("read by pandas, unchecked", pandas),
        ("warm sweep, every digest compared", warm),
    ):
        table.row(name, seconds, 1e3 * seconds / len(chosen), 1e3 * cpu / len(chosen))
    goal("warm sweep of 10,000 stored cells", warm[0] * 10_000 / len(chosen), at_most=5, unit="s")


if __name__ == "__main__":
    script(main, cells=300)
