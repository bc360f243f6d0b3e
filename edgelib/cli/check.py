"""`edgelib check`: what a parameter file leads to, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgelib.chapters.params import check as checked
from edgelib.chapters.table import CHAPTERS, read
from edgelib.cli.base import Over, app, one_paragraph


@app.command()
@one_paragraph
def check(
    file: Annotated[Path, typer.Argument(help="Parameter file, named after its chapter.")],
    chapter: Annotated[str | None, typer.Option(help="Chapter, where the file is not named after it.")] = None,
    over: Over = "",
) -> None:
    """Validate a parameter file, look at the models and data that it names here, and print every value it leads to."""
    name, values = read(file, chapter, over)
    parameters = checked(values, CHAPTERS[name])
    parameters.look()
    for field, value in parameters.model_dump().items():
        print(f"{field}: {value!r}" + ("" if field in values else "  # default"))
    print(f"{file} is valid for the chapter {name}; run it: edgelib publish {name} --params-dir {file.parent}")
