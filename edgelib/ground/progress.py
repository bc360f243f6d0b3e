"""A progress bar with remaining time, written to the terminal or the log and never into a notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

IN_A_LOG = 10.0  # seconds between two lines where nobody watches


@contextmanager
def progress_bar(total: int, unit: str, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of finished units.

    In a Jupyter kernel the bar goes to the controlling terminal, else to the standard error that the kernel was started
    with, as by papermill from a script: an executed notebook must not depend on how long it took.
    """
    from tqdm import tqdm

    stream, opened = sys.stderr, None
    if "ipykernel" in sys.modules:
        stream = opened = _outside()
        shown = shown and opened is not None
    often = 0.1 if stream is not None and stream.isatty() else IN_A_LOG
    how: dict[str, Any] = {
        "file": stream,
        "disable": not shown,
        "dynamic_ncols": True,
        "smoothing": 0.05,
        "mininterval": often,
    }
    try:
        with tqdm(total=total, unit=unit, **how) as bar:
            yield bar.update
    finally:
        if opened:
            opened.close()


def _outside() -> TextIO | None:
    """The terminal of a kernel, else the standard error that it had before its own took the place; None without any."""
    try:
        return open("/dev/tty", "w")
    except OSError:
        pass
    kept = getattr(sys.stderr, "_original_stdstream_copy", 2)  # a kernel that watches number 2 keeps the old one here
    try:
        return os.fdopen(os.dup(kept), "w")
    except (OSError, TypeError):
        return None
