"""Train `scenes-clip`, the embedded CLIP, from scratch: `edgelib train scenes-clip --out FOLDER`.

Contrastive learning alone stays at chance for long on a model this small, so the vision tower also predicts
the record: subject's shape, colour, size and texture from its pooled output, and what covers each patch from
its patch outputs. Those heads are thrown away; what is kept is an ordinary Hugging Face CLIP folder.
Step t of the training sees scenes t*batch .. (t+1)*batch - 1 of the split "train": nothing else is random
but the initial weights.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from edgelib.inputs.captions import TEMPLATES, captions
from edgelib.inputs.clip_folder import build_tokenizer, clip_config, pixel_values, save_folder
from edgelib.inputs.randomness import address, keys_for, uniform
from edgelib.inputs.scenes import COLOURS, IMAGE_SIZE, SIZES, TEXTURES, draw_records, record_table, render
from edgelib.inputs.shapes import SHAPES


@dataclass(frozen=True)
class Recipe:
    """Everything the shipped weights depend on besides this code."""

    seed: int = 0
    steps: int = 1800
    batch: int = 256
    captions: int = 64  # captions a batch is matched against
    contrastive_from: float = 0.5  # share of the steps after which captions join in
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.06  # share of the steps
    average: float = 0.995  # decay of the running average of the weights, which is what is kept
    log_every: int = 100


@dataclass(frozen=True)
class Batch:
    """A training batch: pixels, captions, and the record as targets."""

    pixels: Tensor  # float32 [N, 3, H, W], normalised
    attributes: Tensor  # int64 [N, 4], indices of shape, colour, size, texture
    cover: Tensor  # float32 [N, patches, len(SHAPES) + 1], share of each patch by shape; last is everything else
    tokens: dict[str, Tensor]
    truth: Tensor  # bool [N, captions], is caption j true of scene i


class RecordHeads(nn.Module):
    """Linear read-outs of the record from the vision tower; used in training only."""

    def __init__(self, width: int):
        super().__init__()
        self.attributes = nn.ModuleList(nn.Linear(width, n) for n in _ATTRIBUTE_COUNTS)
        self.cover = nn.Linear(width, len(SHAPES) + 1)


_ATTRIBUTE_COUNTS = (len(SHAPES), len(COLOURS), len(SIZES), len(TEXTURES))
_ATTRIBUTE_WEIGHTS = (1.0, 0.5, 0.25, 0.25)


def patch_cover(cover: Tensor, shape: Tensor, patch: int) -> Tensor:
    """Share of each patch covered by each shape [N, patches, shapes + 1]; the last column is everything else."""
    share = F.avg_pool2d(cover, patch).flatten(2)  # [N, objects, patches]
    by_shape = torch.zeros(len(shape), len(SHAPES), share.shape[2])
    index = shape.clamp(min=0)[:, :, None].expand_as(share)
    by_shape.scatter_add_(1, index, share * (shape >= 0)[:, :, None])
    return torch.cat([by_shape, 1 - by_shape.sum(1, keepdim=True)], 1).transpose(1, 2).clamp(min=0)


def make_batch(index: Tensor, tokenizer: PreTrainedTokenizerFast, patch: int, recipe: Recipe) -> Batch:
    """Render the training scenes with the given indices [N] and caption the first of them."""
    seed = recipe.seed
    records = draw_records("train", index, seed)
    images, cover = render(records)
    rows = record_table(records, [""] * len(records))
    template = uniform(keys_for(address("caption", "train", seed), index), 1)[:, 0].numpy()
    said = captions(rows, (template * len(TEMPLATES)).astype(np.int64), recipe.captions)
    names = (list(SHAPES), list(COLOURS), list(SIZES), list(TEXTURES))
    columns = [rows[c].map(n.index) for c, n in zip(("shape", "colour", "size", "texture"), names, strict=True)]
    return Batch(
        pixels=pixel_values(images),
        attributes=torch.from_numpy(np.stack(columns, 1)),
        cover=patch_cover(cover, records.shape, patch),
        tokens=tokenizer(said.text, padding=True, return_tensors="pt"),
        truth=torch.from_numpy(said.truth),
    )


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Symmetric cross-entropy where every true pair counts as a match, not only the diagonal (UniCL, Yang et al. 2022)."""
    target = truth.float()
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def record_loss(heads: RecordHeads, pooled: Tensor, patches: Tensor, batch: Batch) -> Tensor:
    """Weighted cross-entropies of the attributes and of what covers each patch."""
    loss = -(batch.cover * heads.cover(patches).log_softmax(-1)).sum(-1).mean()
    for column, (head, weight) in enumerate(zip(heads.attributes, _ATTRIBUTE_WEIGHTS, strict=True)):
        loss = loss + weight * F.cross_entropy(head(pooled), batch.attributes[:, column])
    return loss


