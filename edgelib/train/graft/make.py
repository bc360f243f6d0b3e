"""Make a graft: find its halves, find or refine its connector, write the folder and where everything came from."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.checks import seed_number
from edgelib.ground.paths import whole_file
from edgelib.ground.progress import progress_bar
from edgelib.models.load import EMBEDDED
from edgelib.train.graft.assemble import build, save
from edgelib.train.graft.refine import GraftRecipe, Refinement, read_checkpoint
from edgelib.train.graft.sources import Decoder, Tower, read_decoder, read_tower, weights_digest
from edgelib.train.graft.squares import least_squares

CONNECTOR, RECORD = "connector.safetensors", "graft.json"
SHIPPED = "connectors"  # the folder of connectors beside the embedded models
_LAYERS = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")


def shipped_connectors() -> list[str]:
    """Names of the connectors that come with the package."""
    return sorted(file.stem for file in (EMBEDDED / SHIPPED).glob("*.safetensors"))


def graft(
    out: str | os.PathLike,
    *,
    decoder: str,
    vision: str = "scenes-clip",
    connector: str | None = None,
    minutes: float = 0.0,
    steps: int | None = None,
    recipe: GraftRecipe | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write a LLaVA of transformers to the folder `out` and return its record, which `out`/graft.json holds.

    decoder: as `edgelib.train.graft.sources.find_decoder` takes it; vision: a clip or siglip, by embedded name, folder
    or hub id. connector: one that ships (`shipped_connectors`) or a file of an earlier graft; None goes on with the one
    in `out`, else finds one by least squares. minutes, steps: how long, or up to which step, it is refined through the
    frozen decoder; 0 and None leave it as it is. A refinement that was stopped goes on where it was.
    The decoder's weights stay as they are. The weights after a number of steps depend on that number and the recipe,
    not on how often it was stopped; how many steps a time gives depends on the machine, and the record says how many.
    Raises EdgelibError for halves that cannot be read, a connector of others, and a time or a number below 0.
    """
    if not math.isfinite(minutes) or minutes < 0 or (steps is not None and steps < 0):
        raise EdgelibError(f"minutes must be 0 or more and steps too, got minutes={minutes!r} and steps={steps!r}")
    recipe, out = recipe or GraftRecipe(), Path(out)
    seed_number(recipe.seed)
    kept = out / CONNECTOR
    given = _connector_file(connector) if connector is not None else kept if kept.is_file() else None
    towers, text = read_tower(vision), read_decoder(decoder)
    told, weights = _start(given, towers, text, recipe, report)
    module, processor = build(towers, text, told["layer"])
    _fill(module, weights)
    record = told | {"steps": 0, "seconds": 0.0, "scenes": 0}
    if given is not None:
        _, _, taken, seconds = read_checkpoint(given)
        record |= {"steps": taken, "seconds": seconds, "scenes": taken * recipe.batch}
    if minutes or (steps is not None and steps > record["steps"]):
        record |= _refined(module, processor, towers, recipe, told, given, kept, minutes, steps, report)
    elif given is None:
        Refinement(module, processor, towers, recipe, told).keep(kept)
    module.eval().requires_grad_(False)
    save(module, processor, out)
    _write(out / RECORD, json.dumps(record, indent=1, sort_keys=True))
    _write(out / "README.md", card(record))
    return record


