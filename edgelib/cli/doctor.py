"""`edgelib doctor`: what is installed here, what a model is and can do here, and the fix for each fault."""

from __future__ import annotations

import shutil
import warnings
from typing import Annotated

import typer

from edgelib.cli.base import app, one_paragraph


@app.command()
@one_paragraph
def doctor(
    models: Annotated[list[str] | None, typer.Argument(help="Embedded names, folders or hub ids to examine.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, to report or to read by a program.")
    ] = False,
    weights: Annotated[bool, typer.Option(help="Read and run each model, not its configuration alone.")] = True,
    results: Annotated[str, typer.Option(help="Folder for outcomes, as chapters take it.")] = "results",
) -> None:
    """Examine this machine and models; nothing is downloaded or changed. The first thing to run when something fails.

    Exit status 1 where something that was asked for cannot work; the fix stands beside each fault.
    """
    from edgelib.ground.quiet import quiet_libraries

    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about themselves
        from edgelib.doctor.environment import environment

        here = environment(results)
        examined = [_examined(name, weights) for name in models or []]
        from edgelib.doctor import page

    width = min(max(60, shutil.get_terminal_size((120, 24)).columns), 140)
    print(page.as_json(here, examined) if as_json else page.as_text(here, examined, width))
    if page.faults(here, examined):
        raise typer.Exit(1)


def _examined(name: str, weights: bool):
    from edgelib.doctor.models import examine

    return examine(name, weights=weights)
