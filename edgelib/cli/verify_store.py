"""`edgelib verify-store`: whether stored cells are what they say they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgelib.chapters.params import check as checked
from edgelib.chapters.table import read, studies
from edgelib.cli.base import Over, app, one_paragraph
from edgelib.errors import EdgelibError, choose


@app.command("verify-store")
@one_paragraph
def verify_store(
    folder: Annotated[str, typer.Argument(help="Folder or URL of results, the `results` of a parameter file.")],
    recompute: Annotated[int, typer.Option(help="Stored cells, drawn at random, to compute again and compare.")] = 0,
    params: Annotated[Path | None, typer.Option(help="Parameter file of the grid whose cells are recomputed.")] = None,
    chapter: Annotated[str | None, typer.Option(help="Chapter, where the file is not named after it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    over: Over = "",
) -> None:
    """Read every cell and compare it with its digest, name and metadata; status 1 if one is not what it should be."""
    if recompute and params is None:
        raise EdgelibError("--recompute needs the grid whose cells it computes again; name its file with --params")
    study = None
    if params is not None:
        name = params.stem if chapter is None else chapter
        given: Any = checked(read(params, name, over)[1], choose(studies(), name, "chapter with a grid"))
        study = given.study()
    from edgelib.study.store import CellStore
    from edgelib.study.store import check as looking

    place = folder.rstrip("/")
    store = CellStore(place.removesuffix("/cells"), create=False)
    found = looking.check_store(store)
    for where, reason in found.damaged.items():
        print(f"damaged: {where}: {reason}")
    for where in found.leftovers:
        print(f"left behind by a run that was stopped, safe to remove when none runs: {where}")
    print(f"{found.cells} whole cells in {store.files.where('')}, {len(found.damaged)} damaged")
    different = 0
    if recompute and study is not None:
        again = looking.recompute(study, store, recompute, seed=seed)
        print(again.to_string(index=False))
        different = int((again["verdict"] == "different").sum())
        print(f"{len(again)} cells computed again, {different} different")
    if found.damaged or different:
        raise EdgelibError(
            f"{len(found.damaged)} damaged and {different} different cells; the next sweep computes damaged ones "
            "again, different ones when their files are removed"
        )
