"""Is a packed file as small as predicted, and does it answer as the model that was saved?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from edgelib.data.labelled import Dataset
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.size import packed_size
from edgelib.infer.sensitivity import class_logits
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.quant.quantize import quantize


def packed_round_trip(
    model: ZeroShotModel, configs: Sequence[str], data: Dataset, *, prompts: str | Sequence[str] = "simple"
) -> pd.DataFrame:
    """Return one row per configuration: predicted and file bytes, and how far the reloaded model's answers are.

    config; predicted: of `packed_size`; file: of packed.safetensors on disk; max_difference: of class logits between
    the model that was saved and the one that was loaded; flips: images whose answer differs.
    Raises EdgelibError for schemes that need calibration, as `quantize` does.
    """
    images = [batch for _, batch in data.batches(64)]
    rows = []
    for config in configs:
        made = quantize(model, config)
        with tempfile.TemporaryDirectory() as folder:
            saved = save_packed(made, Path(folder) / "packed")
            size = (saved / "packed.safetensors").stat().st_size
            before, after = (class_logits(m, images, data.class_names, prompts) for m in (made, load_packed(saved)))
        rows.append(
            dict(
                config=config,
                predicted=packed_size(model, config)["total"],
                file=size,
                max_difference=float((before - after).abs().max()),
                flips=int((before.argmax(1) != after.argmax(1)).sum()),
            )
        )
    return pd.DataFrame(rows)
