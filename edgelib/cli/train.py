"""`edgelib train`: train an embedded model from scratch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from edgelib.cli.base import app, one_paragraph
from edgelib.errors import choose
from edgelib.ground.checks import seed_number


@app.command()
@one_paragraph
def train(
    name: Annotated[str, typer.Argument(help="Embedded model: scenes-clip, scenes-vit or scenes-vlm.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the trained model; results/<name> if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and their order.")] = 0,
) -> None:
    """Train an embedded model from scratch; tens of minutes on two cores."""
    from edgelib.train.table import TRAINERS

    trainer, recipe = choose(TRAINERS, name, "embedded model")
    seed = seed_number(seed)
    out = out or Path("results") / name
    trainer(out, recipe(seed=seed), report=functools.partial(print, flush=True))
    print(f"trained model in {out}; use it by its path, as in edgelib.load({str(out)!r})")
