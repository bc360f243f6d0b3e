"""A study, cell by cell, into a store: resumable, in this process or in several.

A study says which cells there are (a variant of a model at a place where variants are compared), what names each of
them and how they are computed; `sweep` computes those that a store lacks and returns all rows. The unit of work is a
place: what is common to its cells (corrupted images, a calibration set) is made once for every variant that still
lacks the cell. What a cell holds depends on its spec only, never on executor, order or what ran before; batch size and
threads can move the last bits of margin and drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.ground.memory import free_bytes
from edgelib.ground.progress import progress_bar
from edgelib.study.executors import EXECUTORS, run_tasks
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore


def sweep(
    study: Study, store: CellStore, *, executor: str = "serial", workers: int = 2, progress: bool = True
) -> pd.DataFrame:
    """Evaluate the cells that the store lacks and return all rows of the study, in its order.

    Columns: those of `study.columns`, then those of its outcomes. A run that is killed and started again computes only
    what is missing. executor "thread" or "process" spreads places over `workers` of them.
    Raises EdgelibError if a worker process dies; what was stored stays.
    """
    choose(dict.fromkeys(EXECUTORS), executor, "executor")
    missing: dict = {}
    for variant, place in study.cells():
        if study.spec(variant, place) not in store:
            missing.setdefault(place, []).append(variant)
    if missing:
        total = sum(map(len, missing.values()))
        with progress_bar(total, "cells", progress) as advance:
            for done in _run(study, store, missing, executor, workers):
                advance(done)
    return _collect(study, store)


def _collect(study: Study, store: CellStore) -> pd.DataFrame:
    parts = []
    for variant, place in study.cells():
        rows = store.read(study.spec(variant, place))
        if rows is None:  # found damaged only now: compute it again
            _fill(study, store, study.build([variant]), place, [variant])
            rows = store.read(study.spec(variant, place))
        if rows is None:
            raise EdgelibError(
                f"cell {store.path(study.spec(variant, place))} was removed while it was read; run again"
            )
        where = study.columns(variant, place)
        parts.append(rows.assign(**where)[[*where, *rows.columns]])
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class _Job:
    """What every task of a group of variants needs; built once in this process, or once in each of several."""

    study: Study
    store: CellStore
    group: list

    @cached_property
    def built(self) -> object:
        return self.study.build(self.group)

    def for_thread(self) -> _Job:
        """This job where threads may share what it built, else one that each builds for itself."""
        study = self.study.for_thread()
        if study is not self.study:
            return _Job(study, self.store, self.group)
        _ = self.built
        return self


def _run(study: Study, store: CellStore, missing: dict, executor: str, workers: int) -> Iterator[int]:
    wanted = [v for v in study.variants if any(v in variants for variants in missing.values())]
    for group in _groups(study, wanted, copies=workers if executor == "process" else 1):
        members = set(group)
        tasks = [(place, todo) for place, some in missing.items() if (todo := [v for v in some if v in members])]
        tasks.sort(key=lambda task: -study.effort(*task))
        yield from run_tasks(_work, tasks, _Job(study, store, group), executor=executor, workers=workers)


def _work(job: _Job, place: object, todo: list) -> int:
    return _fill(job.study, job.store, job.built, place, todo)


def _fill(study: Study, store: CellStore, built: object, place: object, todo: list) -> int:
    """Evaluate one place for some variants of one group and store the cells; returns how many."""
    for variant, rows in study.evaluate(built, place, todo).items():
        store.write(study.spec(variant, place), rows)
    return len(todo)


def _groups(study: Study, wanted: Sequence, copies: int = 1) -> Iterator[list]:
    """Cut the variants into groups of which `copies` fit half of the memory that is free to this process now."""
    free = free_bytes()
    group, used = [], 0
    for variant in wanted:
        size = copies * sum(p.numel() * p.element_size() for p in study.module(variant).parameters())
        if group and used + size > free / 2:
            yield group
            group, used = [], 0
        group.append(variant)
        used += size
    if group:
        yield group
