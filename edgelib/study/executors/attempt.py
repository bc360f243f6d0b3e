"""One try at a task inside a worker: its value, or its error in a form that travels."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any, Protocol

DONE, RAISED = "done", "raised"
_FATAL = ("CUDA error", "device-side assert", "cuDNN error", "CUBLAS_STATUS_EXECUTION_FAILED")


class Shared(Protocol):
    """What all tasks need: each process and actor gets a copy of it once, each thread what `for_thread` returns."""

    def prepare(self) -> object:
        """Build what is costly, before the first task comes."""

    def for_thread(self) -> Shared:
        """One for one more thread of this process; called before the thread starts."""


def attempt(work: Callable, shared: Any, task: tuple) -> tuple[str, Any]:
    """(DONE, work(shared, *task)) or (RAISED, the error).

    After a fatal error of a GPU nothing works in a process any more: it ends, and whoever gave the task starts another.
    """
    try:
        return DONE, work(shared, *task)
    except Exception as error:
        if any(text in str(error) for text in _FATAL):
            os._exit(70)
        return RAISED, portable(error)


def portable(error: BaseException) -> BaseException:
    """The error itself where it can travel between processes, else one of the same text."""
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error.with_traceback(None)
