"""Wall time of tasks on workers, from the seconds of their parts: a model without clocks, and what binds it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgelib.errors import EdgelibError
from edgelib.ground.checks import whole_number

STARTING, BUILDING, WAITING = "starting", "building models", "waiting for the last task"


@dataclass(frozen=True)
class Plan:
    """The wall time of a run. seconds: of all of it; parts: the seconds of it by what was done, on a mean worker.

    at_least: no order of the tasks is quicker: the work shared out evenly, or the longest task. longest: seconds of
    that task. seconds is the sum of parts.
    """

    workers: int
    seconds: float
    at_least: float
    longest: float
    parts: dict[str, float]

    @property
    def binds(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def share(self) -> float:
        """The share of the time that it takes; 0 where there is nothing to do."""
        return self.parts[self.binds] / self.seconds if self.seconds else 0.0


def plan(tasks: Sequence[Mapping[str, float]], workers: int, *, building: float = 0.0, starting: float = 0.0) -> Plan:
    """Return how long tasks take that idle workers take up in their order, one at a time.

    tasks: of each, the seconds of its parts by name. building, starting: seconds of every worker before its first task.
    Graham (1966): the time is below the even share of the work plus the longest task.
    Raises EdgelibError for no worker and for seconds below 0.
    """
    workers = whole_number(workers, "workers", at_least=1)
    long = [sum(task.values()) for task in tasks]
    if any(not value >= 0 for task in tasks for value in (*task.values(), building, starting)):
        raise EdgelibError("seconds of a task must be numbers of 0 or more; measure them again")
    free = [0.0] * workers
    for seconds in long:
        heapq.heapreplace(free, free[0] + seconds)
    before = building + starting if tasks else 0.0
    parts: dict[str, float] = {STARTING: starting, BUILDING: building} if tasks else {}
    for task in tasks:
        for name, seconds in task.items():
            parts[name] = parts.get(name, 0.0) + seconds / workers
    even, longest = sum(long) / workers, max(long, default=0.0)
    last = max(free)
    return Plan(workers, before + last, before + max(even, longest), longest, parts | {WAITING: last - even})
