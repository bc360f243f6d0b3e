"""`edgelib nature`: hold a real decoder against the outlier twins, into a folder of tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgelib.cli.base import app, one_paragraph
from edgelib.errors import EdgelibError


@app.command()
@one_paragraph
def nature(
    decoder: Annotated[str, typer.Argument(help="A decoder of text: a folder of transformers, a hub id, a GGUF file.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables; the book's stands in book/reference/nature.")],
    model: Annotated[str, typer.Option(help="The model whose twins are compared.")] = "scenes-vlm",
    passages: Annotated[int, typer.Option(help="Test passages of 256 tokens, at most 44.")] = 44,
    calibration: Annotated[int, typer.Option(help="Calibration passages, at most 36.")] = 36,
    images: Annotated[int, typer.Option(help="Images that the twins are asked about.")] = 24,
    twins: Annotated[str | None, typer.Option(help="Twins by commas, as in plain,activation:8+spike:16.")] = None,
    schemes: Annotated[
        str | None, typer.Option(help="Schemes by commas, or none; the published ones by default.")
    ] = None,
    caches: Annotated[str | None, typer.Option(help="Key-value caches by commas, or none.")] = None,
    graft: Annotated[Path | None, typer.Option(help="A model with this decoder, as edgelib graft writes it.")] = None,
    chapters: Annotated[
        Path | None, typer.Option(help="Folder where vlm_accuracy and fp8_kv_ablation saved tables of --graft.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the page that reads these tables, as MyST.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the twins' channels and of the images.")] = 0,
) -> None:
    """Compare a decoder's states and its ranking of methods with those of the twins, and its key-value caches.

    Started again after it was stopped, it goes on from the last cell that was done.
    """
    from edgelib.report.nature.page import page as page_of
    from edgelib.study.nature.chapters import keep_chapters, read_chapters
    from edgelib.study.nature.run import Nature, measure

    if (graft is None) != (chapters is None):
        raise EdgelibError("--graft and --chapters go together: the model, and the folder of its chapters' tables")
    kept = read_chapters(chapters, graft) if graft is not None and chapters is not None else {}
    given = {"twins": twins, "schemes": schemes, "caches": caches}
    lists: dict[str, Any] = {name: _listed(text) for name, text in given.items() if text is not None}
    asked = Nature(decoder, model, passages=passages, calibration=calibration, images=images, seed=seed)
    asked = replace(asked, **lists)
    folder = measure(asked, out, report=lambda line: print(line, file=sys.stderr, flush=True))
    print(f"wrote the tables of {decoder} against the twins of {model} into {folder}")
    keep_chapters(kept, folder)
    if page is not None:
        page.write_text(page_of(folder), encoding="utf-8")
        print(f"wrote the page {page}")


def _listed(text: str) -> tuple[str, ...]:
    return () if text.strip() == "none" else tuple(part.strip() for part in text.split(","))