def training_loss(model: CLIPModel, heads: RecordHeads, batch: Batch, with_captions: bool) -> Tensor:
    """The whole objective on one batch."""
    seen = model.vision_model(pixel_values=batch.pixels)
    loss = record_loss(heads, seen.pooler_output, seen.last_hidden_state[:, 1:], batch)
    if with_captions:
        image = F.normalize(model.visual_projection(seen.pooler_output), dim=-1)
        text = F.normalize(model.text_projection(model.text_model(**batch.tokens).pooler_output), dim=-1)
        loss = loss + contrastive_loss(model.logit_scale.exp() * image @ text.T, batch.truth)
    return loss


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to zero."""
    warm = recipe.warmup * recipe.steps
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (recipe.steps - warm)))


@torch.no_grad()
def zero_shot_score(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, split: str, n: int, seed: int) -> float:
    """Ten-class zero-shot accuracy on the first n scenes of a split with the prompt "a photo of a {shape}."."""
    model.eval()
    prompts = tokenizer([f"a photo of a {s}." for s in SHAPES], padding=True, return_tensors="pt")
    text = F.normalize(model.text_projection(model.text_model(**prompts).pooler_output), dim=-1)
    hits = 0
    for start in range(0, n, 256):
        records = draw_records(split, torch.arange(start, min(start + 256, n)), seed)
        pooled = model.vision_model(pixel_values=pixel_values(render(records)[0])).pooler_output
        hits += int(((model.visual_projection(pooled) @ text.T).argmax(1) == records.shape[:, 0]).sum())
    return hits / n


def _parameter_groups(modules: list[nn.Module], weight_decay: float) -> list[dict]:
    parameters = [p for m in modules for p in m.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def training_steps(recipe: Recipe, config: CLIPConfig, tokenizer) -> Iterator[tuple[int, float, CLIPModel]]:
    """Train step by step; yields (step, loss, running average of the model), the same object each time."""
    torch.manual_seed(recipe.seed)  # initial weights
    model = CLIPModel(config)
    average = copy.deepcopy(model).requires_grad_(False)
    heads = RecordHeads(config.vision_config.hidden_size)
    optimizer = torch.optim.AdamW(_parameter_groups([model, heads], recipe.weight_decay), lr=0.0, betas=(0.9, 0.98))
    patch = config.vision_config.patch_size
    for step in range(recipe.steps):
        index = torch.arange(step * recipe.batch, (step + 1) * recipe.batch)
        batch = make_batch(index, tokenizer, patch, recipe)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = training_loss(model, heads, batch, step >= recipe.contrastive_from * recipe.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        decay = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, current in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(current, 1 - decay)
        yield step, float(loss.detach()), average


def train(out: Path, recipe: Recipe | None = None, report: Callable[[str], None] = print) -> None:
    """Train `scenes-clip` and write it to the folder `out` with its log of the training; takes tens of minutes on two cores."""
    recipe = recipe or Recipe()
    tokenizer = build_tokenizer()
    config = clip_config(tokenizer, IMAGE_SIZE)
    log, losses, started = [], [], time.monotonic()
    for step, loss, average in training_steps(recipe, config, tokenizer):
        losses.append(loss)
        if (step + 1) % recipe.log_every == 0 or step + 1 == recipe.steps:
            score = zero_shot_score(average, tokenizer, "validation", 1000, recipe.seed)
            log.append({
                "scenes_seen": (step + 1) * recipe.batch, "loss": round(float(np.mean(losses)), 5),
                "zero_shot_accuracy": score, "learning_rate": round(learning_rate(step, recipe), 8),
            })  # fmt: skip
            losses = []
            minutes = (time.monotonic() - started) / 60
            report(f"step {step + 1}/{recipe.steps}  loss {log[-1]['loss']:.3f}  zero-shot {score:.3f}  {minutes:.1f} min")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "training_log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
    test = zero_shot_score(average, tokenizer, "test", 4000, recipe.seed)
    save_folder(average, tokenizer, out, recipe=asdict(recipe), log=log, test_accuracy=test, test_n=4000)
