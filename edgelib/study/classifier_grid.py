"""The study of classifiers: variants of models x conditions of the images, calibrated on one draw or on several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import ClassVar

import pandas as pd
from torch import Tensor, nn

from edgelib.corruptions import table_for
from edgelib.corruptions.condition import Condition
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError, choose
from edgelib.infer.classify import outcomes
from edgelib.models.twins import PLAIN, parse_twin, planted
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.calibrate import calibrate
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import calibration_of, needs_of, scheme
from edgelib.source import code_version
from edgelib.study.identity import identity
from edgelib.study.protocol import Study

_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "pillow")  # whose versions can move an outcome

SHARD = 2048  # images that a worker takes at once of a longer cell


@dataclass(frozen=True)
class Variant:
    """What is evaluated: a model, the outliers planted in it ("plain" or "kind:strength"), a quantization scheme.

    draw: number of the calibration set, of those of the grid; 0 where the scheme needs none.
    """

    model: str
    twin: str
    config: str
    draw: int = 0

    @property
    def name(self) -> str:
        """Unique within a grid."""
        return f"{self.model}|{self.twin}|{self.config}|{self.draw}"


@dataclass(frozen=True)
class Built:
    """Twins and quantized copies of a group of variants with their class vectors, by the variants' names."""

    models: dict[str, ZeroShotModel]
    vectors: dict[str, Tensor]


