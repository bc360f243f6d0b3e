"""Images -> class scores -> outcome rows, one per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.inputs.corruptions import CORRUPTIONS, TABLES, corrupt
from edgelib.inputs.datasets import Dataset
from edgelib.inputs.generative_model import GenerativeModel
from edgelib.inputs.prompts import templates
from edgelib.inputs.question_sets import QuestionSet
from edgelib.inputs.zero_shot_model import ZeroShotModel

_ANSWERS = 64  # questions in a batch of a model that writes, whose prompts take more memory than images
OUTCOME_COLUMNS = ("item", "label", "prediction", "correct", "margin", "drift")


@dataclass(frozen=True)
class Condition:
    """A state of the images: a corruption at a severity, or clean (severity 0)."""

    corruption: str = "clean"
    severity: int = 0

    def apply(self, images: Tensor, seed: int, table: str | None) -> Tensor:
        """uint8 [N, 3, H, W] -> the same images in this condition."""
        if self.severity == 0:
            return images
        return corrupt(images, self.corruption, self.severity, seed=seed, table=table)


def condition(name: str) -> Condition:
    """The condition called "clean" or "<corruption>:<severity>"; raises EdgelibError for any other name."""
    corruption, _, severity = name.partition(":")
    if name == "clean":
        return Condition()
    choose(CORRUPTIONS, corruption, "corruption")
    if severity not in tuple("12345"):
        raise EdgelibError(f'condition {name!r} has no severity from 1 to 5; write "clean" or "{corruption}:3"')
    return Condition(corruption, int(severity))


def condition_of(corruption: str | None, severity: int, table: str | None) -> Condition:
    """The condition that a corruption and a severity from 0 to 5 mean; severity 0 is clean, whatever the corruption.

    Raises EdgelibError for an unknown corruption, severity or table, and a severity of no corruption.
    """
    if corruption is None and severity != 0:
        raise EdgelibError(f"severity {severity!r} of no corruption: name one, or leave severity at 0 for clean images")
    if corruption is not None:
        corrupt(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), corruption, severity, table=table)  # checks the names
    if table is not None:
        choose(dict.fromkeys(TABLES), table, "severity table")
    return Condition(corruption, int(severity)) if severity else Condition()


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
def outcomes(
    models: Mapping[str, ZeroShotModel], vectors: Mapping[str, Tensor], data: Dataset, condition: Condition, *,
    reference: str | None = None, seed: int = 0, table: str | None = None, batch_size: int = 256,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Evaluate several models on the same corrupted images: each batch is read, corrupted and preprocessed once.

    vectors: class vectors [C, D] by model name, encoded beforehand. reference: the model whose features the others'
    drift 1 - cos(own, reference) is measured from. Returns one table of OUTCOME_COLUMNS by model name.
    """
    labels = torch.tensor(data.rows["label"].to_numpy())
    found = {name: _Outcomes(len(data)) for name in models}
    order = sorted(models, key=lambda name: name != reference)  # the reference first, its features serve the others
    for positions, images in data.batches(batch_size):
        images = condition.apply(images, seed, table)
        pixels: dict[tuple, Tensor] = {}
        anchor = None
        for name in order:
            model = models[name]
            key = (model.preprocess, model.device, model.dtype)
            if key not in pixels:
                pixels[key] = model.pixels(images)
            features = model.image_features(pixels[key])
            scores = features @ vectors[name].T
            _require_finite(scores, name, condition)
            anchor = features if name == reference else anchor
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


def evaluate(
    model: ZeroShotModel | GenerativeModel, data: Dataset | QuestionSet, *, corruption: str | None = None,
    severity: int = 0, seed: int = 0, table: str | None = None, prompts: str | Sequence[str] = "simple",
    baseline: ZeroShotModel | GenerativeModel | None = None, batch_size: int = 256,
) -> pd.DataFrame:  # fmt: skip
    """Classify every image of `data` and return one row per item: item, label, prediction, correct, margin, drift,
    corruption, severity.

    corruption and severity (0 to 5) act on the pixels before resizing, by the severity table chosen by image size
    unless named. margin is the cosine similarity with the true class minus the best other. drift is
    1 - cos(features, baseline's features), NaN without a baseline. batch_size changes nothing but the last bits of the
    two. Severity 0 is clean, whatever the corruption.
    A model that writes answers questions: see `edgelib.evaluation.generate.generate` for its rows and options.
    Raises EdgelibError for unknown names and severities, and classes that the model cannot tell.
    """
    if isinstance(model, GenerativeModel) or isinstance(data, QuestionSet):
        from edgelib.evaluation.generate import generate

        return generate(
            model, data, corruption=corruption, severity=severity, seed=seed, table=table, baseline=baseline,
            batch_size=min(batch_size, _ANSWERS),
        )  # fmt: skip
    condition = condition_of(corruption, severity, table)
    _require_kinds(model, baseline, data)
    lines = templates(prompts)
    models = {"model": model} | ({"baseline": baseline} if baseline is not None else {})
    vectors = {name: m.class_vectors(data.class_names, lines) for name, m in models.items()}
    found = outcomes(
        models, vectors, data, condition, reference=None if baseline is None else "baseline", seed=seed,
        table=table, batch_size=batch_size,
    )  # fmt: skip
    return found["model"].assign(corruption=condition.corruption, severity=condition.severity)


def _require_kinds(model: object, baseline: object, data: object) -> None:
    for name, value in (("model", model), ("baseline", baseline)):
        if not isinstance(value, ZeroShotModel) and (name == "model" or value is not None):
            raise EdgelibError(
                f"{name} must be a loaded model, got {type(value).__name__}; use edgelib.load(name or path)"
            )
    if not isinstance(data, Dataset):
        raise EdgelibError(f"data must be a data set, got {type(data).__name__}; use edgelib.dataset(name or path)")
