"""One call for every place where tasks can run."""

from __future__ import annotations

import concurrent.futures as futures
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from edgelib.errors import choose
from edgelib.study.executors.cluster import Actors, Cluster
from edgelib.study.executors.dispatch import Engine, Patience, StartError, dispatch
from edgelib.study.executors.processes import Processes

EXECUTORS = ("serial", "thread", "process", "ray")


def run_tasks(
    work: Callable,
    tasks: Sequence[tuple],
    shared: Any,
    *,
    executor: str = "serial",
    workers: int = 2,
    efforts: Sequence[float] | None = None,
    on_failure: Callable[[tuple, BaseException], object] | None = None,
    cluster: Cluster | None = None,
    patience: Patience | None = None,
    name: Callable[[tuple], str] = str,
) -> Iterator:
    """Yield work(shared, *task) for every task: in order when serial, else as they finish.

    work: a function of a module. shared: what all tasks need, a `Shared`. Each process or actor gets a copy of it once,
    each thread what `shared.for_thread()` returns. torch's own threads are divided among the workers of this machine.
    Threads start at once and share the weights: the better choice unless many small operations fight for the
    interpreter, which processes do not share. Processes import the script that calls this, so it guards what it runs:
    if __name__ == "__main__". executor "ray" takes the workers of a `cluster`, by default of this machine.
    efforts: how long tasks take beside each other, by which silent ones are told. on_failure: is told of a task that
    raises, or whose workers died each time; None raises its error here. name: what to call a task.
    A process or actor that dies or is silent beyond `patience` is replaced, and the task it had in hand given again.
    Raises EdgelibError for an unknown executor, a script without that guard, workers that cannot start, and
    StartError for what `shared.prepare()` raises in a worker.
    """
    choose(dict.fromkeys(EXECUTORS), executor, "executor")
    if executor == "serial":
        yield from _one_by_one(work, tasks, shared, on_failure)
    elif tasks and executor == "thread":
        yield from _in_threads(work, tasks, shared, min(workers, len(tasks)), on_failure)
    elif tasks:
        threads = max(1, torch.get_num_threads() // workers)
        engine: Engine
        if executor == "process":
            engine = Processes(shared, threads)
        else:
            engine = Actors(shared, threads, min(workers, len(tasks)), cluster or Cluster())
        told = {"efforts": efforts, "on_failure": on_failure, "patience": patience, "name": name}
        yield from dispatch(engine, work, tasks, workers, **told)  # type: ignore[arg-type]


def _one_by_one(work: Callable, tasks: Sequence[tuple], shared: Any, on_failure: Callable | None) -> Iterator:
    for number, task in enumerate(tasks):
        if not number:
            _prepared(shared)
        try:
            value = work(shared, *task)
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(task, error)
        else:
            yield value


def _in_threads(
    work: Callable, tasks: Sequence[tuple], shared: Any, workers: int, on_failure: Callable | None
) -> Iterator:
    threads, own = torch.get_num_threads(), threading.local()
    copies = [shared.for_thread() for _ in range(workers)]
    for copy in copies:
        _prepared(copy)

    def start() -> None:
        torch.set_num_threads(max(1, threads // workers))
        own.shared = copies.pop()

    def run(task: tuple) -> tuple:
        try:
            return task, work(own.shared, *task), None
        except Exception as error:
            return task, None, error

    pool = futures.ThreadPoolExecutor(workers, "tasks", initializer=start)
    try:
        for future in futures.as_completed([pool.submit(run, task) for task in tasks]):
            task, value, error = future.result()
            if error is None:
                yield value
            elif on_failure is None:
                raise error
            else:
                on_failure(task, error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # this thread kept its number; threads started later would not


def _prepared(shared: Any) -> None:
    try:
        shared.prepare()
    except Exception as error:
        raise StartError(str(error)) from error
