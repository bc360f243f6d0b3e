"""What the tasks of a sweep cost, learnt from small runs of its own study on this machine."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from edgelib.study.protocol import Study
from edgelib.study.store.sealed import seal

_SIZES = (8, 32)  # items of the two samples whose times say what one more item costs
_STAGES_S = 5.0  # seconds spent on the stages of places, beyond which the others count as their mean
RUNNING = "running models"


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of a sweep, by its tasks: a place, or a shard of one, for all of its variants.

    alone: the seconds of the parts of each task by name, where one worker has all of torch's threads; shared: where
    several divide them. building: seconds to build all models. stored: bytes of all cells.
    """

    alone: list[dict[str, float]]
    shared: list[dict[str, float]]
    building: float
    stored: float


def probe(study: Study, places: Mapping[Any, list], workers: int) -> Costs | None:
    """Return what a small sample tells of all tasks; None for a study whose cells cannot be cut. Stores nothing.

    places: the variants that each place lacks, one place or more. Two sizes of sample, at up to three places for one
    variant and for two, tell what a task, an item and one more variant cost; the stages of every place are timed on
    their own. workers: how many divide torch's threads.
    """
    chosen = _spread(list(places), 3)
    if not study.items(chosen[0]):
        return None
    variants = list(dict.fromkeys(v for some in places.values() for v in some))
    sample = list(dict.fromkeys(v for place in chosen for v in places[place][:2]))
    start = time.perf_counter()
    built = study.build(sample)
    building = (time.perf_counter() - start) * len(variants) / len(sample)
    alone, stored = _tasks(study, places, built, chosen)
    slower = _slower(study, built, chosen[0], places[chosen[0]][:1], workers)
    shared = [{name: slower * seconds for name, seconds in task.items()} for task in alone]
    return Costs(alone, shared, building, stored)


def _slower(study: Study, built: Any, place: Any, some: Sequence, workers: int) -> float:
    """How much longer a worker takes with its share of torch's threads than with all of them."""
    threads, part = torch.get_num_threads(), study.part(0, min(_SIZES[-1], study.items(place)))
    if threads == (share := max(1, threads // workers)):
        return 1.0
    whole, _ = _timed(part, built, place, some)
    with _threads(share):
        return _timed(part, built, place, some)[0] / whole


def _tasks(study: Study, places: Mapping[Any, list], built: Any, chosen: Sequence) -> tuple[list[dict], float]:
    """Seconds of the parts of every task with all threads of torch, and the bytes of all cells."""
    fixed, first, more, size = [], [], [], []
    stages = _stages(study, places)
    for number, place in enumerate(chosen):
        some, items = places[place], study.items(place)
        small, large = (min(n, items) for n in _SIZES)
        if not number:  # what is slow only once
            study.part(0, small).evaluate(built, place, some[:1])
        few, _ = _timed(study.part(0, small), built, place, some[:1])
        one, rows = _timed(study.part(0, large), built, place, some[:1])
        two, _ = _timed(study.part(0, large), built, place, some[:2])
        each = max(one - few, 0.0) / (large - small) if large > small else one / large
        fixed.append(max(one - large * each, 0.0))
        first.append(max(each - sum(stages[place].values()), 0.0))
        more.append(max(two - one, 0.0) / large)
        size.append(_bytes(rows[some[0]], study.spec(some[0], place), items))
    at_once, one_more, beginning = (sum(values) / len(values) for values in (first, more, fixed))
    tasks = []
    for place, some in places.items():
        for start, stop in study.shards(place) or [(0, study.items(place))]:
            parts = {name: (stop - start) * seconds for name, seconds in stages[place].items()}
            models = (stop - start) * (at_once + one_more * (len(some) - 1)) + beginning
            tasks.append(parts | {RUNNING: models})
    return tasks, sum(size) / len(size) * sum(map(len, places.values()))


def _stages(study: Study, places: Mapping[Any, list]) -> dict[Any, dict[str, float]]:
    """Seconds per item of what all variants share of each place, by the names that the study gives them."""
    found: dict[Any, dict[str, float]] = {}
    begun = time.perf_counter()
    for place in random.Random(0).sample(list(places), len(places)):
        if time.perf_counter() - begun > _STAGES_S:
            break
        n, found[place] = min(_SIZES[-1], study.items(place)), {}
        for last in (False, True):  # the first time, tables are made that are kept
            start = time.perf_counter()
            for name in study.part(0, n).stages(place):
                now = time.perf_counter()
                if last:
                    found[place][name] = found[place].get(name, 0.0) + (now - start) / n
                start = now
    names = dict.fromkeys(name for own in found.values() for name in own)
    mean = {name: sum(own.get(name, 0.0) for own in found.values()) / len(found) for name in names}
    return {place: found.get(place, mean) for place in places}


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


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads of torch inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
