"""Images -> class scores -> outcome rows, one per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from edgelib.corruptions.condition import Condition
from edgelib.data.labelled import Dataset
from edgelib.errors import EdgelibError, about
from edgelib.models.zero_shot import ZeroShotModel

OUTCOME_COLUMNS = ("item", "label", "prediction", "correct", "margin", "drift")


@dataclass
class _Outcomes:
    """Predictions of one model over the data set, filled batch by batch."""

    n: int
    prediction: np.ndarray = field(init=False)
    margin: np.ndarray = field(init=False)
    drift: np.ndarray = field(init=False)

    def __post_init__(self):
        self.prediction = np.zeros(self.n, np.int64)
        self.margin, self.drift = np.full(self.n, np.nan, np.float32), np.full(self.n, np.nan, np.float32)


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Score of the true class minus the best other one [N]; positive where the prediction is right."""
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(dim=1)


@torch.no_grad()
def features_of(
    model: ZeroShotModel,
    data: Dataset,
    condition: Condition,
    *,
    seed: int = 0,
    table: str | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Return the features [N, D] of a data set's images in a condition, for `outcomes` to measure drift from."""
    found = {}
    for positions, images in data.batches(batch_size):
        with about(data.told, positions):
            pixels = model.pixels(condition.apply(images, seed, table))
        features = model.image_features(pixels)
        found |= dict(zip(positions.tolist(), features, strict=True))
    return torch.stack([found[position] for position in range(len(data))])


@torch.no_grad()
def outcomes(
    models: Mapping[str, ZeroShotModel],
    vectors: Mapping[str, Tensor],
    data: Dataset,
    condition: Condition,
    *,
    reference: str | Tensor | None = None,
    seed: int = 0,
    table: str | None = None,
    batch_size: int = 256,
) -> dict[str, pd.DataFrame]:
    """Evaluate several models on the same corrupted images: each batch is read, corrupted and preprocessed once.

    vectors: class vectors [C, D] by model name, encoded beforehand. reference: the model whose features the others'
    drift 1 - cos(own, reference) is measured from, or those features. Returns one table of OUTCOME_COLUMNS by model.
    """
    labels = torch.tensor(data.rows["label"].to_numpy())
    found = {name: _Outcomes(len(data)) for name in models}
    known = reference if isinstance(reference, Tensor) else None
    # the reference first, its features serve the others
    order = list(models) if known is not None else sorted(models, key=lambda name: name != reference)
    for positions, images in data.batches(batch_size):
        with about(data.told, positions):
            images = condition.apply(images, seed, table)
        pixels: dict[tuple, Tensor] = {}
        anchor = None if known is None else known[positions.to(known.device)]
        for name in order:
            model = models[name]
            key = (model.preprocess, model.device, model.dtype)
            if key not in pixels:
                with about(data.told, positions):
                    pixels[key] = model.pixels(images)
            features = model.image_features(pixels[key])
            scores = features @ vectors[name].T
            _require_finite(scores, name, condition)
            anchor = features if known is None and name == reference else anchor
            at = positions.numpy()
            found[name].prediction[at] = scores.argmax(dim=1).cpu().numpy()
            found[name].margin[at] = margins(scores, labels[positions].to(scores.device)).cpu().numpy()
            if anchor is not None and anchor.shape == features.shape:
                found[name].drift[at] = (1 - F.cosine_similarity(features, anchor)).clamp(min=0).cpu().numpy()
    return {name: _table(data, result) for name, result in found.items()}


def _require_finite(scores: Tensor, name: str, condition: Condition) -> None:
    bad = int((~torch.isfinite(scores)).any(dim=1).sum())
    if bad:
        raise EdgelibError(
            f"{name}: the class scores of {bad} images are NaN or infinite ({condition.corruption}, severity "
            f"{condition.severity}); the weights are damaged or a 16-bit format overflows: reload it, or try bf16"
        )


def _table(data: Dataset, result: _Outcomes) -> pd.DataFrame:
    rows = data.rows[["item", "label"]].copy()
    rows["prediction"] = result.prediction
    rows["correct"] = result.prediction == rows["label"].to_numpy()
    rows["margin"], rows["drift"] = result.margin, result.drift
    return rows[list(OUTCOME_COLUMNS)]
