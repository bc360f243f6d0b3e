"""What a sweep will take, told before it starts: cells, time, memory and bytes for each way to run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import psutil

from edgelib.study.executors import EXECUTORS
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore
from edgelib.study.store.sealed import seal

_PROBE = 16  # items that are evaluated to learn what one costs


def forecast(study: Study, store: CellStore, *, workers: int = 2) -> pd.DataFrame:
    """Return one row per executor: cells, missing, seconds, memory, stored; all but cells and missing are predicted.

    missing: cells that the store lacks, which alone are counted in what follows. seconds: of wall time, from
    evaluating up to 16 items at up to three places for one variant and for two, on this machine; NaN for studies whose
    cells cannot be cut. memory: bytes in all workers, of what is loaded and a copy of the network per variant. stored:
    bytes of the files. Evaluates that sample and stores nothing. ray: as on this machine, without the start of Ray.
    """
    cells = list(study.cells())
    there = store.load([study.spec(*cell) for cell in cells])
    missing = [cell for cell, table in zip(cells, there, strict=True) if table is None]
    places: dict[Any, list] = {}
    for variant, place in missing:
        places.setdefault(place, []).append(variant)
    building, filling, stored = _probed(study, places) if missing else (0.0, 0.0, 0)
    starting = _seconds_to_start() if missing else 0.0
    variants = list(dict.fromkeys(variant for variant, _ in missing))
    loaded = psutil.Process().memory_info().rss
    copies = sum(p.numel() * p.element_size() for v in variants for p in study.module(v).parameters())
    rows = []
    for executor in EXECUTORS:
        alone = executor == "serial"
        spread = 1 if alone else max(1, min(workers, len(places), os.cpu_count() or 1))
        own = executor in ("process", "ray")
        seconds = building + filling / spread + (starting if own and missing else 0.0)
        memory = loaded + copies if not own else loaded + spread * (loaded + copies)
        rows.append(
            {
                "executor": executor,
                "workers": spread,
                "cells": len(cells),
                "missing": len(missing),
                "seconds": seconds,
                "memory": memory if missing else loaded,
                "stored": stored,
            }
        )
    return pd.DataFrame(rows)


def _probed(study: Study, places: dict[Any, list]) -> tuple[float, float, float]:
    """Seconds to build all variants, seconds to fill all places one after the other, bytes of all cells."""
    nothing = float("nan"), float("nan"), float("nan")
    chosen = _spread(list(places), 3)
    if not study.items(chosen[0]):
        return nothing
    variants = list(dict.fromkeys(v for some in places.values() for v in some))
    sample = list(dict.fromkeys(v for place in chosen for v in places[place][:2]))
    start = time.perf_counter()
    built = study.build(sample)
    building = (time.perf_counter() - start) * len(variants) / len(sample)
    first, more, size = [], [], []
    for number, place in enumerate(chosen):
        n = min(_PROBE, study.items(place))
        part, some = study.part(0, n), places[place]
        if not number:  # what is slow only once
            part.evaluate(built, place, some[:1])
        one, rows = _timed(part, built, place, some[:1])
        two, _ = _timed(part, built, place, some[:2])
        scale = study.items(place) / n
        first.append(scale * one)
        more.append(scale * max(two - one, 0.0))
        size.append(_bytes(rows[some[0]], study.spec(some[0], place), study.items(place)))
    mean_first, mean_more, mean_size = (sum(values) / len(values) for values in (first, more, size))
    filling = sum(mean_first + mean_more * (len(some) - 1) for some in places.values())
    return building, filling, mean_size * sum(map(len, places.values()))


def _timed(part: Study, built: Any, place: Any, todo: Sequence) -> tuple[float, dict]:
    start = time.perf_counter()
    rows = part.evaluate(built, place, todo)
    return time.perf_counter() - start, rows


def _bytes(rows: pd.DataFrame, spec: dict, items: int) -> float:
    """Bytes of a cell of so many items, from the sizes of its first rows and of half of them."""
    half = len(rows) // 2
    whole, part = len(seal(spec, rows)), len(seal(spec, rows.iloc[:half]))
    return whole + (whole - part) / max(len(rows) - half, 1) * (items - len(rows))


def _spread(values: list, n: int) -> list:
    """Up to n values from the first to the last."""
    step = max(1, (len(values) - 1) // max(n - 1, 1))
    return values[::step][:n]


def _seconds_to_start() -> float:
    """How long a process takes here until it could begin to work."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edgelib.study.filling"], check=False, capture_output=True)
    return time.perf_counter() - start
