"""A grid of (model variant x image condition) evaluated into a cell store: resumable, in this process or in several.

The unit of work is a condition: its images are corrupted once and every variant that still lacks the cell sees them.
`Grid` is the study of classifiers, `edgelib.study.answer_grid` that of models that write.
What a cell holds depends on its spec only, never on executor, order or what ran before; batch size and threads can
move the last bits of margin and drift.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

import pandas as pd
import psutil
from torch import nn

from edgelib.corruptions import table_for
from edgelib.corruptions.condition import Condition
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError, choose
from edgelib.ground.progress import progress_bar
from edgelib.infer.classify import outcomes
from edgelib.models.twins import PLAIN, parse_twin, planted
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.calibrate import calibrate
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import needs_of, scheme
from edgelib.study.executors import EXECUTORS, run_tasks
from edgelib.study.store import CellStore, code_version

_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "pillow")  # whose versions can move an outcome


@dataclass(frozen=True)
class Variant:
    """What is evaluated: a model, the outliers planted in it ("plain" or "kind:strength"), a quantization scheme."""

    model: str
    twin: str
    config: str

    @property
    def name(self) -> str:
        """Unique within a grid."""
        return f"{self.model}|{self.twin}|{self.config}"


@dataclass(frozen=True)
class Grid:
    """Everything a sweep's outcomes depend on. The first variant of each model is the reference of its drift.

    conditions: of every plain variant. twin_conditions: of the twins, None for the same.
    """

    models: dict[str, ZeroShotModel]
    variants: tuple[Variant, ...]
    conditions: tuple[Condition, ...]
    data: Dataset
    calibration: Dataset | None = None
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
            if scheme(variant.config).needs_calibration and self.calibration is None:
                raise EdgelibError(f"{variant.config} needs a calibration set; give the grid one")

    def cells(self) -> Iterator[tuple[Variant, Condition]]:
        """Every cell, variant by variant."""
        for variant in self.variants:
            planted_in = variant.twin != PLAIN and self.twin_conditions is not None
            for condition in self.twin_conditions if planted_in else self.conditions:
                yield variant, condition

    def columns(self, variant: Variant, condition: Condition) -> dict:
        """What the rows of a cell are marked with."""
        return {
            "model": variant.model,
            "twin": variant.twin,
            "config": variant.config,
            "corruption": condition.corruption,
            "severity": condition.severity,
        }

    def module(self, variant: Variant) -> nn.Module:
        """The network that a variant is a copy of."""
        return self.models[variant.model].module

    def build(self, group: Sequence[Variant]) -> _Built:
        """The models of some variants, made once for all conditions."""
        return _Built(self, group)

    def evaluate(self, built: _Built, condition: Condition, todo: Sequence[Variant]) -> dict[Variant, pd.DataFrame]:
        """Rows of one condition for some of the variants that were built."""
        found: dict[Variant, pd.DataFrame] = {}
        for model in dict.fromkeys(v.model for v in todo):
            reference = self.reference(model)
            mine = [v for v in todo if v.model == model]
            names = dict.fromkeys([reference.name, *(v.name for v in mine)])
            rows = outcomes(
                {n: built.models[n] for n in names},
                built.vectors,
                self.data,
                condition,
                reference=reference.name,
                seed=self.seed,
                table=self.table,
                batch_size=self.batch_size,
            )
            found |= {v: rows[v.name] for v in mine}
        return found

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

    def spec(self, variant: Variant, condition: Condition) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        return self._shared | {
            "model": self.models[variant.model].fingerprint,
            "device": self.models[variant.model].device.type,
            "variant": self._told(variant),
            "corruption": condition.corruption,
            "severity": condition.severity,
            "drift_from": self._told(self.reference(variant.model)),
        }

    def _told(self, variant: Variant) -> list:
        plan = scheme(variant.config)
        return [variant.twin, plan.to_dict(), self.calibration.fingerprint if plan.needs_calibration else None]


def shared_spec(data: Dataset, prompts: str | Sequence[str], seed: int, table: str | None) -> dict:
    """Plain values on which every outcome of a study depends, whatever is evaluated."""
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


def sweep(
    grid: Grid, store: CellStore, *, executor: str = "serial", workers: int = 2, progress: bool = True
) -> pd.DataFrame:
    """Evaluate the cells that the store lacks and return all rows of the grid, in grid order.

    Columns: model, twin, config, corruption, severity, then those of an outcome. A run that is killed and started
    again computes only what is missing. executor "thread" or "process" spreads conditions over `workers` of them.
    Raises EdgelibError if a worker process dies; what was stored stays.
    """
    choose(dict.fromkeys(EXECUTORS), executor, "executor")
    missing: dict[Condition, list[Variant]] = {}
    for variant, condition in grid.cells():
        if grid.spec(variant, condition) not in store:
            missing.setdefault(condition, []).append(variant)
    if missing:
        total = sum(map(len, missing.values()))
        with progress_bar(total, "cells", progress) as advance:
            for done in _run(grid, store, missing, executor, workers):
                advance(done)
    return _collect(grid, store)


def _collect(grid: Grid, store: CellStore) -> pd.DataFrame:
    parts = []
    for variant, condition in grid.cells():
        rows = store.read(grid.spec(variant, condition))
        if rows is None:  # found damaged only now: compute it again
            _fill(grid, store, grid.build([variant]), condition, [variant])
            rows = store.read(grid.spec(variant, condition))
        where = grid.columns(variant, condition)
        parts.append(rows.assign(**where)[[*where, *rows.columns]])
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class _Job:
    """What every task of a group of variants needs; built once in this process, or once in each of several."""

    grid: Grid
    store: CellStore
    group: list[Variant]

    @cached_property
    def built(self) -> _Built:
        return self.grid.build(self.group)

    def for_thread(self) -> _Job:
        """This job: forward passes do not change the models, so all threads share them."""
        _ = self.built
        return self


def _run(grid: Grid, store: CellStore, missing: dict, executor: str, workers: int) -> Iterator[int]:
    wanted = [v for v in grid.variants if any(v in variants for variants in missing.values())]
    for group in _groups(grid, wanted, copies=workers if executor == "process" else 1):
        tasks = [(c, todo) for c, variants in missing.items() if (todo := [v for v in variants if v in group])]
        yield from run_tasks(_work, tasks, _Job(grid, store, group), executor=executor, workers=workers)


def _work(job: _Job, condition: Condition, todo: list[Variant]) -> int:
    return _fill(job.grid, job.store, job.built, condition, todo)


def _fill(grid: Grid, store: CellStore, built: object, condition: Condition, todo: list[Variant]) -> int:
    """Evaluate one condition for some variants of one group and store the cells; returns how many."""
    for variant, rows in grid.evaluate(built, condition, todo).items():
        store.write(grid.spec(variant, condition), rows)
    return len(todo)


class _Built:
    """Twins and quantized copies of a group of variants with their class vectors, made once for all conditions."""

    def __init__(self, grid: Grid, group: Sequence[Variant]):
        self.models: dict[str, ZeroShotModel] = {}
        self.vectors = {}
        lines = templates(grid.prompts)
        references = [grid.reference(m) for m in dict.fromkeys(v.model for v in group)]
        members = dict.fromkeys([*references, *group])
        for (model, twin), some in itertools.groupby(members, key=lambda v: (v.model, v.twin)):
            some = list(some)
            base = planted(grid.models[model], twin, grid.seed)
            needs = needs_of(v.config for v in some)
            seen = calibrate(base, grid.calibration, needs=sorted(needs)) if needs else None
            for variant in some:
                self.models[variant.name] = quantize(base, variant.config, seen, losses=False)
                self.vectors[variant.name] = self.models[variant.name].class_vectors(grid.data.class_names, lines)


def _groups(grid: Grid, wanted: Sequence[Variant], copies: int = 1) -> Iterator[list[Variant]]:
    """Cut the variants into groups of which `copies` fit half of the memory that is free now."""
    free = psutil.virtual_memory().available
    group, used = [], 0
    for variant in wanted:
        size = copies * sum(p.numel() * p.element_size() for p in grid.module(variant).parameters())
        if group and used + size > free / 2:
            yield group
            group, used = [], 0
        group.append(variant)
        used += size
    if group:
        yield group
