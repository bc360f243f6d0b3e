"""Workers that are actors of a Ray cluster: more machines and shares of GPUs behind the same call."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.study.executors.attempt import RAISED, attempt, portable
from edgelib.study.executors.dispatch import DIED, READY, STARTED, Engine

_OBJECTS = 256 * 2**20  # bytes of shared memory of a cluster of this machine: models and images pass through it once


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster, and what one worker asks of it.

    address: "auto", "host:6379" or "ray://host:10001"; None takes RAY_ADDRESS, else a cluster of this process alone.
    cpus, gpus: of one worker; a share of a GPU lets several small configurations use one. Raises EdgelibError for
    shares that are no numbers of zero or more, or none at all.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self):
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if not 0 <= value < float("inf"):
                raise EdgelibError(f"{name} of a worker must be a number of at least 0, got {value!r}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise EdgelibError(f"gpus of a worker must be a share of one or a whole number, got {self.gpus}")
        if not self.cpus and not self.gpus:
            raise EdgelibError("a worker needs cpus or gpus above 0; give it one of them")

    @property
    def where(self) -> str | None:
        """The address that is meant, None for a cluster of this process alone."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address


class Actors(Engine):
    """Ray actors, each with the models in its memory; a dead node's work goes to whoever is left."""

    waits = True
    lost = (
        "a Ray worker died (often: out of memory, or its machine left); finished cells are stored, so the same command "
        "goes on from there; use fewer workers, or give each more cpus"
    )

    def __init__(self, shared: Any, threads: int, workers: int, cluster: Cluster):
        self._ray, self._ours = _connected(cluster, workers)
        self._shared, self._threads = self._ray.put(shared), threads
        options = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._actor = self._ray.remote(_Actor).options(**options)

    def hire(self) -> _Seat:
        """Ask for one actor; the cluster starts it when there is room."""
        seat = _Seat(self._actor.remote(self._threads))
        seat.reference = seat.actor.prepare.remote(self._shared)
        return seat

    def give(self, worker: _Seat, work: Callable, task: tuple) -> None:
        """Send one task."""
        worker.reference = worker.actor.run.remote(work, task)

    def events(self, workers: Sequence[_Seat], timeout: float) -> list[tuple[_Seat, str, Any]]:
        """Answers and ends of actors."""
        pending = {w.reference: w for w in workers if w.reference is not None}
        if not pending:
            time.sleep(timeout)
            return []
        self._ray.wait(list(pending), num_returns=1, timeout=timeout)
        ready, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)  # all that are there by now
        found: list[tuple[_Seat, str, Any]] = []
        for reference in ready:
            worker = pending[reference]
            worker.reference = None
            try:
                word, value = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # what could not even be sent
                word, value = RAISED, portable(error.cause if isinstance(error.cause, Exception) else error)
            except self._ray.exceptions.RayError as error:
                found.append((worker, DIED, f"its Ray worker was lost ({type(error).__name__})"))
                continue
            if word == READY:
                found.append((worker, STARTED, None))
            found.append((worker, word, value))
        return found

    def dismiss(self, worker: _Seat) -> None:
        """Kill one actor."""
        try:
            self._ray.kill(worker.actor, no_restart=True)
        except Exception:  # a cluster that is gone has no actors
            pass

    def close(self, workers: Sequence[_Seat]) -> None:
        """Kill the actors, and the cluster where it was made here."""
        super().close(workers)
        if self._ours:
            self._ray.shutdown()


class _Seat:
    """An actor and the answer that is awaited of it."""

    def __init__(self, actor: Any):
        self.actor, self.reference = actor, None


class _Actor:
    """What runs on the cluster: one process with the models in its memory."""

    def __init__(self, threads: int):
        import torch

        torch.set_num_threads(threads)
        self._shared = None

    def prepare(self, shared: Any) -> tuple[str, Any]:
        """Build the models."""
        self._shared = shared
        try:
            shared.prepare()
        except Exception as error:
            return RAISED, portable(error)
        return READY, None

    def run(self, work: Callable, task: tuple) -> tuple[str, Any]:
        """Try one task."""
        return attempt(work, self._shared, task)


@contextmanager
def _own_imports() -> Iterator[None]:
    """Let processes that start inside find what this one can import, as spawned ones do."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def require_ray() -> Any:
    """Return the module ray. Raises EdgelibError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise EdgelibError(
            "executor ray needs the package ray; install it: pip install 'edgelib[ray]', or use executor process"
        ) from None
    return ray


def _connected(cluster: Cluster, workers: int) -> tuple[Any, bool]:
    """The module ray, connected, and whether the connection was made here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # the default to come, which Ray warns about until somebody chooses it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = require_ray()
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if cluster.where:
            ray.init(address=cluster.where, **quiet)
        else:
            size: dict[str, Any] = {
                "num_cpus": math.ceil(max(1, workers * cluster.cpus)),
                "object_store_memory": _OBJECTS,
            }
            with _own_imports():
                ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **size, **quiet)
    except Exception as error:  # each way to fail has its own
        raise EdgelibError(
            f"no Ray cluster at {cluster.where or 'this machine'} ({error}); start one with 'ray start --head', name "
            "it with --address or RAY_ADDRESS, or use executor process"
        ) from None
    return ray, True