@dataclass(frozen=True)
class ClassifierGrid(Study[Variant, Condition, Built]):
    """Everything that the outcomes depend on. The first variant of each model is the reference of its drift.

    conditions: of every plain variant. twin_conditions: of the twins, None for the same. calibrations: sets that
    variants name by number.
    """

    most_kept: ClassVar[float] = 2**30  # one copy of CLIP ViT-B/32; more would save runs of the reference alone

    models: dict[str, ZeroShotModel]
    variants: tuple[Variant, ...]
    conditions: tuple[Condition, ...]
    data: Dataset
    calibrations: tuple[Dataset, ...] = ()
    prompts: str | Sequence[str] = "simple"
    seed: int = 0
    table: str | None = None
    twin_conditions: tuple[Condition, ...] | None = None
    batch_size: int = field(default=256, compare=False)

    def __post_init__(self):
        names = [v.name for v in self.variants]
        if not names or not self.conditions:
            raise EdgelibError("a sweep needs at least one variant and one condition")
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise EdgelibError(f"variants named twice: {', '.join(repeated)}; name each once")
        templates(self.prompts)
        for variant in self.variants:
            choose(self.models, variant.model, "model of the grid")
            if variant.twin != PLAIN:
                parse_twin(variant.twin)
            if scheme(variant.config).needs_calibration and variant.draw >= len(self.calibrations):
                raise EdgelibError(f"{variant.config} needs calibration set {variant.draw}; give the grid one")

    def cells(self) -> Iterator[tuple[Variant, Condition]]:
        """Every cell, variant by variant."""
        for variant in self.variants:
            plain = variant.twin == PLAIN or self.twin_conditions is None
            for condition in self.conditions if plain else self.twin_conditions or ():
                yield variant, condition

    def columns(self, variant: Variant, condition: Condition) -> dict:
        """What the rows of a cell are marked with; draw where the grid has several calibration sets."""
        marks: dict[str, object] = {"model": variant.model, "twin": variant.twin, "config": variant.config}
        if len(self.calibrations) > 1:
            marks["draw"] = variant.draw
        return marks | {"corruption": condition.corruption, "severity": condition.severity}

    def module(self, variant: Variant) -> nn.Module:
        """The network that a variant is a copy of."""
        return self.models[variant.model].module

    def build(self, group: Sequence[Variant]) -> Built:
        """The models of some variants and of their references; one pass calibrates a twin on a set."""
        models, lines = {}, templates(self.prompts)
        references = [self.reference(m) for m in dict.fromkeys(v.model for v in group)]
        members = dict.fromkeys([*references, *group])
        for (model, twin, draw), variants in itertools.groupby(members, key=lambda v: (v.model, v.twin, v.draw)):
            some = list(variants)
            base = planted(self.models[model], twin, self.seed)
            needs = [needs_of([v.config]) for v in some]
            data = self.calibrations[draw] if draw < len(self.calibrations) else None
            # statistics of one reader are its own, so that it gives them back layer by layer
            shared = sum(map(bool, needs)) > 1
            statistics = calibrate(base, data, needs=sorted(frozenset().union(*needs))) if shared else None
            for v in some:
                seen = calibration_of(v.config, statistics, data) if shared else data
                models[v.name] = quantize(base, v.config, seen, losses=False)
        return Built(models, {name: m.class_vectors(self.data.class_names, lines) for name, m in models.items()})

    def evaluate(self, built: Built, condition: Condition, todo: Sequence[Variant]) -> dict[Variant, pd.DataFrame]:
        """Rows of one condition for some of the variants that were built."""
        rows: dict[Variant, pd.DataFrame] = {}
        for model in dict.fromkeys(v.model for v in todo):
            reference, some = self.reference(model), [v for v in todo if v.model == model]
            by_name = outcomes(
                {name: built.models[name] for name in dict.fromkeys([reference.name, *(v.name for v in some)])},
                built.vectors,
                self.data,
                condition,
                reference=reference.name,
                seed=self.seed,
                table=self.table,
                batch_size=self.batch_size,
            )
            rows |= {v: by_name[v.name] for v in some}
        return rows

    def shards(self, condition: Condition) -> list[tuple[int, int]]:
        """Shards of whole batches, of `SHARD` images or less; the batches are those of the cell in one piece."""
        size = max(SHARD - SHARD % self.batch_size, self.batch_size)
        starts = range(0, len(self.data), size)
        return [(start, min(start + size, len(self.data))) for start in starts] if len(starts) > 1 else []

    def part(self, start: int, stop: int) -> ClassifierGrid:
        """The grid of some of the images."""
        return replace(self, data=self.data.subset(range(start, stop)))

    def stages(self, condition: Condition) -> Iterator[str]:
        """Reading and corrupting, batch by batch."""
        for _, images in self.data.batches(self.batch_size):
            yield "reading"
            condition.apply(images, self.seed, self.table)
            yield "corrupting"

    def items(self, condition: Condition) -> int:
        """Images of the set."""
        return len(self.data)

    def reference(self, model: str) -> Variant:
        """The variant whose features others of the same model are compared with."""
        return next(v for v in self.variants if v.model == model)

    @property
    def severity_table(self) -> str:
        """Name of the severity table: the one asked for, or the one that fits the first image's size."""
        if self.table is not None:
            return self.table
        _, image = next(self.data.batches(1))
        return table_for(*image.shape[-2:])

    @cached_property
    def _shared(self) -> dict:
        return shared_spec(self.data, self.prompts, self.seed, self.table) | {"code": code_version(__name__)}

    @cached_property
    def _named(self) -> dict[str, dict[str, str]]:
        """What names each model in a spec; a network is asked once, not for every cell."""
        return {name: {"model": m.fingerprint, "device": m.device.type} for name, m in self.models.items()}

    def spec(self, variant: Variant, condition: Condition) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        return self._shared | {
            **self._named[variant.model],
            "variant": self._identity(variant),
            "corruption": condition.corruption,
            "severity": condition.severity,
            "drift_from": self._identity(self.reference(variant.model)),
        }

    def _identity(self, variant: Variant) -> list:
        return identity(variant.twin, variant.config, lambda: self.calibrations[variant.draw].fingerprint)


def shared_spec(data: Dataset, prompts: str | Sequence[str], seed: int, table: str | None) -> dict:
    """Plain values on which every outcome of a study of classifiers depends, whatever is evaluated."""
    return {
        "data": data.fingerprint,
        "prompts": list(templates(prompts)),
        "seed": seed,
        "table": table,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def variants_of(
    model: str, twins: Sequence[str], configs: Sequence[str], twin_configs: Sequence[str] | None = None
) -> tuple[Variant, ...]:
    """The plain model in every configuration, then each twin in `twin_configs` (None: in every one too)."""
    plain = [Variant(model, PLAIN, config) for config in configs]
    return (*plain, *(Variant(model, t, c) for t in twins for c in (configs if twin_configs is None else twin_configs)))


def conditions_of(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[Condition, ...]:
    """Clean images, then every corruption at every severity."""
    return (Condition(), *(Condition(c, s) for c in corruptions for s in severities))
