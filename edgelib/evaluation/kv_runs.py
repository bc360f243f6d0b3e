"""A study of key-value caches: twins x caches x attention arithmetic on one set of questions, for `sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.evaluation.generate import answers, scored
from edgelib.evaluation.store import code_version
from edgelib.evaluation.sweep import PLAIN, planted
from edgelib.evaluation.zero_shot import Condition
from edgelib.inputs.calibration import calibration_set
from edgelib.inputs.datasets import dataset
from edgelib.inputs.generative_model import GenerativeModel
from edgelib.inputs.models import load
from edgelib.inputs.outliers import parse_twin
from edgelib.inputs.question_sets import QuestionSet
from edgelib.inputs.zero_shot_model import fingerprint_of
from edgelib.measure.statistics import percentile_interval, replicates, rng_for
from edgelib.quant.kv_attention import rounded_attention
from edgelib.quant.kv_cache import KVPlan, kv_cache
from edgelib.quant.kv_calibrate import KVStatistics, calibrate_kv
from edgelib.quant.kv_context import decoder_of
from edgelib.quant.kv_drift import kv_drift, prompt_batches
from edgelib.quant.kv_scheme import kv_scheme

EXACT = "exact"  # the model's own cache
FLOAT = "float"  # attention as the model computes it
_LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "pillow")  # whose versions can move an answer


@dataclass(frozen=True)
class KVVariant:
    """What answers: a cache ("exact" or the name of a KV scheme) and the numbers of attention ("float" or a format)."""

    cache: str = EXACT
    attention: str = FLOAT

    @property
    def name(self) -> str:
        """Unique within a study."""
        return f"{self.cache}|{self.attention}"


@dataclass(frozen=True)
class KVStudy:
    """Everything that the answers depend on.

    asked: the cells, each a variant and a twin ("plain" or "kind:strength"). Scales and offsets of a twin come from
    `calibration`, run on that twin. Of every twin the exact cache is the reference of its divergences.
    """

    model: GenerativeModel
    asked: tuple[tuple[KVVariant, str], ...]
    data: QuestionSet
    calibration: QuestionSet
    seed: int = 0
    max_new_tokens: int = 4
    batch_size: int = field(default=64, compare=False)

    def __post_init__(self):
        if not self.asked or len(set(self.asked)) < len(self.asked):
            raise EdgelibError("a study of caches needs at least one cell, and every cell once")
        for variant, twin in self.asked:
            if variant.cache != EXACT:
                kv_scheme(variant.cache)
            if twin != PLAIN:
                parse_twin(twin)

    @cached_property
    def variants(self) -> tuple[KVVariant, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(variant for variant, _ in self.asked))

    def cells(self) -> Iterator[tuple[KVVariant, str]]:
        """Every cell."""
        yield from self.asked

    @cached_property
    def _shared(self) -> dict:
        return {
            "caches": True, "model": self.model.fingerprint, "device": self.model.device.type,
            "dtype": str(self.model.dtype), "seed": self.seed, "data": self.data.fingerprint,
            "max_new_tokens": self.max_new_tokens, "versions": {name: version(name) for name in _LIBRARIES},
            "code": code_version(__name__),
        }  # fmt: skip

    def spec(self, variant: KVVariant, twin: str) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        plan = None if variant.cache == EXACT else kv_scheme(variant.cache)
        used = self.calibration.fingerprint if plan is not None and plan.needs_calibration else None
        return self._shared | {
            "twin": twin, "cache": None if plan is None else plan.to_dict(), "attention": variant.attention,
            "calibration": used,
        }  # fmt: skip

    def columns(self, variant: KVVariant, twin: str) -> dict:
        """What the rows of a cell are marked with."""
        return {"twin": twin, "cache": variant.cache, "attention": variant.attention}

    def module(self, variant: KVVariant) -> nn.Module:
        """The network that answers."""
        return self.model.module

    def build(self, group: Sequence[KVVariant]) -> None:
        """Nothing: a variant is a cache, and caches are made for each batch."""

    def evaluate(self, built: None, twin: str, todo: Sequence[KVVariant]) -> dict[KVVariant, pd.DataFrame]:
        """Rows of some variants on one twin."""
        model = planted(self.model, twin, self.seed)
        plans = plans_of(model, [v.cache for v in todo], self.calibration)
        found = {}
        for attention in dict.fromkeys(v.attention for v in todo):
            own = [v for v in todo if v.attention == attention]
            plain = attention == FLOAT
            names = dict.fromkeys([*([EXACT] if plain else []), *(v.cache for v in own)])
            with nullcontext() if plain else rounded_attention(model, attention):
                rows = answers(
                    dict.fromkeys(names, model), self.data, Condition(), reference=EXACT if plain else None,
                    caches={name: plans.get(name) for name in names}, max_new_tokens=self.max_new_tokens,
                    seed=self.seed, batch_size=self.batch_size,
                )  # fmt: skip
            found |= {v: scored(rows[v.cache], self.data) for v in own}
        return found


def plans_of(model: GenerativeModel, caches: Sequence[str], calibration: QuestionSet) -> dict[str, KVPlan]:
    """The factories of the caches called so, calibrated on this model; exact ones are left out."""
    schemes = {name: kv_scheme(name) for name in dict.fromkeys(caches) if name != EXACT}
    needed = any(scheme.needs_calibration for scheme in schemes.values())
    statistics = calibrate_kv(model, calibration) if needed else None
    return {name: kv_cache(model, scheme, statistics) for name, scheme in schemes.items()}


def state_rows(model: GenerativeModel, statistics: KVStatistics, twin: str = PLAIN) -> pd.DataFrame:
    """One row per layer, part and modality: amplitude, spread (median over channels) and, of K, the bias's share."""
    rows = []
    for (layer, part, offset), seen in statistics.states.items():
        if offset != "none":
            continue
        split = statistics.states.get((layer, part, "bias"))
        peaks, spreads = seen.abs_max(), seen.spread()
        for row, modality in enumerate(("text", "image")):
            if not seen.tokens[row]:
                continue
            peak = float(peaks[row].max())
            share = float("nan") if split is None else 1 - float(split.abs_max()[row].max()) / peak
            rows.append({
                "twin": twin, "layer": layer, "part": part, "modality": modality, "amplitude": peak,
                "spread": float(spreads[row].median()), "bias_share": share,
            })  # fmt: skip
    return pd.DataFrame(rows)


