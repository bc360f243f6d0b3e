"""Train `scenes-vit`, a supervised timm classifier of the same ten shapes: `edgelib train scenes-vit --out FOLDER`.

The baseline of zero-shot chapters: the vision tower's architecture and data, trained to name the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import Tensor, nn

from edgelib.data.scenes.records import IMAGE_SIZE
from edgelib.data.scenes.shapes import SHAPES
from edgelib.train.card import write_card
from edgelib.train.loop import (
    MEAN,
    STD,
    Recipe,
    RecordHeads,
    SceneBatch,
    accuracy_on_scenes,
    record_loss,
    train_cycles,
)

ARCHITECTURE = "vit_tiny_patch16_224"
SHAPE_OF_NETWORK = {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}


@dataclass(frozen=True)
class VitRecipe(Recipe):
    """The recipe of `scenes-vit`."""

    cycles: tuple[tuple[int, float], ...] = ((1500, 1.5e-3), (1500, 1.2e-3))


def train(out: Path, recipe: VitRecipe | None = None, report: Callable[[str], None] = print) -> None:
    """Train `scenes-vit` and write its timm folder to `out`; takes tens of minutes on two cores."""
    recipe = recipe or VitRecipe()

    def build() -> nn.Module:
        return timm.create_model(ARCHITECTURE, num_classes=len(SHAPES), **SHAPE_OF_NETWORK)

    def loss_of(model: nn.Module, heads: RecordHeads, batch: SceneBatch, step: int) -> Tensor:
        tokens = model.forward_features(batch.pixels)
        pooled = model.forward_head(tokens, pre_logits=True)
        named = F.cross_entropy(model.forward_head(tokens), batch.attributes[:, 0])
        return record_loss(heads, pooled, tokens[:, model.num_prefix_tokens :], batch) + named

    def score(model: nn.Module, split: str, n: int) -> float:
        return accuracy_on_scenes(lambda pixels: model(pixels).argmax(1), split, n, recipe.seed)

    width, patch = SHAPE_OF_NETWORK["embed_dim"], SHAPE_OF_NETWORK["patch_size"]
    model, accuracy = train_cycles(build, width, patch, loss_of, score, recipe, out, report)
    data = {
        "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
        "mean": MEAN,
        "std": STD,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    save_for_hf(
        model.half(),
        str(out),
        model_config={"label_names": list(SHAPES), "pretrained_cfg": data},
        model_args=SHAPE_OF_NETWORK,
        safe_serialization=True,
    )
    what = "A supervised vision transformer (timm) that names the subject of a scene"
    parameters = sum(p.numel() for p in model.parameters())
    write_card(out, "scenes-vit", "timm", what, asdict(recipe), accuracy, parameters)
