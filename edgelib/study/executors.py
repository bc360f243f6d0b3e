"""Where tasks run: one after the other, in threads of this process, or in several processes of this machine."""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import torch
import torch.multiprocessing

from edgelib.errors import EdgelibError, choose

EXECUTORS = ("serial", "thread", "process")


def run_tasks(
    work: Callable, tasks: Sequence[tuple], shared: Any, *, executor: str = "serial", workers: int = 2
) -> Iterator:
    """Yield work(shared, *task) for every task: in order when serial, else as they finish.

    work: a function of a module. shared: what all tasks need; it may cache on itself what is costly to build. Each
    process gets a copy of it once, each thread what `shared.for_thread()` returns, which is called in this thread.
    torch's own threads are divided among `workers`. Threads start at once and share the weights: the better choice
    unless many small operations fight for the interpreter, which processes do not share.
    Processes import the script that calls this, so it guards what it runs: if __name__ == "__main__".
    Raises EdgelibError for an unknown executor, a script without that guard, and when a process dies; what a task
    raises reaches the caller.
    """
    choose(dict.fromkeys(EXECUTORS), executor, "executor")
    if executor == "serial":
        yield from (work(shared, *task) for task in tasks)
    elif tasks and executor == "thread":
        yield from _in_threads(work, tasks, shared, min(workers, len(tasks)))
    elif tasks:
        yield from _in_processes(work, tasks, shared, workers)


def _in_threads(work: Callable, tasks: Sequence[tuple], shared: Any, workers: int) -> Iterator:
    threads, own = torch.get_num_threads(), threading.local()
    copies = [shared.for_thread() for _ in range(workers)]

    def start() -> None:
        torch.set_num_threads(max(1, threads // workers))
        own.shared = copies.pop()

    def run(task: tuple) -> object:
        return work(own.shared, *task)

    pool = futures.ThreadPoolExecutor(workers, "tasks", initializer=start)
    try:
        for done in futures.as_completed([pool.submit(run, task) for task in tasks]):
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # this thread kept its number; threads started later would not


def _in_processes(work: Callable, tasks: Sequence[tuple], shared: object, workers: int) -> Iterator:
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that is importing the script
        raise EdgelibError(_UNGUARDED)
    context = torch.multiprocessing.get_context("spawn")  # torch's: weights and images travel as shared memory
    started = context.Event()
    pool = futures.ProcessPoolExecutor(
        min(workers, len(tasks)),
        context,
        initializer=_start,
        initargs=(shared, max(1, torch.get_num_threads() // workers), started),
    )
    try:
        for done in futures.as_completed([pool.submit(_call, work, task) for task in tasks]):
            yield done.result()
    except futures.process.BrokenProcessPool:
        raise EdgelibError(_DIED if started.is_set() else _UNGUARDED) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_DIED = (
    "a worker process died (often: out of memory); finished cells are stored, so the same command goes on from there; "
    "use fewer workers or executor serial"
)
_UNGUARDED = (
    "the worker processes ended before they could begin: each imports the script that was started, so it must be a "
    "file that runs its work under 'if __name__ == \"__main__\":' alone; guard it, or use executor thread or serial "
    "(a guarded script whose models fill the memory ends like this, too: use fewer workers)"
)
_WORKER: dict = {}  # what the initializer leaves for the tasks of a worker process


def _start(shared: object, threads: int, started: Any) -> None:
    started.set()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _WORKER["shared"] = shared


def _call(work: Callable, task: tuple) -> object:
    return work(_WORKER["shared"], *task)


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and each holds copies of the models."""
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
