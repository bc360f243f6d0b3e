"""What the training of every embedded model shares: scenes as batches, read-outs of the record, one optimisation loop.

Step t sees scenes t*batch .. (t+1)*batch - 1 of the split "train": nothing is random but the initial weights.
A network this small learns shapes slowly from one label an image, so while it trains it also predicts the whole record:
the subject's shape, colour, size and texture, and what covers each patch. Those read-outs are thrown away.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgelib.data.scenes.records import COLOURS, SIZES, TEXTURES, draw_records, record_table, render
from edgelib.data.scenes.shapes import SHAPES
from edgelib.ground.checks import seed_number
from edgelib.ground.paths import whole_file

MEAN = STD = (0.5, 0.5, 0.5)  # how the embedded models normalise pixels
_ATTRIBUTES = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "size": SIZES, "texture": TEXTURES}
_ATTRIBUTE_WEIGHTS = (1.0, 0.5, 0.25, 0.25)
SCORED = 4000  # test scenes behind the accuracy on the model card
VALIDATED = 1000  # validation scenes behind each line of the log


@dataclass(frozen=True)
class Recipe:
    """Everything shipped weights depend on besides the code."""

    seed: int = 0
    # (steps, peak learning rate) of each cycle; a cycle starts from the half-precision average that the last one left
    cycles: tuple[tuple[int, float], ...] = ((2800, 1.5e-3), (1200, 1e-3), (1000, 1e-3))
    batch: int = 128
    weight_decay: float = 0.05
    warmup: float = 0.06  # share of a cycle
    average: float = 0.997  # decay of the running average of the weights, which is what is kept
    log_every: int = 200

    @property
    def steps(self) -> int:
        """Steps of all cycles."""
        return sum(steps for steps, _ in self.cycles)


@dataclass(frozen=True)
class SceneBatch:
    """Training scenes with their records as targets."""

    index: Tensor  # int64 [N]
    pixels: Tensor  # float32 [N, 3, H, W], normalised
    attributes: Tensor  # int64 [N, 4], indices of shape, colour, size, texture
    cover: Tensor  # float32 [N, patches, shapes + 1], share of each patch by shape; the last is everything else
    rows: pd.DataFrame


class RecordHeads(nn.Module):
    """Linear read-outs of the record from a vision tower; used in training only."""

    def __init__(self, width: int):
        super().__init__()
        self.attributes = nn.ModuleList(nn.Linear(width, len(values)) for values in _ATTRIBUTES.values())
        self.cover = nn.Linear(width, len(SHAPES) + 1)


def pixel_values(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, normalised as the embedded models' preprocessors do."""
    return (images.float() / 255.0 - MEAN[0]) / STD[0]


def patch_cover(cover: Tensor, shape: Tensor, patch: int) -> Tensor:
    """Share of each patch covered by each shape [N, patches, shapes + 1]; the last column is everything else."""
    share = F.avg_pool2d(cover, patch).flatten(2)  # [N, objects, patches]
    by_shape = torch.zeros(len(shape), len(SHAPES), share.shape[2])
    index = shape.clamp(min=0)[:, :, None].expand_as(share)
    by_shape.scatter_add_(1, index, share * (shape >= 0)[:, :, None])
    return torch.cat([by_shape, 1 - by_shape.sum(1, keepdim=True)], 1).transpose(1, 2).clamp(min=0)


def scene_batch(index: Tensor, patch: int, seed: int) -> SceneBatch:
    """Render the training scenes with the given indices [N]."""
    records = draw_records("train", index, seed)
    images, cover = render(records)
    rows = record_table(records, [""] * len(records))
    columns = [rows[name].map(values.index) for name, values in _ATTRIBUTES.items()]
    attributes = torch.from_numpy(np.stack(columns, 1))
    return SceneBatch(index, pixel_values(images), attributes, patch_cover(cover, records.shape, patch), rows)


