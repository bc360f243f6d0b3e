"""Train `scenes-clip`, the embedded CLIP, from scratch: `edgelib train scenes-clip --out FOLDER`.

The vision tower learns the records first; captions join in half way, when there is something to align them with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from edgelib.data.scenes.captions import TEMPLATES, Captions, captions
from edgelib.data.scenes.records import IMAGE_SIZE
from edgelib.data.scenes.shapes import SHAPES
from edgelib.ground.randomness import address, keys_for, uniform
from edgelib.train.clip_folder import build_tokenizer, clip_config, save_clip
from edgelib.train.loop import (
    Recipe,
    RecordHeads,
    SceneBatch,
    accuracy_on_scenes,
    record_loss,
    train_cycles,
)


@dataclass(frozen=True)
class ClipRecipe(Recipe):
    """The recipe of `scenes-clip`."""

    captions: int = 64  # captions a batch is matched against
    contrastive_from: int = 1400  # step at which captions join in


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Symmetric cross-entropy in which every true (scene, caption) pair is a match (UniCL, Yang et al. 2022)."""
    target = truth.float()
    rows = -(target / target.sum(1, keepdim=True).clamp(min=1) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def batch_captions(batch: SceneBatch, recipe: ClipRecipe) -> Captions:
    """Caption the first scenes of a batch; which template each gets depends on the scene's index alone."""
    draw = uniform(keys_for(address("caption", "train", recipe.seed), batch.index), 1)[:, 0].numpy()
    return captions(batch.rows, (draw * len(TEMPLATES)).astype(np.int64), recipe.captions)


def train(out: Path, recipe: ClipRecipe | None = None, report: Callable[[str], None] = print) -> None:
    """Train `scenes-clip` and write its Hugging Face folder to `out`; takes tens of minutes on two cores."""
    recipe = recipe or ClipRecipe()
    tokenizer = build_tokenizer()
    config = clip_config(tokenizer, IMAGE_SIZE)
    prompts = tokenizer([f"a photo of a {s}." for s in SHAPES], padding=True, return_tensors="pt")

    def text_features(model: CLIPModel, tokens) -> Tensor:
        return F.normalize(model.text_projection(model.text_model(**tokens).pooler_output), dim=-1)

    def loss_of(model: CLIPModel, heads: RecordHeads, batch: SceneBatch, step: int) -> Tensor:
        seen = model.vision_model(pixel_values=batch.pixels)
        loss = record_loss(heads, seen.pooler_output, seen.last_hidden_state[:, 1:], batch)
        if step < recipe.contrastive_from:
            return loss
        said = batch_captions(batch, recipe)
        image = F.normalize(model.visual_projection(seen.pooler_output), dim=-1)
        text = text_features(model, tokenizer(said.text, padding=True, return_tensors="pt"))
        return loss + contrastive_loss(model.logit_scale.exp() * image @ text.T, torch.from_numpy(said.truth))

    def score(model: CLIPModel, split: str, n: int) -> float:
        with torch.no_grad():
            classes = text_features(model, prompts)

        def predict(pixels: Tensor) -> Tensor:
            pooled = model.vision_model(pixel_values=pixels).pooler_output
            return (model.visual_projection(pooled) @ classes.T).argmax(1)

        return accuracy_on_scenes(predict, split, n, recipe.seed)

    width, patch = config.vision_config.hidden_size, config.vision_config.patch_size
    model, accuracy = train_cycles(lambda: CLIPModel(config), width, patch, loss_of, score, recipe, out, report)
    save_clip(model, tokenizer, out, recipe=asdict(recipe), accuracy=accuracy)
