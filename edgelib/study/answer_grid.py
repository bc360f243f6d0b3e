"""A study of models that write: variants x question sets x image conditions, for `sweep`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version

import pandas as pd
from torch import nn

from edgelib.corruptions.condition import Condition
from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError, choose
from edgelib.infer.generate import LIBRARIES, MAX_NEW_TOKENS, answers, scored
from edgelib.models.generative import GenerativeModel
from edgelib.models.twins import PLAIN, parse_twin, planted
from edgelib.observe.calibrate import calibrate
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import calibration_of, needs_of, scheme, scheme_for
from edgelib.source import code_version
from edgelib.study.identity import identity
from edgelib.study.protocol import Study

NO_MIX = "none"  # the mix of a variant that needs no calibration


@dataclass(frozen=True)
class AnswerVariant:
    """What answers: outliers planted in the model ("plain" or "kind:strength"), a scheme, and its calibration mix."""

    twin: str
    config: str
    mix: str = NO_MIX

    @property
    def name(self) -> str:
        """Unique within a grid."""
        return f"{self.twin}|{self.config}|{self.mix}"


@dataclass(frozen=True)
class Place:
    """Where variants are compared: the questions of a task, about images in a condition."""

    task: str
    condition: Condition = Condition()


@dataclass(frozen=True)
class AnswerGrid(Study[AnswerVariant, Place, dict]):
    """Everything that the answers depend on. The first variant is the baseline of every divergence.

    asked: the cells, each a variant at a place. sets: question sets by task. calibrations: sets by mix. instruction: a
    line below each question; None for the benchmark's own.
    """

    model: GenerativeModel
    asked: tuple[tuple[AnswerVariant, Place], ...]
    sets: dict[str, QuestionSet]
    calibrations: dict[str, QuestionSet]
    seed: int = 0
    table: str | None = None
    instruction: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = field(default=64, compare=False)

    def __post_init__(self):
        if not self.asked:
            raise EdgelibError("a study of answers needs at least one variant and one place")
        if len(set(self.asked)) < len(self.asked):
            raise EdgelibError("the same variant is asked twice at one place; name each cell once")
        for variant, place in self.asked:
            choose(self.sets, place.task, "task of the grid")
            if variant.twin != PLAIN:
                parse_twin(variant.twin)
            if scheme(variant.config).needs_calibration:
                choose(self.calibrations, variant.mix, "calibration mix of the grid")

    @cached_property
    def variants(self) -> tuple[AnswerVariant, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(variant for variant, _ in self.asked))

    def cells(self) -> Iterator[tuple[AnswerVariant, Place]]:
        """Every cell."""
        yield from self.asked

    def spec(self, variant: AnswerVariant, place: Place) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        return self._shared | {
            "data": self.sets[place.task].fingerprint,
            "instruction": self._instruction(place),
            "corruption": place.condition.corruption,
            "severity": place.condition.severity,
            "variant": self._identity(variant),
        }

    def _instruction(self, place: Place) -> str:
        return self.sets[place.task].task.instruction if self.instruction is None else self.instruction

    def _identity(self, variant: AnswerVariant) -> list:
        return identity(variant.twin, variant.config, lambda: self.calibrations[variant.mix].fingerprint)

    @cached_property
    def _shared(self) -> dict:
        return {
            "answers": True,
            "model": self.model.fingerprint,
            "device": self.model.device.type,
            "dtype": str(self.model.dtype),
            "baseline": self._identity(self.variants[0]),
            "seed": self.seed,
            "table": self.table,
            "max_new_tokens": self.max_new_tokens,
            "code": code_version(__name__),
            "versions": {name: version(name) for name in LIBRARIES},
        }

    def columns(self, variant: AnswerVariant, place: Place) -> dict:
        """What the rows of a cell are marked with."""
        return {
            "twin": variant.twin,
            "config": variant.config,
            "mix": variant.mix,
            "task": place.task,
            "corruption": place.condition.corruption,
            "severity": place.condition.severity,
        }

    def part(self, start: int, stop: int) -> AnswerGrid:
        """The grid of some of the questions of every task, as far as it has so many."""
        sets = {
            task: asked.subset(range(min(start, len(asked) - 1), min(stop, len(asked))))
            for task, asked in self.sets.items()
        }
        return replace(self, sets=sets)

    def items(self, place: Place) -> int:
        """Questions of the task."""
        return len(self.sets[place.task])

    def module(self, variant: AnswerVariant) -> nn.Module:
        """The network that a variant is a copy of."""
        return self.model.module

    def build(self, group: Sequence[AnswerVariant]) -> dict[AnswerVariant, GenerativeModel]:
        """Twins and quantized copies of some variants and of the baseline; one pass calibrates a twin on a mix."""
        built = {}
        members = sorted(dict.fromkeys([self.variants[0], *group]), key=lambda v: (v.twin, v.mix))
        for (twin, mix), variants in itertools.groupby(members, key=lambda v: (v.twin, v.mix)):
            some = list(variants)
            base = planted(self.model, twin, self.seed)
            needs = needs_of(scheme_for(base, v.config) for v in some)
            seen = calibrate(base, self.calibrations[mix], needs=sorted(needs)) if needs else None
            for v in some:
                own = calibration_of(v.config, seen, self.calibrations.get(mix))
                built[v] = quantize(base, v.config, own, losses=False)
        return built

    def evaluate(
        self, built: dict[AnswerVariant, GenerativeModel], place: Place, todo: Sequence[AnswerVariant]
    ) -> dict[AnswerVariant, pd.DataFrame]:
        """Rows of one place for some of the variants that were built."""
        baseline = self.variants[0]
        names = {v: v.name for v in dict.fromkeys([baseline, *todo])}
        found = answers(
            {name: built[v] for v, name in names.items()},
            self.sets[place.task],
            place.condition,
            reference=baseline.name,
            instruction=self._instruction(place),
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            table=self.table,
            batch_size=self.batch_size,
        )
        return {v: found[v.name] for v in todo}

    def score(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sweep with score, said and parsed added, as `answer_scores` defines them."""
        return pd.concat(
            [scored(part, self.sets[task]) for task, part in rows.groupby("task", sort=False)]
        ).sort_index()
