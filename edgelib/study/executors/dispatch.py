"""Who does what: tasks go to workers one at a time, and what a dead or silent worker had in hand goes to another."""

from __future__ import annotations

import statistics
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.study.executors.attempt import DONE, RAISED

STARTED, READY, DIED = "started", "ready", "died"
TRIES = 3  # workers that one task may take down, and workers in a row that may fail to start
_POLL_S = 1.0
_LONG_S = 300.0


class StartError(EdgelibError):
    """What raised while a worker prepared: no task of its group can run."""


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent: `factor` times what the task should take, at least `at_least` seconds.

    A prediction is the median time per effort of the tasks done so far, of three or more; before that, none is killed.
    """

    factor: float = 20.0
    at_least: float = 120.0

    def limit(self, effort: float, known: Sequence[float]) -> float:
        """Seconds that a task of this effort may take. known: seconds per effort of finished tasks."""
        if len(known) < 3:
            return float("inf")
        return max(self.at_least, self.factor * effort * statistics.median(known))


class Engine(ABC):
    """Workers of one kind. A worker is any value; what happens to it arrives as (worker, word, value)."""

    lost: str  # what to say when workers die
    waits = False  # whether a worker starts when there is room somewhere else
    unborn: str | None = None  # what to say when the first one dies before it begins; None: that it may begin again

    @abstractmethod
    def hire(self) -> Any:
        """Start one more worker; STARTED, then READY or RAISED follow, or DIED."""

    @abstractmethod
    def give(self, worker: Any, work: Callable, task: tuple) -> None:
        """Hand a worker one task; DONE, RAISED or DIED follow."""

    @abstractmethod
    def events(self, workers: Sequence[Any], timeout: float) -> list[tuple[Any, str, Any]]:
        """What happened, waiting for it at most `timeout` seconds."""

    @abstractmethod
    def dismiss(self, worker: Any) -> None:
        """End a worker at once, whatever it does."""

    def close(self, workers: Sequence[Any]) -> None:
        """End all of them."""
        for worker in workers:
            self.dismiss(worker)


@dataclass
class _Desk:
    """Who is there, who has what in hand, and what happened to each task."""

    engine: Engine
    tasks: Sequence[tuple]
    efforts: Sequence[float]
    on_failure: Callable[[tuple, BaseException], object] | None
    name: Callable[[tuple], str]
    waiting: deque[int]
    idle: list = field(default_factory=list)
    starting: list = field(default_factory=list)
    busy: dict = field(default_factory=dict)  # worker -> (number of the task, when it was given)
    lost: Counter = field(default_factory=Counter)  # number of a task -> workers that it took down
    known: list[float] = field(default_factory=list)  # seconds per effort of finished tasks
    begun: bool = False  # whether any worker came up
    failed_starts: int = 0  # in a row

    @property
    def workers(self) -> list:
        return [*self.idle, *self.starting, *self.busy]

    def hire(self, most: int) -> None:
        """Start workers until there are `most`, or as many as tasks are left."""
        for _ in range(min(most, len(self.waiting) + len(self.busy)) - len(self.workers)):
            self.starting.append(self.engine.hire())

    def hand_out(self, work: Callable) -> None:
        """Give waiting tasks to idle workers."""
        while self.waiting and self.idle:
            worker, number = self.idle.pop(), self.waiting.popleft()
            self.busy[worker] = (number, time.monotonic())
            self.engine.give(worker, work, self.tasks[number])

    def take_back(self, worker: Any, word: str, value: Any) -> None:
        """A worker is done with its task, or what it did raised."""
        number, given = self.busy.pop(worker)
        self.idle.append(worker)
        if word == DONE:
            self.known.append((time.monotonic() - given) / max(self.efforts[number], 1e-9))
        else:
            self._give_up(number, value)

    def hear(self, worker: Any, word: str, value: Any) -> None:
        """What happened to a worker that has no answer to give."""
        if word == STARTED:
            self.begun = True
        elif word == READY:
            self.failed_starts = 0
            self.starting.remove(worker)
            self.idle.append(worker)
        elif word == RAISED:
            raise StartError(str(value)) from value
        elif word == DIED:
            self.failed_starts += worker in self.starting
            self.dismiss(worker, value or "its worker died")
            if not self.begun and self.engine.unborn is not None:
                raise EdgelibError(self.engine.unborn)
            if self.failed_starts >= TRIES:
                raise EdgelibError(self.engine.lost)

    def dismiss(self, worker: Any, why: str) -> None:
        """End a worker; the task it had in hand goes first in the line, unless it has used up its tries."""
        self.engine.dismiss(worker)
        self.idle = [w for w in self.idle if w is not worker]
        self.starting = [w for w in self.starting if w is not worker]
        number, _ = self.busy.pop(worker, (None, 0.0))
        if number is None:
            return
        self.lost[number] += 1
        again, task = self.lost[number] < TRIES, self.name(self.tasks[number])
        warnings.warn(f"{task}: {why}" + ("; it is given to another worker" if again else ""), stacklevel=5)
        if again:
            self.waiting.appendleft(number)
        else:
            self._give_up(number, EdgelibError(f"{self.engine.lost} ({task}: {why}, {TRIES} times)"))

    def end_silent(self, patience: Patience) -> None:
        """End workers that have been silent for too long."""
        now = time.monotonic()
        for worker, (number, given) in list(self.busy.items()):
            if (silent := now - given) > patience.limit(self.efforts[number], self.known):
                self.dismiss(worker, f"its worker was silent for {silent:.0f} s and was ended")

    def _give_up(self, number: int, error: BaseException) -> None:
        if self.on_failure is None:
            raise error
        self.on_failure(self.tasks[number], error)


def dispatch(
    engine: Engine,
    work: Callable,
    tasks: Sequence[tuple],
    workers: int,
    *,
    efforts: Sequence[float] | None = None,
    on_failure: Callable[[tuple, BaseException], object] | None = None,
    patience: Patience | None = None,
    name: Callable[[tuple], str] = str,
) -> Iterator:
    """Yield the value of every task as it is done.

    A task whose worker dies or is silent too long goes to another, twice at most. on_failure: is told of a task that
    raises or uses up its tries; None raises the error here. efforts: how long tasks take beside each other. name: what
    to call a task. Raises StartError for what raises while workers prepare, EdgelibError if none can start.
    """
    patience, efforts = patience or Patience(), efforts or [1.0] * len(tasks)
    desk = _Desk(engine, tasks, efforts, on_failure, name, deque(range(len(tasks))))
    told_of_wait, since = False, time.monotonic()
    try:
        while desk.waiting or desk.busy:
            desk.hire(workers)
            desk.hand_out(work)
            for worker, word, value in engine.events(desk.workers, _POLL_S):
                if word in (DONE, RAISED) and worker in desk.busy:
                    desk.take_back(worker, word, value)
                    if word == DONE:
                        yield value
                else:
                    desk.hear(worker, word, value)
            desk.end_silent(patience)
            if desk.idle or desk.busy:
                since = time.monotonic()
            elif engine.waits and not told_of_wait and time.monotonic() - since > _LONG_S:
                told_of_wait = True
                warnings.warn("no worker has found room to start for five minutes; still waiting", stacklevel=3)
    finally:
        engine.close(desk.workers)
