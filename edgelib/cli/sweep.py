"""`edgelib sweep`: the grid of a chapter without its notebook, on this machine or on a cluster."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgelib.chapters.params import check as checked
from edgelib.chapters.table import read, studies
from edgelib.cli.base import Over, app, one_paragraph
from edgelib.errors import EdgelibError, choose

ENDINGS: dict[str, Callable] = {
    ".csv": lambda rows, path: rows.to_csv(path, index=False),
    ".json": lambda rows, path: rows.to_json(path, orient="records", lines=False, force_ascii=False),
    ".parquet": lambda rows, path: rows.to_parquet(path, index=False),
}


@app.command()
@one_paragraph
def sweep(
    file: Annotated[Path, typer.Argument(help="Parameter file, named after its chapter.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the outcomes, one row per item and cell: .csv, .json or .parquet.")
    ] = None,
    chapter: Annotated[
        str | None, typer.Option(help=f"Chapter, where the file is not named after it: {', '.join(studies())}.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="serial, thread, process or ray, over the file's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads, processes or actors, over the file's.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, such as auto or host:6379; RAY_ADDRESS, else this machine.")
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs of one Ray worker; 0.25 lets four share one.")] = 0.0,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL of cells, such as s3://bucket/run; the file's `results`.")
    ] = None,
    stop_early: Annotated[
        float | None,
        typer.Option(
            metavar="MARGIN",
            help="Leave each configuration once it is known whether it loses at most this share of corrupted images, "
            "such as 0.02. Its outcomes are stored apart and are not complete cells.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it will take, for each executor.")] = False,
    over: Over = "",
) -> None:
    """Run the grid of a chapter without a notebook; started again, it computes only what is missing."""
    name = file.stem if chapter is None else chapter
    if out is not None:
        choose(ENDINGS, out.suffix, f"ending of {str(out)!r}")
    schema = choose(studies(), name, "chapter with a grid")
    given = {key: value for key, value in (("executor", executor), ("workers", workers)) if value is not None}
    parameters: Any = checked(read(file, name, over)[1] | given, schema)
    if parameters.executor != "ray" and (address is not None or gpus):
        raise EdgelibError("--address and --gpus are of Ray's workers; add --executor ray")
    from edgelib.ground.paths import find_root
    from edgelib.study.executors import Cluster
    from edgelib.study.store import CellStore
    from edgelib.study.sweep import sweep as run

    results = store or parameters.results
    here = "://" not in results
    place = find_root() / os.path.expanduser(results) if here else results
    cluster = Cluster(address, gpus=gpus) if parameters.executor == "ray" else None
    with _stoppable(), _notes():
        study, cells = parameters.study(), CellStore(place)
        if dry_run:
            _forecast(study, cells, parameters.workers)
            return
        how: dict[str, Any] = {"executor": parameters.executor, "workers": parameters.workers, "cluster": cluster}
        if stop_early is None:
            rows, told, shown = _complete(study, run(study, cells, **how))
        else:
            rows, told, shown = _stopped(study, cells, stop_early, parameters.level, how)
    kept = "" if stop_early is None else ".stopped"  # never in the place of a complete table
    out = out or (Path(place) if here else find_root() / "results") / "sweeps" / f"{file.stem}{kept}.parquet"
    summary = _write(out, rows, told, name, parameters.provenance())
    print(f"{shown}, also in {summary}; {len(rows)} outcomes in {out}")


def _complete(study: Any, rows: Any) -> tuple[Any, dict, str]:
    """The scored rows of a complete grid, what its summary tells beside their origin, and what is printed."""
    rows = study.score(rows)
    marks = list(study.columns(*next(iter(study.cells()))))
    score = "correct" if "correct" in rows else "score"
    means = rows.groupby([mark for mark in marks if mark != "corruption"], sort=False)[score].mean()
    table = means.unstack("severity") if "severity" in marks else means.to_frame()
    clean = ", severity 0 is clean" if "severity" in marks else ""
    told = {"score": score, "kind": "simulated", "means": means.reset_index(name="mean").to_dict("records")}
    return rows, told, f"{table.round(3).to_string()}\nsimulated mean of {score!r}{clean}"


def _stopped(study: Any, cells: Any, margin: float, level: float, how: dict) -> tuple[Any, dict, str]:
    """The same of a grid whose configurations were left once it was known whether they keep a margin."""
    from edgelib.study.classifier_grid import ClassifierGrid
    from edgelib.study.early.settle import sweep_until_settled

    if not isinstance(study, ClassifierGrid):
        raise EdgelibError("--stop-early is for grids of models that classify images; leave it out for this chapter")
    table, rows = sweep_until_settled(study, cells, margin, level=level, **how)
    told = {"kind": "simulated", "stop_early": {"margin": margin, "level": level}, "verdicts": table.to_dict("records")}
    shown = table.drop(columns="stopped").round(4).to_string(index=False)
    return (
        rows,
        told,
        f"{shown}\nsimulated verdicts on a loss of at most {margin:g}, together those of the complete grid with "
        f"probability {level:g}; {int(table['stopped'].sum())} of {len(table)} configurations were stopped early, "
        "after n outcomes of as many as column 'of' says: theirs are no complete cells",
    )


def _forecast(study: Any, cells: Any, workers: int) -> None:
    from edgelib.study.plan.forecast import forecast

    table = forecast(study, cells, workers=workers)
    timed = table["seconds"].notna()
    shown = table[["executor", "workers", "cells", "missing"]].assign(
        seconds=[f"{s:.1f}" for s in table["seconds"]],
        at_least=[f"{s:.1f}" for s in table["at_least"]],
        longest=[f"{s:.1f}" for s in table["longest"]],
        memory=[f"{b / 2**20:.0f} MiB" for b in table["memory"]],
        stored=[f"{b / 2**20:.2f} MiB" for b in table["stored"]],
        binds=[
            f"{name}, {share:.0%}" if name else "-" for name, share in zip(table["binds"], table["share"], strict=True)
        ],
    )
    print(shown.to_string(index=False))
    unknown = "" if timed.all() else "; nan: cells of this grid cannot be tried in part"
    print(
        f"projected from a small sample on this machine{unknown}; longest: the longest task; at_least: no order of "
        "tasks is quicker; a worker of ray counts as one more core like this one's; nothing was stored, drop --dry-run "
        "to begin"
    )


def _write(out: Path, rows: Any, told: dict, name: str, provenance: dict) -> Path:
    """Write the rows and, beside them, where they came from and what was made of them; return the second path."""
    from edgelib.ground.paths import whole_file

    rows = rows.drop(columns="reference", errors="ignore")  # the answers that were right: of several types
    rows.attrs["provenance"] = provenance  # goes into the metadata of a .parquet
    about = {"chapter": name, **provenance, "outcomes": len(rows), "columns": list(rows.columns)} | told
    with whole_file(out) as path:
        ENDINGS[out.suffix](rows, path)
    with whole_file(summary := out.with_suffix(".summary.json")) as path:
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return summary


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what runs inside as Ctrl-C does: children are ended, the command says how to go on."""
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    wanted = [number for number in wanted if signal.getsignal(number) == signal.SIG_DFL]  # nohup ignores one of them
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    before = {number: signal.signal(number, signal.default_int_handler) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _notes() -> Iterator[None]:
    """Show a warning as one line, whatever else is done with warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"edgelib: note: {message}", file=sys.stderr)
        yield