class KVParameters(Protocol):
    """The parameters that a study of caches is made from."""

    model: str
    dataset: str
    split: str
    n_images: int
    calibration: str
    n_calibration: int
    format: str
    attention: str
    twins: list[str]
    dose_kinds: list[str]
    doses: list[float]
    dose_schemes: list[str]
    fixes: list[str]
    max_new_tokens: int
    seed: int
    batch_size: int
    device: str
    local_files_only: bool


def games(format: str) -> dict[str, dict[tuple[str, ...], str]]:
    """The factorial experiments: by name, the cache in which each subset of factors acts.

    cause, part, tokens: of a cache with scale 1. delivery: of one whose calibrated scales are lost on the way.
    """
    whole, lost = f"{format}-one", f"{format}-amax"
    alone = {
        "cause": {"range": "rangeonly", "resolution": "resolutiononly"},
        "part": {"keys": "konly", "values": "vonly"},
        "tokens": {"image": "text16", "text": "image16"},
    }
    pairs = {
        name: {(): EXACT, **{(factor,): f"{whole}-{word}" for factor, word in own.items()}, tuple(own): whole}
        for name, own in alone.items()
    }
    cells = {
        (): EXACT, ("range",): f"{lost}-rangeonly", ("resolution",): f"{lost}-resolutiononly",
        ("range", "resolution"): lost,
    }  # fmt: skip
    without = {("lost scale",): f"{lost}-undelivered-scaleonly"} | {
        (*factors, "lost scale"): f"{cache}-undelivered" for factors, cache in cells.items() if factors
    }
    return pairs | {"delivery": cells | without}


def dosed(kind: str, dose: float) -> str:
    """The name of a twin."""
    return f"{kind}:{dose:g}"


def study_of(p: KVParameters) -> KVStudy:
    """Load what the parameters name and lay out the cells: two ablations, three ladders, fixes, doses.

    Calibration questions come from the data set's training split, or from items that are not scored. Raises
    EdgelibError for whatever cannot be loaded.
    """
    reading = {"offline": p.local_files_only}
    data = dataset(p.dataset, p.split, p.n_images, p.seed, **reading)
    places = [PLAIN, *p.twins]
    caches = [*(cache for cells in games(p.format).values() for cache in cells.values()), *p.fixes]
    cells = {(KVVariant(cache), twin): None for twin in places for cache in caches}
    ablation = [KVVariant(cache, p.attention) for cache in (EXACT, f"{p.format}-amax")]
    cells |= {(variant, twin): None for twin in places for variant in ablation}
    twins = [dosed(kind, dose) for kind in p.dose_kinds for dose in p.doses]
    cells |= {(KVVariant(cache), twin): None for twin in twins for cache in (EXACT, *p.dose_schemes)}
    return KVStudy(
        model=load(p.model, device=p.device, offline=p.local_files_only),
        asked=tuple(cells),
        data=data,
        calibration=calibration_set(p.calibration, p.n_calibration, p.seed, p.dataset, exclude=data, **reading),
        seed=p.seed,
        max_new_tokens=p.max_new_tokens,
        batch_size=p.batch_size,
    )


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
            each, ratio = 4 * len(decoder.blocks) * decoder.kv_heads * decoder.head_dim, 1.0
        else:
            filled = plans[cache]()
            with torch.no_grad():
                model.module(**batch, past_key_values=filled, use_cache=True)
            each = plans[cache].bytes_per_token
            ratio = filled.nbytes / (tokens * each)
        rows.append({"cache": cache, "bytes_per_token": each, "measured_ratio": ratio, "weight_bytes": weights})
    return pd.DataFrame(rows)


def drift_table(
    model: GenerativeModel, plans: Mapping[str, KVPlan], data: QuestionSet, steps: int, *, n_boot: int, level: float,
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Mean divergence by cache and step with bootstrap intervals over prompts: cache, step, kl, low, high, flips, n.

    The model writes on beyond the end of its answers, as `kv_drift` explains.
    """
    rows, prompts = [], prompt_batches(model, data)
    for cache, plan in plans.items():
        for step, own in kv_drift(model, plan, prompts, steps, beyond_end=True).groupby("step"):
            rng = rng_for(seed, "drift", cache, step)
            means, _ = replicates(own[["kl"]].to_numpy(), np.ones(len(own)), n_boot, rng)
            low, high = percentile_interval(means[1:, 0], level, len(own))
            rows.append({
                "cache": cache, "step": step, "kl": own.kl.mean(), "low": max(low, 1e-9), "high": high,
                "flips": own.flip.mean(), "n": len(own),
            })  # fmt: skip
    return pd.DataFrame(rows)


def weights_digest(model: GenerativeModel) -> str:
    """SHA-256 of every parameter and buffer, computed anew."""
    return fingerprint_of(model.module, [])
