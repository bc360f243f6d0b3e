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
    """Who is there and who has what in hand."""

    waiting: deque[int]
    idle: list = field(default_factory=list)
    starting: list = field(default_factory=list)
    busy: dict = field(default_factory=dict)  # worker -> (number of the task, when it was given)

    @property
    def workers(self) -> list:
        return [*self.idle, *self.starting, *self.busy]

    def leave(self, worker: Any) -> int | None:
        """Forget a worker; the task it had in hand goes first in the line."""
        self.idle = [w for w in self.idle if w is not worker]
        self.starting = [w for w in self.starting if w is not worker]
        number, _ = self.busy.pop(worker, (None, 0.0))
        if number is not None:
            self.waiting.appendleft(number)
        return number


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
    desk, lost, known, failed_starts = _Desk(deque(range(len(tasks)))), Counter(), [], 0

    def give_up(number: int, error: BaseException) -> None:
        if on_failure is None:
            raise error
        on_failure(tasks[number], error)

    def retry(worker: Any, why: str) -> None:
        number = desk.leave(worker)
        if number is None:
            return
        lost[number] += 1
        again = lost[number] < TRIES
        warnings.warn(
            f"{name(tasks[number])}: {why}" + ("; it is given to another worker" if again else ""), stacklevel=4
        )
        if not again:
            desk.waiting.remove(number)
            give_up(number, EdgelibError(f"{engine.lost} ({name(tasks[number])}: {why}, {TRIES} times)"))

    try:
        desk.starting = [engine.hire() for _ in range(min(workers, len(tasks)))]
        told_of_wait, since = False, time.monotonic()
        begun = set()
        while desk.waiting or desk.busy:
            while desk.waiting and desk.idle:
                worker, number = desk.idle.pop(), desk.waiting.popleft()
                desk.busy[worker] = (number, time.monotonic())
                engine.give(worker, work, tasks[number])
            for worker, word, value in engine.events(desk.workers, _POLL_S):
                if word == STARTED:
                    begun.add(worker)
                elif word == READY:
                    failed_starts = 0
                    desk.starting.remove(worker)
                    desk.idle.append(worker)
                elif word in (DONE, RAISED) and worker in desk.busy:
                    number, given = desk.busy.pop(worker)
                    desk.idle.append(worker)
                    if word == DONE:
                        known.append((time.monotonic() - given) / max(efforts[number], 1e-9))
                        yield value
                    else:
                        give_up(number, value)
                elif word == RAISED:
                    raise StartError(str(value)) from value
                elif word == DIED:
                    if worker in desk.starting:
                        failed_starts += 1
                    engine.dismiss(worker)
                    retry(worker, value or "its worker died")
                    desk.leave(worker)
                    if not begun and engine.unborn is not None:
                        raise EdgelibError(engine.unborn)
                    if failed_starts >= TRIES:
                        raise EdgelibError(engine.lost)
                    if len(desk.workers) < len(desk.waiting) + len(desk.busy):
                        desk.starting.append(engine.hire())
            now = time.monotonic()
            for worker, (number, given) in list(desk.busy.items()):
                if (silent := now - given) > patience.limit(efforts[number], known):
                    engine.dismiss(worker)
                    retry(worker, f"its worker was silent for {silent:.0f} s and was ended")
                    if len(desk.workers) < len(desk.waiting) + len(desk.busy):
                        desk.starting.append(engine.hire())
            if desk.idle or desk.busy:
                since = now
            elif engine.waits and not told_of_wait and now - since > _LONG_S:
                told_of_wait = True
                warnings.warn("no worker has found room to start for five minutes; still waiting", stacklevel=3)
    finally:
        engine.close(desk.workers)
