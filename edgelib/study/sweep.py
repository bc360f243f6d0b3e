"""A study, cell by cell, into a store: resumable, in this process, in several, or on a cluster.

A study says which cells there are (a variant of a model at a place where variants are compared), what names each of
them and how they are computed; `sweep` computes those that a store lacks and returns all rows. The unit of work is a
place: what is common to its cells (corrupted images, a calibration set) is made once for every variant that still
lacks the cell; long places are cut into shards of items. What a cell holds depends on its spec only, never on executor,
order or what ran before; batch size and threads of torch can move the last bits of margin and drift.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from edgelib.errors import EdgelibError, choose
from edgelib.ground.memory import give_back
from edgelib.ground.progress import progress_bar
from edgelib.study.executors import EXECUTORS, Cluster, Patience, StartError, run_tasks
from edgelib.study.filling import Failure, Filled, Job, Shard, fill, shard_spec
from edgelib.study.plan.groups import copies_here, grouped
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore, StoreError

_SHOWN = 5  # failed cells whose specs are shown


class SweepError(EdgelibError):
    """Cells that failed each time they were tried, or could not be begun; all others are stored.

    failures: of every cell, its variant, its place and the reason.
    """

    def __init__(self, text: str, failures: Sequence[Failure]):
        super().__init__(text)
        self.failures = tuple(failures)

    def __reduce__(self):
        return type(self), (str(self), self.failures)


def sweep(
    study: Study,
    store: CellStore,
    *,
    executor: str = "serial",
    workers: int = 2,
    progress: bool = True,
    cluster: Cluster | None = None,
    patience: Patience | None = None,
) -> pd.DataFrame:
    """Evaluate the cells that the store lacks and return all rows of the study, in its order.

    Columns: those of `study.columns`, then those of its outcomes. A run that is killed and started again computes only
    what is missing or damaged. executor "thread", "process" or "ray" spreads places over `workers` of them; "ray" over
    those of a `cluster`. What a process or actor had in hand when it died, or was silent beyond `patience`, is given to
    another; memory that ran out halves the batches. Each of that is said in a warning.
    Raises SweepError at the end if cells failed each time, naming them with their specs, all others being stored;
    StoreError if something must be stored and cannot be, before anything is computed where that can be told.
    """
    choose(dict.fromkeys(EXECUTORS), executor, "executor")
    cells = list(study.cells())
    specs = [study.spec(*cell) for cell in cells]
    tables = list(store.load(specs))
    store.tell()
    if missing := [i for i, table in enumerate(tables) if table is None]:
        store.require_writable()
        store.require_shared(executor)
        failures = _compute(
            study,
            store,
            [cells[i] for i in missing],
            progress,
            {"executor": executor, "workers": workers, "cluster": cluster, "patience": patience},
        )
        if failures:
            raise SweepError(_told(study, failures, len(cells)), failures)
        for i, table in zip(missing, store.load([specs[i] for i in missing]), strict=True):
            if table is None:
                raise EdgelibError(f"cell {store.path(specs[i])} was removed while it was read; run again")
            tables[i] = table
    return _joined([study.columns(*cell) for cell in cells], tables)


def _compute(study: Study, store: CellStore, missing: list, progress: bool, how: dict) -> list[Failure]:
    """Fill the missing cells, put shards together, and return what failed."""
    tasks, cut = _tasks(study, store, missing)
    failures: list[Failure] = []
    with progress_bar(sum(len(todo) for _, todo, _ in tasks), "cells", progress) as advance:
        for filled in _run(study, store, tasks, failures, how):
            for note in filled.notes:
                warnings.warn(note, stacklevel=3)
            failures += filled.failures
            advance(filled.done)
    failed = {(f.variant, f.place) for f in failures}
    for variant, place in cut:
        if (variant, place) not in failed:
            _put_together(study, store, variant, place)
    return list({(f.variant, f.place): f for f in failures}.values())


def _tasks(study: Study, store: CellStore, missing: list) -> tuple[list[tuple], list]:
    """(place, variants, shard) of what is missing, and the cells that are cut into shards."""
    places: dict[tuple[Any, Shard | None], list] = {}
    cut = []
    for variant, place in missing:
        shards = study.shards(place)
        cut += [(variant, place)] if shards else []
        for shard in shards or (None,):
            if shard is None or shard_spec(study, variant, place, shard) not in store:
                places.setdefault((place, shard), []).append(variant)
    return [(place, variants, shard) for (place, shard), variants in places.items()], cut


def _put_together(study: Study, store: CellStore, variant: Any, place: Any) -> None:
    specs = [shard_spec(study, variant, place, shard) for shard in study.shards(place)]
    parts = [store.read(spec) for spec in specs]
    if any(part is None for part in parts):
        raise EdgelibError(f"a shard of cell {store.path(study.spec(variant, place))} was removed; run again")
    store.write(study.spec(variant, place), pd.concat(parts, ignore_index=True))
    for spec in specs:
        store.remove(spec)


def _run(study: Study, store: CellStore, tasks: list[tuple], failures: list[Failure], how: dict) -> Iterator[Filled]:
    wanted = set().union(*(todo for _, todo, _ in tasks))
    copies = copies_here(how["executor"], how["workers"], how["cluster"])
    for group in grouped(study, [v for v in study.variants if v in wanted], copies=copies):
        give_back()  # what the group before took
        members = set(group)
        own = [(p, todo, shard) for p, some, shard in tasks if (todo := [v for v in some if v in members])]
        own.sort(key=lambda task: -study.effort(*task[:2]))

        def failed(task: tuple, error: BaseException) -> None:
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise error
            failures.extend(Failure(variant, task[0], str(error)) for variant in task[1])

        try:
            yield from run_tasks(
                fill,
                own,
                Job(study, store, group),
                efforts=[_items(shard) * (study.effort(place, todo) or len(todo)) for place, todo, shard in own],
                on_failure=failed,
                name=lambda task: f"{task[0]} of {len(task[1])} variants" + (f", items {task[2]}" if task[2] else ""),
                **how,
            )
        except StartError as error:  # models that cannot be built: their cells fail, the other groups go on
            failures.extend(Failure(v, place, str(error)) for place, todo, _ in own for v in todo)


def _items(shard: Shard | None) -> int:
    return 1 if shard is None else shard[1] - shard[0]


def _told(study: Study, failures: Sequence[Failure], cells: int) -> str:
    """One paragraph on cells that failed: what each said, then where and what they are."""
    reasons: dict[str, list[Failure]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure)
    said = []
    for reason, some in reasons.items():
        marks = (", ".join(f"{k} {v}" for k, v in study.columns(f.variant, f.place).items()) for f in some[:_SHOWN])
        more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
        said.append(f"{reason} [{'; '.join(marks)}{more}]")
    specs = [json.dumps(study.spec(f.variant, f.place), sort_keys=True) for f in failures[:_SHOWN]]
    return (
        f"{len(failures)} of {cells} cells failed each time they were tried, the others are stored; mend the cause and "
        f"run again, or leave these out: {' '.join(said)} Specs: {' '.join(specs)}"
    )


def _joined(marks: Sequence[dict], tables: Sequence[pa.Table]) -> pd.DataFrame:
    """The rows of all cells below each other, each behind its marks."""
    same = all(t.schema.equals(tables[0].schema, check_metadata=True) for t in tables)
    kinds = [{type(mark[name]) for mark in marks} for name in marks[0]] if len({*map(tuple, marks)}) == 1 else []
    plain = len(kinds) == len(marks[0]) and all(len(k) == 1 and k <= {str, int, float, bool} for k in kinds)
    if not (same and plain):
        parts = [t.to_pandas().assign(**m)[[*m, *t.column_names]] for m, t in zip(marks, tables, strict=True)]
        return pd.concat(parts, ignore_index=True)
    rows = pa.concat_tables(tables).to_pandas()  # all at once: a frame of each would take longer than its file
    lengths = [t.num_rows for t in tables]
    lead = {name: pd.Series([mark[name] for mark in marks]).repeat(lengths).array for name in marks[0]}
    return rows.assign(**lead)[[*lead, *tables[0].column_names]]
