"""The engine on the files that a study simulates: where the two differ, and how far apart answers can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import pandas as pd

from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError
from edgelib.kernels.llama_cpp.agreement import agreement_ladder
from edgelib.kernels.llama_cpp.engine import why_no_engine
from edgelib.models.generative import GenerativeModel
from edgelib.stats.paired import wilson


def prompts_of(asked: QuestionSet, n: int) -> tuple[list, list[str]]:
    """Return images and questions of at most n prompts: the first question of each image first, then the second."""
    rows = asked.rows.iloc[asked.rows.groupby("image").cumcount().to_numpy().argsort(kind="stable")[:n]]
    return [asked.images[[image]][0] for image in rows["image"]], list(rows["question"])


def engine_ladders(
    model: GenerativeModel, asked: QuestionSet, decoders: Sequence[str], vision: str, n: int, level: float = 0.95
) -> tuple[pd.DataFrame, str]:
    """Return (the steps of `agreement_ladder` for every decoder, why there are none).

    vision: of the tower's file. n: prompts, `prompts_of` the questions. Columns beside those of a ladder: mix,
    top1_low, the lower end of the Wilson interval of the top-1 agreement, and bound, the most by which the mean
    probability of any answer can differ between the two sides: sqrt(KL / 2), Pinsker's inequality.
    One thread, so that sums have one order. No rows and the reason where the engine is not installed, or where no GGUF
    file of such a model can be written.
    """
    reason = why_no_engine()
    if reason:
        return pd.DataFrame(), reason
    images, questions = prompts_of(asked, n)
    try:
        with TemporaryDirectory() as folder:
            ladders = [
                agreement_ladder(model, images, questions, mix, folder, vision=vision, threads=1).assign(mix=mix)
                for mix in decoders
            ]
    except EdgelibError as error:
        return pd.DataFrame(), str(error)
    rows = pd.concat(ladders, ignore_index=True)
    rows["top1_low"] = wilson(rows["top1"].to_numpy(), rows["n"].to_numpy(), level)[0]
    rows["bound"] = [math.sqrt(max(kl, 0.0) / 2) for kl in rows["kl"]]
    return rows, ""
