"""A study of key-value caches: twins x caches x attention arithmetic on one set of questions, for `sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version

import pandas as pd
from torch import nn

from edgelib.corruptions.condition import Condition
from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError
from edgelib.infer.generate import LIBRARIES, answers, scored
from edgelib.kv.attention import rounded_attention
from edgelib.kv.cache import KVPlan, kv_cache
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.scheme import kv_scheme
from edgelib.models.generative import GenerativeModel
from edgelib.models.twins import PLAIN, parse_twin, planted
from edgelib.source import code_version
from edgelib.study.protocol import Study

EXACT = "exact"  # the model's own cache
FLOAT = "float"  # attention as the model computes it


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
class KVStudy(Study[KVVariant, str, None]):
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
            "caches": True,
            "model": self.model.fingerprint,
            "device": self.model.device.type,
            "dtype": str(self.model.dtype),
            "seed": self.seed,
            "data": self.data.fingerprint,
            "max_new_tokens": self.max_new_tokens,
            "versions": {name: version(name) for name in LIBRARIES},
            "code": code_version(__name__),
        }

    def spec(self, variant: KVVariant, twin: str) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        cache = None if variant.cache == EXACT else kv_scheme(variant.cache)
        calibration = self.calibration.fingerprint if cache is not None and cache.needs_calibration else None
        return self._shared | {
            "twin": twin,
            "cache": None if cache is None else cache.to_dict(),
            "attention": variant.attention,
            "calibration": calibration,
        }

    def columns(self, variant: KVVariant, twin: str) -> dict:
        """What the rows of a cell are marked with."""
        return {"twin": twin, "cache": variant.cache, "attention": variant.attention}

    def part(self, start: int, stop: int) -> KVStudy:
        """The study of some of the questions."""
        return replace(self, data=self.data.subset(range(start, stop)))

    def items(self, twin: str) -> int:
        """Questions of the set."""
        return len(self.data)

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
                    dict.fromkeys(names, model),
                    self.data,
                    Condition(),
                    reference=EXACT if plain else None,
                    caches={name: plans.get(name) for name in names},
                    share=False,
                    max_new_tokens=self.max_new_tokens,
                    seed=self.seed,
                    batch_size=self.batch_size,
                )
            found |= {v: rows[v.cache] for v in own}
        return found

    def score(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sweep as `scored` completes them."""
        return scored(rows, self.data)


def plans_of(model: GenerativeModel, caches: Sequence[str], calibration: QuestionSet) -> dict[str, KVPlan]:
    """The factories of the caches called so, calibrated on this model; exact ones are left out."""
    schemes = {name: kv_scheme(name) for name in dict.fromkeys(caches) if name != EXACT}
    needed = any(scheme.needs_calibration for scheme in schemes.values())
    statistics = calibrate_kv(model, calibration) if needed else None
    return {name: kv_cache(model, scheme, statistics) for name, scheme in schemes.items()}
