"""What a sweep will take, told before it starts: cells, time, memory and bytes for each way to run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pandas as pd
import psutil

from edgelib.study.executors import EXECUTORS
from edgelib.study.plan.groups import copies_here, grouped, network_bytes
from edgelib.study.plan.makespan import Plan, plan
from edgelib.study.plan.probe import Costs, probe
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore


def forecast(study: Study, store: CellStore, *, workers: int = 2) -> pd.DataFrame:
    """Return one row per executor: cells, missing, seconds, at_least, longest, binds, share, memory, stored.

    missing: cells that the store lacks, which alone are counted in what follows, all of it projected. seconds: of wall
    time. Small samples on this machine, at up to three places for one variant and for two, tell what an item, a variant
    and a task cost; the tasks of the sweep then go to the workers in their order. NaN for studies whose cells cannot be
    cut. at_least: no order is quicker. longest: seconds of the longest task, a place or a shard of it. binds: the part
    that takes most of the time, and share, its share of it: reading, corrupting, running models, building models,
    starting, or waiting for the last task. memory: bytes in all workers, of what is loaded and the copies of networks
    that are kept together. stored: bytes of the files.
    Threads and processes share the cores of this machine, so no more of them are counted; a worker of ray counts as one
    more core like its own. Evaluates that sample and stores nothing.
    """
    cells = list(study.cells())
    there = store.load([study.spec(*cell) for cell in cells])
    missing = [cell for cell, table in zip(cells, there, strict=True) if table is None]
    places: dict[Any, list] = {}
    for variant, place in missing:
        places.setdefault(place, []).append(variant)
    loaded = psutil.Process().memory_info().rss
    variants = list(dict.fromkeys(variant for variant, _ in missing))
    costs = probe(study, places, workers) if missing else Costs([], [], 0.0, 0.0)
    starting = _seconds_to_start() if missing else 0.0
    cores, rows = os.cpu_count() or 1, []
    for executor in EXECUTORS:
        alone, own = executor == "serial", executor in ("process", "ray")
        tasks = len(places) if costs is None else len(costs.shared)
        spread = 1 if alone else max(1, min(workers, tasks if executor == "ray" else min(tasks, cores)))
        before = {} if costs is None else {"building": costs.building, "starting": starting if own else 0.0}
        made = None if costs is None else plan(costs.alone if spread == 1 else costs.shared, spread, **before)
        groups = grouped(study, variants, copies=copies_here(executor, workers))
        kept = max((sum(network_bytes(study, v) for v in group) for group in groups), default=0)
        memory = loaded + (spread * (loaded + kept) if own else kept)
        rows.append(
            {
                "executor": executor,
                "workers": spread,
                "cells": len(cells),
                "missing": len(missing),
                **_told(made),
                "memory": memory if missing else loaded,
                "stored": float("nan") if costs is None else costs.stored,
            }
        )
    return pd.DataFrame(rows)


def _told(made: Plan | None) -> dict:
    if made is None:
        nothing = float("nan")
        return {"seconds": nothing, "at_least": nothing, "longest": nothing, "binds": "", "share": nothing}
    told = {"seconds": made.seconds, "at_least": made.at_least, "longest": made.longest}
    return told | {"binds": made.binds if made.seconds else "", "share": made.share}


def _seconds_to_start() -> float:
    """How long a process takes here until it could begin to work."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edgelib.study.filling"], check=False, capture_output=True)
    return time.perf_counter() - start