def _start(
    given: Path | None, tower: Tower, text: Decoder, recipe: GraftRecipe, report: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a connector is told of its halves, and its weights to begin with."""
    own = {"decoder": text.name, "decoder_sha256": text.digest, "tower": tower.name, "tower_sha256": _digest(tower)}
    if given is None:
        vision = build_tower(tower)
        table = text.module.get_input_embeddings().weight
        fit = least_squares(vision, tower, text.tokenizer, table, recipe.seed, recipe.squares)
        report(
            f"least squares: state {fit.layer} of {tower.name}, ridge {fit.ridge:g}, {100 * fit.explained:.1f} % of "
            "the variance of held-out embeddings explained"
        )
        return own | {"layer": fit.layer, "ridge": fit.ridge, "explained": round(fit.explained, 4)}, fit.weights
    tensors, told, _, _ = read_checkpoint(given)
    for key in ("decoder_sha256", "tower_sha256"):
        if told.get(key) != own[key]:
            half = key.split("_")[0]
            raise EdgelibError(
                f"connector {given.name!r} was made for the {half} {told.get(half)!r} with other weights than those of "
                f"{own[half]!r}; leave --connector out and take an empty folder to make one"
            )
    weights = {name: tensors[f"average.{name}"].float() for name in _LAYERS}
    return {k: v for k, v in told.items() if k != "recipe"}, weights


def build_tower(tower: Tower) -> nn.Module:
    """Return the tower's network alone."""
    from transformers import AutoModel

    from edgelib.models.generative_folder import quiet_transformers

    with quiet_transformers():
        kind = type(AutoModel.from_config(tower.config, trust_remote_code=False))
        return kind.from_pretrained(
            tower.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        ).eval()


def _digest(tower: Tower) -> str:
    return weights_digest(build_tower(tower))


def _connector_file(name: str) -> Path:
    shipped = EMBEDDED / SHIPPED / f"{name}.safetensors"
    file = shipped if shipped.is_file() else Path(os.path.expanduser(name))
    if not file.is_file():
        known = shipped_connectors()
        raise EdgelibError(
            f"there is no connector {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}, or pass the "
            f"{CONNECTOR} of another graft"
        )
    return file


@torch.no_grad()
def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.model.multi_modal_projector.named_parameters():
        parameter.copy_(weights[name])


def _refined(module, processor, tower, recipe, told, given, kept, minutes, steps, report) -> dict[str, Any]:
    work = Refinement(module, processor, tower, recipe, told)
    if given is not None:
        work.go_on_from(given)
    losses: list[float] = []
    total = steps - work.steps if steps is not None else None
    with progress_bar(total, "step") as advance:

        def after(step: int, loss: float) -> None:
            losses.append(loss)
            advance(1)

        work.run(steps, 60 * minutes if minutes else None, kept, after)
    _fill(module, work.average)
    some = max(1, len(losses) // 5)
    first, last = sum(losses[:some]) / some, sum(losses[-some:]) / some
    report(
        f"{len(losses)} steps, {work.steps} in all: {first:.3f} nats a token over the first fifth of them, {last:.3f} "
        "over the last"
    )
    return {"steps": work.steps, "seconds": round(work.seconds, 1), "scenes": work.steps * recipe.batch, "loss": last}


def light_connector(file: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write what a graft needs of a checkpoint: the averaged weights in half precision, without the optimizer's state.

    Refinement from it begins with a new optimizer. Raises EdgelibError for a damaged checkpoint.
    """
    tensors, told, steps, seconds = read_checkpoint(Path(file))
    kept = {f"average.{name}": tensors[f"average.{name}"].half().contiguous() for name in _LAYERS}
    metadata = {"told": json.dumps(told, sort_keys=True), "steps": str(steps), "seconds": f"{seconds:.1f}"}
    with whole_file(Path(out)) as place:
        save_file(kept, place, metadata=metadata)
    return Path(out)


def _write(file: Path, text: str) -> None:
    with whole_file(file) as place:
        place.write_text(text, encoding="utf-8")


def card(record: dict[str, Any]) -> str:
    """The README.md of a graft: its halves, how its connector was found, and what it is not."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    return f"""---
library_name: transformers
---
# A graft: {record["tower"]} and {record["decoder"]}

A LLaVA whose vision tower is {record["tower"]}, whose decoder is {record["decoder"]}, unchanged, and whose connector
was found by least squares and {f"refined for {record['steps']:,} steps" if record["steps"] else "not refined"} on
procedural scenes (`edgelib.data.scenes`). It exists so that quantization is measured on weights that nobody here
trained; it knows little of photographs. The licence is that of its decoder.

- Decoder: SHA-256 of its tensors in float32 `{record["decoder_sha256"]}`.
- Tower: SHA-256 of its tensors in float32 `{record["tower_sha256"]}`; the connector reads its state {record["layer"]}.
- Least squares explain {100 * record["explained"]:.1f} % of the variance of held-out embeddings.
- Refinement: {record["steps"]:,} steps, {record["scenes"]:,} scenes, {record["seconds"]:.0f} s.
- Record: `{RECORD}` ({digest}).
"""
