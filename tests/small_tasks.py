"""Tasks for the executors that import next to nothing: a new process is ready for them once it has torch."""

import os
from dataclasses import dataclass

from edgelib.errors import EdgelibError


@dataclass
class Shared:
    """What all tasks need: a factor."""

    factor: int

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
