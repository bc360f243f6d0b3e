"""`edgelib sweep`: the grid of a chapter without its notebook."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from edgelib.chapters.params import check as checked
from edgelib.chapters.table import read, studies
from edgelib.cli.base import Over, app, one_paragraph
from edgelib.errors import choose


@app.command()
@one_paragraph
def sweep(
    file: Annotated[Path, typer.Argument(help="Parameter file, named after its chapter.")],
    out: Annotated[Path | None, typer.Option(help="Parquet file for the outcomes, one row per item and cell.")] = None,
    chapter: Annotated[
        str | None, typer.Option(help=f"Chapter, where the file is not named after it: {', '.join(studies())}.")
    ] = None,
    over: Over = "",
) -> None:
    """Run the grid of a chapter without a notebook; started again, it computes only what is missing."""
    name = file.stem if chapter is None else chapter
    schema = choose(studies(), name, "chapter with a grid")
    parameters: Any = checked(read(file, name, over)[1], schema)
    from edgelib.ground.paths import find_root
    from edgelib.study.store import CellStore
    from edgelib.study.sweep import sweep as run

    study = parameters.study()
    results = find_root() / os.path.expanduser(parameters.results)
    rows = study.score(run(study, CellStore(results), executor=parameters.executor, workers=parameters.workers))
    rows = rows.drop(columns="reference", errors="ignore")  # the answers that were right: of several types
    out = out or results / "sweeps" / f"{file.stem}.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(out, index=False)
    marks = list(study.columns(*next(iter(study.cells()))))
    score = "correct" if "correct" in rows else "score"
    means = rows.groupby([mark for mark in marks if mark != "corruption"], sort=False)[score].mean()
    print((means.unstack("severity") if "severity" in marks else means.to_frame()).round(3).to_string())
    clean = ", severity 0 is clean" if "severity" in marks else ""
    print(f"simulated mean of {score!r}{clean}; {len(rows)} outcomes in {out}")
