"""`edgelib measure`: time models on this machine, with every kernel that is installed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgelib.cli.base import app, one_paragraph
from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.ground.records import shown as quoted

if TYPE_CHECKING:
    from edgelib.devices.measurements import Measurements
    from edgelib.study.machine import Suite
    from edgelib.study.timing.asked import Asked, Case

_MOST_BATCHES, _LARGEST_BATCH = 8, 4096


@app.command()
@one_paragraph
def measure(
    out: Annotated[Path, typer.Argument(help="Folder for the tables; chapters take it as `measurements`.")],
    model: Annotated[
        str | None, typer.Option(help="A model of your own to time: a folder, hub id or embedded name.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="What it is shown: a folder, or sizes in pixels such as 224,448x672.")
    ] = None,
    kernels: Annotated[str | None, typer.Option(help="Kernels, by commas; all that are installed by default.")] = None,
    batch: Annotated[str | None, typer.Option(help="Images or answers at a time, such as 1,4.")] = None,
    suite: Annotated[str, typer.Option(help="full (tens of minutes) or quick (minutes).")] = "full",
    threads: Annotated[int | None, typer.Option(help="Threads to measure with; all cores where none is named.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the machine in the book.")] = None,
    llama_cpp: Annotated[
        bool,
        typer.Option("--llama-cpp", help="Time llama.cpp alone: speed by file and cache, first tokens."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cases and what they may take, and end.")
    ] = False,
) -> None:
    """Time a model of your own, or models of public dimensions, on this machine, with every kernel that is installed.

    Started again after it was stopped, it goes on from the last case that was done.
    """
    import torch

    from edgelib.devices.machine import BUSY
    from edgelib.devices.measurements import save_measurements
    from edgelib.study.machine import SUITES

    cases = choose(SUITES, suite, "suite")
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise EdgelibError(f"threads must be at least 1 and at most {cores}, the cores of this machine, got {threads}")
    torch.set_num_threads(threads or cores)
    _check_folder(out)
    if llama_cpp:
        given = {"images": images, "kernels": kernels, "batch": batch, "dry-run": dry_run or None}
        _llama_cpp(out, model, name, [option for option, value in given.items() if value is not None])
        return
    if model is None:
        measured = _public(cases, out, name, images, kernels, batch, dry_run)
    else:
        measured = _own(_asked(model, images, kernels, batch, cases, suite), out, name, dry_run)
    if measured is None:
        return
    folder = save_measurements(measured, out)
    shutil.rmtree(out / "unfinished", ignore_errors=True)  # every case is in the tables now
    others = measured.machine["others"]
    print(
        f"measured {measured.machine['name']} into {folder}; other programs took {others:.1%} of its time"
        + ("; measure again when it is quiet" if others > BUSY else "")
    )


def _llama_cpp(out: Path, model: str | None, name: str | None, others: list[str]) -> None:
    """The engine on a model's decoder, or on one of public dimensions; other options have no meaning for it."""
    if others:
        raise EdgelibError(f"--llama-cpp times a decoder alone, without --{others[0]}; leave --{others[0]} out")
    from edgelib.devices.machine import BUSY
    from edgelib.models.load import load
    from edgelib.study.engine.measure import measure_engine
    from edgelib.study.engine.times import engine_times
    from edgelib.study.store import CellStore

    loaded, kept = None if model is None else load(model), out / "unfinished"
    path = measure_engine(out, loaded, name=name, files=kept, store=CellStore(kept), report=_tell)
    shutil.rmtree(kept, ignore_errors=True)  # every case is in the tables now
    busy = float(engine_times(out)["others"].iloc[0])
    print(
        f"measured llama.cpp into {path}, which the chapter edge_engines takes by engine_times: {out}; other programs "
        f"took {busy:.1%} of the time" + ("; measure again when the machine is quiet" if busy > BUSY else "")
    )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise EdgelibError(f"{out} is a file, and the tables need a folder; name one that is there or not yet")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _public(
    cases: Suite,
    out: Path,
    name: str | None,
    images: str | None,
    kernels: str | None,
    batch: str | None,
    dry_run: bool,
) -> Measurements | None:
    """Models of public dimensions; the options of a model of one's own have no meaning for them."""
    from edgelib.study.machine import case_names, measure_machine, some_runners
    from edgelib.study.store import CellStore

    for option, value in (("images", images), ("batch", batch)):
        if value is not None:
            raise EdgelibError(f"--{option} is of a model of your own: name it by --model, or leave --{option} out")
    runners = some_runners(None if kernels is None else _kernels(kernels))
    if dry_run:
        for case in case_names(cases, runners):
            print(case)
        print("their times are not known before they are measured; --model predicts those of a loaded model")
        return None
    return measure_machine(cases, runners, name=name, store=CellStore(out / "unfinished"), report=_tell)


