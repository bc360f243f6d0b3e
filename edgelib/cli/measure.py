"""`edgelib measure`: time models on this machine, with every kernel that is installed."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from edgelib.cli.base import app, one_paragraph
from edgelib.errors import EdgelibError, choose


@app.command()
@one_paragraph
def measure(
    out: Annotated[Path, typer.Argument(help="Folder for the tables; chapters take it as `measurements`.")],
    suite: Annotated[str, typer.Option(help="full (tens of minutes) or quick.")] = "full",
    threads: Annotated[int | None, typer.Option(help="Threads to measure with; all cores where none is named.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the machine in the book.")] = None,
) -> None:
    """Time models of public dimensions on this machine, with every kernel that is installed.

    Started again after it was stopped, it goes on from the last case that was done.
    """
    import torch

    from edgelib.devices.machine import BUSY
    from edgelib.devices.measurements import save_measurements
    from edgelib.study import machine as measuring
    from edgelib.study.store import CellStore

    cases = choose(measuring.SUITES, suite, "suite")
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise EdgelibError(f"threads must be at least 1 and at most {cores}, the cores of this machine, got {threads}")
    torch.set_num_threads(threads or cores)
    store = CellStore(out / "unfinished")
    measured = measuring.measure_machine(cases, name=name, store=store, report=functools.partial(print, flush=True))
    folder = save_measurements(measured, out)
    shutil.rmtree(out / "unfinished")  # every case is in the tables now
    others = measured.machine["others"]
    print(
        f"measured {measured.machine['name']} into {folder}; other programs took {others:.1%} of its time"
        + ("; measure again when it is quiet" if others > BUSY else "")
    )
