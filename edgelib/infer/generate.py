"""Questions about images -> greedy answers -> outcome rows, one per question."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.corruptions.condition import Condition, condition_of
from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError, about
from edgelib.infer.decode import CacheFactory, Decoded, decode, yes_margin
from edgelib.models.generative import GenerativeModel, Prompts
from edgelib.observe.distance import divergence
from edgelib.tasks.base import Task

ANSWER_COLUMNS = ("item", "image_id", "prediction", "tokens", "ended", "logprob", "margin", "yes_margin", "kl")
MAX_NEW_TOKENS = 16
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "pillow")  # whose versions can move an answer


def generate(
    model: GenerativeModel,
    data: QuestionSet,
    *,
    corruption: str | None = None,
    severity: int = 0,
    seed: int = 0,
    table: str | None = None,
    baseline: GenerativeModel | None = None,
    cache_factory: CacheFactory | None = None,
    instruction: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Answer every question of `data` and return one row per question, in the order of its rows: ANSWER_COLUMNS, the
    columns of `scored`, corruption and severity.

    prediction: the text. tokens: generated, the end token included; ended: whether the answer came to its end before
    max_new_tokens. logprob: of the whole answer. margin: log-probability of the first token minus that of the second
    best. yes_margin: log-odds of yes against no in the first token, NaN for tasks without yes and no. kl:
    divergence of the first token's distribution from the baseline's in nats, NaN without a baseline.
    corruption, severity, table: of the images, as `evaluate` takes them. cache_factory: makes the KV cache of a batch,
    the baseline keeps its own. instruction: a line after each question, such as "Answer the question using a single
    word or phrase."; None takes the one of the benchmark (`Task.instruction`), which most do not have. batch_size
    changes nothing but the last bits of the numbers.
    Raises EdgelibError for unknown corruptions, prompts longer than the model's context, and scores that are NaN or
    infinite.
    """
    models = {"model": model} | ({"baseline": baseline} if baseline is not None else {})
    _require_kinds(model, baseline, data)
    condition = condition_of(corruption, severity, table)
    found = answers(
        models,
        data,
        condition,
        reference=None if baseline is None else "baseline",
        caches={"model": cache_factory},
        share=cache_factory is None,
        instruction=data.task.instruction if instruction is None else instruction,
        max_new_tokens=max_new_tokens,
        seed=seed,
        table=table,
        batch_size=batch_size,
    )
    return scored(found["model"], data).assign(corruption=condition.corruption, severity=condition.severity)


def scored(rows: pd.DataFrame, data: QuestionSet) -> pd.DataFrame:
    """Rows of answers to questions of `data`, with question, category, reference, score, said and parsed added.

    category: what the benchmark tells answers apart by (the sub-task of MME, the kind of negatives of POPE, the
    question type of VQA), "all" where there is nothing.
    """
    task, own = data.task, data.rows.set_index("item").loc[rows["item"]].set_index(rows.index)
    asked = own[["question", task.reference]].set_axis(["question", "reference"], axis=1)
    asked.insert(1, "category", "all" if task.category is None else own[task.category])
    worth = task.answer_scores(rows["prediction"], asked["reference"]).set_index(rows.index)
    return pd.concat([rows, asked, worth], axis=1)