def _own(asked: Asked, out: Path, name: str | None, dry_run: bool) -> Measurements | None:
    from edgelib.study.store import CellStore
    from edgelib.study.timing.own import measure_model, predicted
    from edgelib.study.timing.session import Progress, clock_text

    if dry_run:
        found = predicted(asked)
        for case in found:
            print(f"{clock_text(case.seconds):>8}  {case.what}")
        print(f"{clock_text(sum(case.seconds for case in found)):>8}  together, and the kernels have to be built")
        return None
    progress = Progress({}, _tell)

    def planned(found: list[Case]) -> None:
        progress.predicted = {case.what: case.seconds for case in found}

    store = CellStore(out / "unfinished")
    return measure_model(asked, name=name, store=store, report=progress, planned=planned)


def _asked(model: str, images: str | None, kernels: str | None, batch: str | None, suite: Suite, named: str) -> Asked:
    """What the options ask for, every one of them checked, the model loaded last because it takes longest."""
    from edgelib.models.load import load
    from edgelib.study.timing.asked import Asked, check, usual_images
    from edgelib.study.timing.shown import shown

    batches = _batches(batch) if batch is not None else ((1,) if named == "quick" else (1, 4))
    chosen = _kernels(kernels)
    pictures = None if images is None else shown(images, max(batches))
    loaded = load(model)
    pictures = usual_images(loaded, suite, max(batches)) if pictures is None else pictures
    asked = Asked(loaded, chosen, batches, pictures, suite)
    check(asked)
    return asked


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    plain = [part for part in parts if re.fullmatch("[1-9][0-9]{0,4}", part) and int(part) <= _LARGEST_BATCH]
    if plain != parts or len(parts) > _MOST_BATCHES or len(set(parts)) < len(parts):
        raise EdgelibError(
            f"batch must be up to {_MOST_BATCHES} different whole numbers from 1 to {_LARGEST_BATCH} with commas "
            f"between them, such as 1,4; got {quoted(text)}"
        )
    return tuple(int(part) for part in parts)


def _kernels(text: str | None) -> tuple[str, ...]:
    """Names of kernels, those of torch in 32 bits first because the others are compared with it."""
    from edgelib.kernels.table import KERNELS, why_not

    able = [name for name, kernel in KERNELS.items() if kernel.timed and not kernel.cuda and not why_not(kernel)]
    if text is None:
        return tuple(able)
    wanted = [part.strip() for part in text.split(",")]
    for name in wanted:
        reason = (
            why_not(KERNELS[name]) if name in KERNELS else f"there is none of this name{did_you_mean(name, KERNELS)}"
        )
        if not reason and KERNELS[name].cuda:
            reason = "it needs a CUDA device, and models are timed on the processor"
        if reason:
            raise EdgelibError(f"kernel {name!r} cannot be timed: {reason}; those that run here are {', '.join(able)}")
    return tuple(dict.fromkeys(("torch-fp32", *wanted)))
