"""One call for one model: evaluate it on a data set, clean or corrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from edgelib.corruptions.condition import condition_of
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError
from edgelib.infer.classify import outcomes
from edgelib.infer.generate import generate
from edgelib.models.generative import GenerativeModel
from edgelib.models.zero_shot import ZeroShotModel

_ANSWERS = 64  # questions in a batch of a model that writes, whose prompts take more memory than images


def evaluate(
    model: ZeroShotModel | GenerativeModel,
    data: Dataset | QuestionSet,
    *,
    corruption: str | None = None,
    severity: int = 0,
    seed: int = 0,
    table: str | None = None,
    prompts: str | Sequence[str] = "simple",
    baseline: ZeroShotModel | GenerativeModel | None = None,
    batch_size: int = 256,
) -> pd.DataFrame:
    """Classify every image of `data` and return one row per item: item, label, prediction, correct, margin, drift,
    corruption, severity.

    corruption and severity (0 to 5) act on the pixels before resizing, by the severity table chosen by image size
    unless named. margin is the cosine similarity with the true class minus the best other. drift is
    1 - cos(features, baseline's features), NaN without a baseline. batch_size changes nothing but the last bits of the
    two. Severity 0 is clean, whatever the corruption.
    A model that writes answers questions: see `edgelib.infer.generate.generate` for its rows and options.
    Raises EdgelibError for unknown names and severities, and classes that the model cannot tell.
    """
    if isinstance(model, GenerativeModel) or isinstance(data, QuestionSet):
        return generate(  # which refuses a model and data of different kinds
            cast(GenerativeModel, model),
            cast(QuestionSet, data),
            corruption=corruption,
            severity=severity,
            seed=seed,
            table=table,
            baseline=cast(GenerativeModel | None, baseline),
            batch_size=min(batch_size, _ANSWERS),
        )
    condition = condition_of(corruption, severity, table)
    _require_kinds(model, baseline, data)
    lines = templates(prompts)
    models: dict[str, Any] = {"model": model} | ({"baseline": baseline} if baseline is not None else {})
    vectors = {name: m.class_vectors(data.class_names, lines) for name, m in models.items()}
    found = outcomes(
        models,
        vectors,
        data,
        condition,
        reference=None if baseline is None else "baseline",
        seed=seed,
        table=table,
        batch_size=batch_size,
    )
    return found["model"].assign(corruption=condition.corruption, severity=condition.severity)


def _require_kinds(model: object, baseline: object, data: object) -> None:
    for name, value in (("model", model), ("baseline", baseline)):
        if not isinstance(value, ZeroShotModel) and (name == "model" or value is not None):
            raise EdgelibError(
                f"{name} must be a loaded model, got {type(value).__name__}; use edgelib.load(name or path)"
            )
    if not isinstance(data, Dataset):
        raise EdgelibError(f"data must be a data set, got {type(data).__name__}; use edgelib.dataset(name or path)")