@torch.no_grad()
def answers(
    models: Mapping[str, GenerativeModel],
    data: QuestionSet,
    condition: Condition,
    *,
    reference: str | None = None,
    caches: Mapping[str, CacheFactory | None] | None = None,
    share: bool = True,
    instruction: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    table: str | None = None,
    batch_size: int = 64,
) -> dict[str, pd.DataFrame]:
    """Ask several models the same questions about the same corrupted images; returns a table by model name.

    Each batch is read, corrupted and processed once, and each image encoded once for all models whose vision tower has
    the same weights. share: let all questions about an image share what the decoder makes of it, where the model allows
    that; a study of caches does not, so that every cache meets the same arithmetic. reference: the model from whose
    first token the divergence is measured. Arguments as `generate`.
    """
    order = sorted(models, key=lambda name: name != reference)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in models}
    sharing = {name: (id(m.processor), m.device, m.dtype) for name, m in models.items()}
    for positions, images, which in _batches(data, batch_size, models):
        with about(data.told, positions):
            images = condition.apply(images, seed, table)
        rows = data.rows.iloc[positions.numpy()]
        questions = [f"{q}\n{instruction}" if instruction else q for q in rows["question"]]
        prompts: dict[tuple, Prompts] = {}
        features: dict[tuple, object] = {}
        anchor = None
        for name in order:
            model, key = models[name], sharing[name]
            if key not in prompts:
                with about(data.told, positions):
                    prompts[key] = model.prepare(images, questions, which)
                _require_context(model, prompts[key], questions, max_new_tokens)
            seen = (key, model.vision_key)
            if seen not in features:
                features[seen] = model.features(prompts[key].pixels) if prompts[key].pixels else None
            factory = (caches or {}).get(name)
            made = decode(
                model,
                prompts[key],
                features[seen],
                max_new_tokens=max_new_tokens,
                cache=None if factory is None else factory(),
                share=share,
            )
            anchor = made.first if name == reference else anchor
            parts[name].append(_rows(model, data.task, rows, positions, made, anchor, condition))
    return {name: pd.concat(found).sort_index().reset_index(drop=True) for name, found in parts.items()}


def _require_kinds(model: object, baseline: object, data: object) -> None:
    for name, value in (("model", model), ("baseline", baseline)):
        if not isinstance(value, GenerativeModel) and (name == "model" or value is not None):
            raise EdgelibError(
                f"{name} must be a model that writes, as questions need, got {type(value).__name__}; load one such as "
                "scenes-vlm, or take labelled images such as scenes"
            )
    if not isinstance(data, QuestionSet):
        raise EdgelibError(
            f"data must be questions, as a model that writes needs, got {type(data).__name__}; load a set such as "
            "scenes-vqa, or take a classifier such as scenes-clip"
        )


def _batches(data: QuestionSet, size: int, models: Mapping[str, GenerativeModel]):
    """Batches of the data; of prompts of one length only, where a model cannot read padded ones."""
    careful = [model for model in models.values() if not model.pads]
    for positions, images, which in data.batches(size):
        if not careful:
            yield positions, images, which
            continue
        texts = careful[0].prompts(list(data.rows["question"].iloc[positions.numpy()]))
        lengths = torch.tensor([len(ids) for ids in careful[0].tokenizer(texts).input_ids])
        for length in lengths.unique():
            own = lengths == length
            yield positions[own], images, which[own]


def _rows(
    model: GenerativeModel,
    task: Task,
    rows: pd.DataFrame,
    positions: Tensor,
    made: Decoded,
    anchor: Tensor | None,
    condition: Condition,
) -> pd.DataFrame:
    bad = int((~torch.isfinite(made.logprob)).sum())
    if bad:
        raise EdgelibError(
            f"{model.name}: the scores of {bad} answers are NaN or infinite ({condition.corruption}, severity "
            f"{condition.severity}); the weights are damaged or a 16-bit format overflows: reload it, or try bf16"
        )
    nothing = torch.full((len(rows),), torch.nan)
    lean = yes_margin(model, made.first) if task.yes_no else nothing
    away = nothing if anchor is None else divergence(anchor, made.first)
    found = pd.DataFrame(
        {
            "item": rows["item"].to_numpy(),
            "image_id": rows["image_id"].to_numpy(),
            "prediction": model.text_of(made.tokens),
            "tokens": made.length.numpy(),
            "ended": made.ended.numpy(),
            "logprob": made.logprob.numpy(),
            "margin": made.margin.numpy(),
            "yes_margin": lean.cpu().numpy(),
            "kl": away.cpu().numpy(),
        },
        index=positions.numpy(),
    )
    floats = ["logprob", "margin", "yes_margin", "kl"]
    return found.astype(dict.fromkeys(floats, np.float32))


def _require_context(model: GenerativeModel, prompts: Prompts, questions: list[str], new: int) -> None:
    lengths = prompts.texts["attention_mask"].sum(dim=1)
    if int(lengths.max()) + new > model.context:
        longest = questions[int(lengths.argmax())]
        raise EdgelibError(
            f"question {longest!r} makes a prompt of {int(lengths.max())} tokens; with {new} new ones that is more "
            f"than the {model.context} that {model.name} reads: shorten it, or use smaller images"
        )