def record_loss(heads: RecordHeads, pooled: Tensor, patches: Tensor, batch: SceneBatch) -> Tensor:
    """Weighted cross-entropies of the attributes and of what covers each patch."""
    loss = -(batch.cover * heads.cover(patches).log_softmax(-1)).sum(-1).mean()
    for column, (head, weight) in enumerate(zip(heads.attributes, _ATTRIBUTE_WEIGHTS, strict=True)):
        loss = loss + weight * F.cross_entropy(head(pooled), batch.attributes[:, column])
    return loss


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up, then a cosine down to zero, over the `steps` of a cycle."""
    warm = warmup * steps
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def parameter_groups(modules: list[nn.Module], weight_decay: float) -> list[dict]:
    """Return the parameter groups of an optimizer: matrices decay, biases and norms do not."""
    parameters = [p for m in modules for p in m.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def optimise(
    network: nn.Module, width: int, patch: int, loss_of: Callable, recipe: Recipe, cycle: int
) -> Iterator[tuple[int, float, float, nn.Module]]:
    """Train `network` for one cycle; yields (step, loss, learning rate, running average), the same object each time.

    loss_of(network, heads, batch, step) is the objective; step counts through all cycles.
    """
    average = copy.deepcopy(network).requires_grad_(False).eval()
    heads = RecordHeads(width)
    optimizer = torch.optim.AdamW(parameter_groups([network, heads], recipe.weight_decay), lr=0.0, betas=(0.9, 0.98))
    steps, peak = recipe.cycles[cycle]
    first = sum(before for before, _ in recipe.cycles[:cycle])
    for step in range(steps):
        index = torch.arange((first + step) * recipe.batch, (first + step + 1) * recipe.batch)
        batch = scene_batch(index, patch, recipe.seed)
        rate = learning_rate(step, steps, peak, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(network, heads, batch, first + step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {float(loss.detach())} at step {first + step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*network.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        decay = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, current in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(current, 1 - decay)
        yield first + step, float(loss.detach()), rate, average


def train_cycles(
    build: Callable[[], nn.Module],
    width: int,
    patch: int,
    loss_of: Callable,
    score: Callable,
    recipe: Recipe,
    out: Path,
    report: Callable[[str], None],
) -> tuple[nn.Module, float]:
    """Run all cycles and return (network, its accuracy on SCORED test scenes); `out` gets training_log.csv.

    score(network, split, n) is the ten-class accuracy on the first n scenes of a split. A finished cycle is kept in
    `out`: a training that was stopped goes on after it.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = [out / f"cycle-{c + 1}.safetensors" for c in range(len(recipe.cycles))]
    torch.manual_seed(seed_number(recipe.seed))  # initial weights
    network = build()
    for cycle, file in enumerate(kept):
        if not file.is_file():
            if cycle:
                torch.manual_seed(recipe.seed + cycle)  # read-outs, the same in a run that starts here
            steps = optimise(network, width, patch, loss_of, recipe, cycle)
            average = _with_log(steps, score, recipe, out, report)
            state = {name: tensor.half().contiguous() for name, tensor in average.state_dict().items()}
            with whole_file(file) as place:
                save_file(state, place)
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    for file in kept:
        file.unlink()
    return network.requires_grad_(False).eval(), score(network, "test", SCORED)


def _with_log(steps: Iterator, score: Callable, recipe: Recipe, out: Path, report: Callable[[str], None]) -> nn.Module:
    """Run the steps of a cycle, adding a line to training_log.csv now and then; returns the running average."""
    losses, started, average = [], time.monotonic(), None
    for step, loss, rate, average in steps:
        losses.append(loss)
        if (step + 1) % recipe.log_every and step + 1 < recipe.steps:
            continue
        accuracy = score(average, "validation", VALIDATED)
        add_line(
            out / "training_log.csv",
            {
                "scenes_seen": (step + 1) * recipe.batch,
                "loss": round(float(np.mean(losses)), 5),
                "accuracy": accuracy,
                "learning_rate": round(rate, 8),
            },
        )
        minutes = (time.monotonic() - started) / 60
        report(
            f"step {step + 1}/{recipe.steps}  loss {np.mean(losses):.3f}  accuracy {accuracy:.3f}  {minutes:.1f} min"
        )
        losses = []
    return average


def add_line(path: Path, line: dict) -> None:
    """Put a line into the log in place of any that a stopped run left for the same or later scenes."""
    before = []
    if path.is_file():
        with path.open(newline="") as file:
            before = [row for row in csv.DictReader(file) if int(row["scenes_seen"]) < line["scenes_seen"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*before, line])


@torch.no_grad()
def accuracy_on_scenes(predict: Callable[[Tensor], Tensor], split: str, n: int, seed: int) -> float:
    """Share of the first n scenes of a split whose shape predict(pixels [N, 3, H, W]) -> class [N] names."""
    hits = 0
    for start in range(0, n, 256):
        records = draw_records(split, torch.arange(start, min(start + 256, n)), seed)
        hits += int((predict(pixel_values(render(records)[0])) == records.shape[:, 0]).sum())
    return hits / n
