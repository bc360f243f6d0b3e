"""A progress bar with remaining time, written to the terminal and never into a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, unit: str, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of finished units.

    In a Jupyter kernel the bar goes to the controlling terminal, if there is one: an executed notebook must not depend
    on how long it took.
    """
    from tqdm import tqdm

    stream, opened = sys.stderr, None
    if "ipykernel" in sys.modules:
        try:
            stream = opened = open("/dev/tty", "w")
        except OSError:
            shown = False
    try:
        with tqdm(total=total, unit=unit, file=stream, disable=not shown, dynamic_ncols=True, smoothing=0.05) as bar:
            yield bar.update
    finally:
        if opened:
            opened.close()
