"""One place of a study, filled: evaluated, stored, and what goes wrong on the way told to whoever asked."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch

from edgelib.ground.memory import give_back
from edgelib.study.protocol import Study
from edgelib.study.store import CellStore, StoreError

Shard = tuple[int, int]
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Failure:
    """A cell that raised each time it was tried, and what it said."""

    variant: Any
    place: Any
    reason: str


@dataclass
class Filled:
    """What came of a task: cells or shards done, what to say aloud, cells that failed."""

    done: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Job:
    """What every task of a group of variants needs; built once in this process, or once in each of several."""

    study: Study
    store: CellStore
    group: list

    @cached_property
    def built(self) -> object:
        """What the study builds for the group."""
        built = self.study.build(self.group)
        give_back()  # what rounding took on the way
        return built

    def prepare(self) -> None:
        """Build it."""
        _ = self.built

    def for_thread(self) -> Job:
        """This job where threads may share what it built, else one that each builds for itself."""
        study = self.study.for_thread()
        return self if study is self.study else Job(study, self.store, self.group)


def fill(job: Job, place: Any, todo: Sequence, shard: Shard | None = None) -> Filled:
    """Evaluate a place for some variants of the group, store each cell (or its shard), and tell how it went.

    What another run stored by now is left alone. Where variants fail together, each is tried again alone, so that only
    those that raise each time fail; out of memory, all are tried again in batches of half the size.
    Raises StoreError where cells cannot be stored.
    """
    result, study = Filled(), job.study
    wanted = [v for v in todo if shard_spec(study, v, place, shard) not in job.store]
    result.done = len(todo) - len(wanted)
    if not wanted:
        return result
    try:
        parts = [(wanted, _evaluated(job, place, wanted, shard, result.notes))]
    except StoreError:
        raise
    except Exception:
        parts = []
        for variant in wanted:
            try:
                parts.append(([variant], _evaluated(job, place, [variant], shard, result.notes)))
            except StoreError:
                raise
            except Exception as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                result.failures.append(Failure(variant, place, f"{kind}{error}"))
    for some, rows in parts:
        for variant in some:
            job.store.write(shard_spec(study, variant, place, shard), rows[variant])
        result.done += len(some)
    return result


def shard_spec(study: Study, variant: Any, place: Any, shard: Shard | None) -> dict:
    """The spec of a cell, or of a shard of it."""
    spec = study.spec(variant, place)
    return spec if shard is None else spec | {"items": list(shard)}


def _evaluated(job: Job, place: Any, todo: Sequence, shard: Shard | None, notes: list[str]) -> dict[Any, pd.DataFrame]:
    while True:
        study = job.study if shard is None else job.study.part(*shard)
        try:
            return study.evaluate(job.built, place, todo)
        except Exception as error:
            smaller = _halved(job.study) if out_of_memory(error) else None
            if smaller is None:
                raise
            notes.append(f"out of memory at {place}: batches of {smaller.batch_size} items from here on")
            job.study = smaller
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of this machine or its GPU ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)
    )


def _halved(study: Study) -> Any:
    """The study in batches of half the size, None where it has none or they hold one item."""
    size = getattr(study, "batch_size", 1)
    if not is_dataclass(study) or isinstance(study, type) or size < 2:
        return None
    return replace(study, batch_size=size // 2)
