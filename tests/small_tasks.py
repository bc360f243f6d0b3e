"""Tasks for the executors that import next to nothing: a new process is ready for them once it has torch."""

import os
import signal
import time
from dataclasses import dataclass

from edgelib.errors import EdgelibError


@dataclass
class Shared:
    """What all tasks need: a factor."""

    factor: int

    def prepare(self) -> None:
        """Nothing is costly; raises EdgelibError for the factor 13."""
        if self.factor == 13:
            raise EdgelibError("nothing can be multiplied by 13")

    def for_thread(self) -> "Shared":
        """This very object: tasks do not change it."""
        return self


def multiply(shared: Shared, number: int) -> int:
    """Return number times the factor; raises EdgelibError for 0."""
    if number == 0:
        raise EdgelibError("cannot multiply by 0; choose another number")
    return shared.factor * number


def die(shared: Shared, status: int) -> None:
    """End this process at once, as the system does when memory runs out."""
    os._exit(status)


def die_once(shared: Shared, folder: str, number: int) -> int:
    """Multiply, but end this process by SIGKILL where `folder` says that nobody did so for this number yet."""
    try:
        os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return shared.factor * number
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def sleep_once(shared: Shared, folder: str, number: int) -> int:
    """Multiply; the first time that 4 is asked for, be silent for an hour before."""
    try:
        if number == 4:
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
            time.sleep(3600)
    except FileExistsError:
        pass
    return shared.factor * number


def variable(shared: Shared, name: str) -> str:
    """A variable of the worker's environment."""
    return os.environ[name]
