"""`edgelib publish`: execute the chapters that are stale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgelib.chapters.table import CHAPTERS, read
from edgelib.cli.base import app, one_paragraph
from edgelib.errors import EdgelibError, choose


@app.command()
@one_paragraph
def publish(
    chapters: Annotated[list[str] | None, typer.Argument(help="Chapters; all where none is named.")] = None,
    params_dir: Annotated[Path, typer.Option(help="Folder of <chapter>.yaml files.")] = Path("params"),
    results: Annotated[str | None, typer.Option(help="Folder for outcomes, in place of the parameter.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute fresh chapters too.")] = False,
) -> None:
    """Execute the chapters that are stale into book/chapters."""
    from edgelib.ground.paths import find_root
    from edgelib.report import publish as press

    root = find_root()
    folder = _existing_folder(params_dir, root)
    names = chapters or press.chapter_names(root)
    if not names:
        raise EdgelibError(f"there are no notebooks in {root / 'notebooks'}; run edgelib publish inside a checkout")
    extra = {} if results is None else {"results": results}
    wanted = [
        press.find_chapter(name, _parameters(name, folder, root) | extra, root, schema.sources(), schema.reads())
        for name in names
        for schema in [choose(CHAPTERS, name, "chapter")]
    ]
    press.publish_all(wanted, force=force)


def _existing_folder(params_dir: Path, root: Path) -> Path:
    """Return the folder as given, or under the checkout."""
    for folder in (params_dir, root / params_dir):
        if folder.is_dir():
            return folder
    raise EdgelibError(f"no folder {params_dir} with parameter files; make one, such as params/<model>")


def _parameters(chapter: str, folder: Path, root: Path) -> dict:
    """Return the chapter's parameters from `folder`, else its published ones."""
    candidates = [folder / f"{chapter}.yaml", root / "params" / f"{chapter}.yaml"]
    path = next((path for path in candidates if path.is_file()), candidates[-1])
    return read(path)[1]
