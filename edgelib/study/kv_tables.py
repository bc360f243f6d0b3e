"""What a study of caches measures beside answers: the states themselves, bytes, errors by step, untouched weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from edgelib.data.questions import QuestionSet
from edgelib.kv.cache import KVPlan
from edgelib.kv.calibrate import MODALITIES, KVStatistics
from edgelib.kv.context import decoder_of
from edgelib.kv.drift import kv_drifts, prompt_batches
from edgelib.models.generative import GenerativeModel
from edgelib.models.twins import PLAIN
from edgelib.models.zero_shot import fingerprint_of
from edgelib.stats.paired import percentile_interval, replicates, rng_for
from edgelib.study.kv_grid import EXACT, plans_of


def state_rows(model: GenerativeModel, statistics: KVStatistics, twin: str = PLAIN) -> pd.DataFrame:
    """One row per layer, part and modality: amplitude, spread (median over channels) and, of K, the bias's share."""
    rows = []
    for (layer, part, offset), seen in statistics.states.items():
        if offset != "none":
            continue
        split = statistics.states.get((layer, part, "bias"))
        peaks, spreads = seen.abs_max(), seen.spread()
        for row, modality in enumerate(MODALITIES):
            if not seen.tokens[row]:
                continue
            peak = float(peaks[row].max())
            share = float("nan") if split is None else 1 - float(split.abs_max()[row].max()) / peak
            rows.append(
                {
                    "twin": twin,
                    "layer": layer,
                    "part": part,
                    "modality": modality,
                    "amplitude": peak,
                    "spread": float(spreads[row].median()),
                    "bias_share": share,
                }
            )
    return pd.DataFrame(rows)


def cache_costs(model: GenerativeModel, caches: Sequence[str], calibration: QuestionSet) -> pd.DataFrame:
    """What each cache weighs, one row per cache: bytes_per_token, measured_ratio, weight_bytes.

    bytes_per_token: of one more token in all layers, the exact cache in 16 bit. measured_ratio: bytes of a cache that a
    batch of calibration prompts filled over what bytes_per_token predicts for it; 1 for the exact cache, and above 1
    where tokens wait unrounded in a window. weight_bytes: of the model's parameters in 16 bit.
    """
    plans, rows = plans_of(model, caches, calibration), []
    weights = 2 * sum(p.numel() for p in model.module.parameters())
    batch = prompt_batches(model, calibration.subset(range(min(8, len(calibration)))))[0]
    tokens = batch["input_ids"].numel()
    for cache in caches:
        if cache == EXACT:
            decoder = decoder_of(model)
            each: float = 4 * len(decoder.blocks) * decoder.kv_heads * decoder.head_dim
            ratio = 1.0
        else:
            filled = plans[cache]()
            with torch.no_grad():
                model.module(**batch, past_key_values=filled, use_cache=True)
            each = plans[cache].bytes_per_token
            ratio = filled.nbytes / (tokens * each)
        rows.append({"cache": cache, "bytes_per_token": each, "measured_ratio": ratio, "weight_bytes": weights})
    return pd.DataFrame(rows)


def drift_table(
    model: GenerativeModel,
    plans: Mapping[str, KVPlan],
    data: QuestionSet,
    steps: int,
    *,
    n_boot: int,
    level: float,
    seed: int,
) -> pd.DataFrame:
    """Mean divergence by cache and step with bootstrap intervals over images.

    Columns: cache, step, kl, low, high, flips, n (prompts). The model writes on beyond the end of its
    answers, as `kv_drift` explains.
    """
    rows, prompts = [], prompt_batches(model, data)
    asked = np.concatenate([positions for positions, _, _ in data.batches()])  # `kv_drift` counts prompts in this order
    images = data.rows["image_id"].to_numpy()[asked]
    for cache, drift in kv_drifts(model, plans, prompts, steps, beyond_end=True).items():
        for step, own in drift.groupby("step"):
            rng = rng_for(seed, "drift", cache, step)
            by_image = own.groupby(images[own["item"]])["kl"].agg(["sum", "size"]).to_numpy(float)
            means, _ = replicates(by_image[:, :1], by_image[:, 1], n_boot, rng)
            low, high = percentile_interval(means[1:, 0], level, len(by_image))
            rows.append(
                {
                    "cache": cache,
                    "step": step,
                    "kl": own.kl.mean(),
                    "low": low,
                    "high": high,
                    "flips": own.flip.mean(),
                    "n": len(own),
                }
            )
    return pd.DataFrame(rows)


def weights_digest(model: GenerativeModel) -> str:
    """SHA-256 of every parameter and buffer, computed anew."""
    return fingerprint_of(model.module, [])
