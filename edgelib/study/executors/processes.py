"""Workers that are processes of this machine, each with a copy of the models and a share of torch's threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from typing import Any

import torch
import torch.multiprocessing

from edgelib.errors import EdgelibError
from edgelib.study.executors.attempt import RAISED, attempt, portable
from edgelib.study.executors.dispatch import DIED, READY, STARTED, Engine

# Libraries of other systems do not survive a fork.
FORKS = sys.platform == "linux"


class Processes(Engine):
    """Processes that end with their parent, however that ends.

    Raises EdgelibError inside a worker that imports a script without a guard.
    """

    lost = (
        "a worker process died (often: out of memory); finished cells are stored, so the same command goes on from "
        "there; use fewer workers or executor serial"
    )
    unborn = (
        "the worker processes ended before they could begin: each imports the script that was started, so it must be a "
        "file that runs its work under 'if __name__ == \"__main__\":' alone; guard it, or use executor thread or "
        "serial (a guarded script whose models fill the memory ends like this, too: use fewer workers)"
    )

    def __init__(self, shared: Any, threads: int):
        if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that is importing the script
            raise EdgelibError(self.unborn)
        # weights and images travel as shared memory
        self._context = torch.multiprocessing.get_context("forkserver" if FORKS else "spawn")
        if FORKS:
            self._context.set_forkserver_preload(_imported())
        self._arguments = (shared, threads, dict(os.environ))

    def hire(self) -> _Hand:
        """Start one process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        try:
            process.start()
        except BrokenPipeError:  # it ended before it had read what it is for
            raise EdgelibError(self.unborn) from None
        theirs.close()
        return _Hand(process, ours)

    def give(self, worker: _Hand, work: Callable, task: tuple) -> None:
        """Send one task; a worker that is gone by now says so through its end."""
        try:
            worker.pipe.send((work, task))
        except OSError:
            pass

    def events(self, workers: Sequence[_Hand], timeout: float) -> list[tuple[_Hand, str, Any]]:
        """Messages of workers, then ends of workers that left nothing to read."""
        by_handle = {w.pipe: w for w in workers} | {w.process.sentinel: w for w in workers}
        ready = {id(w): w for w in (by_handle[h] for h in connection.wait(list(by_handle), timeout))}
        found = []
        for worker in ready.values():
            try:
                while worker.pipe.poll():
                    found.append((worker, *worker.pipe.recv()))
            except (EOFError, OSError):
                found.append((worker, DIED, _end_of(worker.process)))
        return found

    def dismiss(self, worker: _Hand) -> None:
        """Kill one process and wait until it is gone."""
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _imported() -> list[str]:
    """What a process imports that then only forks: workers start in a blink and share these pages.

    The modules of edgelib that are loaded here, and those of transformers that define the models in use.
    """
    return sorted(
        name for name in list(sys.modules) if name.startswith("edgelib.") or name.startswith("transformers.models.")
    )


class _Hand:
    """A process and this side of its pipe."""

    def __init__(self, process: Any, pipe: Any):
        self.process, self.pipe = process, pipe


def _end_of(process: Any) -> str:
    process.join(5)
    code = process.exitcode
    if code is not None and code < 0:
        return f"its worker process was ended by signal {-code}"
    return f"its worker process ended with status {code}"


def _serve(pipe: Any, shared: Any, threads: int, environment: Mapping[str, str]) -> None:
    """A worker's life: prepare, then one task after the other until the pipe closes.

    environment: that of the parent now, which the process that forks does not see.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it ends workers when it is interrupted
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pipe.send((STARTED, os.getpid()))
    torch.set_num_threads(threads)
    try:
        shared.prepare()
    except Exception as error:
        pipe.send((RAISED, portable(error)))
        return
    pipe.send((READY, None))
    while True:
        try:
            work, task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(work, shared, task))


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and each holds copies of the models."""
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
