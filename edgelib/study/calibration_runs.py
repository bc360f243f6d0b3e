"""The study of calibration: each set is drawn once and serves every twin and configuration that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor, nn

from edgelib.corruptions.condition import Condition
from edgelib.data.images import pack_images
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError
from edgelib.ground.modules import shared_copy
from edgelib.infer.classify import features_of, outcomes
from edgelib.models.twins import planted
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.calibrate import calibrate
from edgelib.observe.distance import DISTANCES, activation_distance
from edgelib.observe.statistics import Statistics
from edgelib.quant.quantize import quantize
from edgelib.quant.report import quantization_report
from edgelib.quant.scheme import calibration_of, needs_of, scheme
from edgelib.source import code_version
from edgelib.study.classifier_grid import shared_spec
from edgelib.study.protocol import Study

REFERENCE = "fp32"
NO_DRAW = {"mix": "none", "size": 0, "seed": 0}  # how rows of a configuration that needs no calibration are marked


@dataclass(frozen=True)
class Draw:
    """One calibration set: a mix, how many images, and the seed that draws them."""

    mix: str
    size: int
    seed: int


@dataclass(frozen=True)
class TwinConfig:
    """What is calibrated: the outliers planted in the model ("plain" or "kind:strength"), and a scheme."""

    twin: str
    config: str


Run = tuple[TwinConfig, Draw | None]  # one quantized model that is scored, and the set it was calibrated on, if any


@dataclass(frozen=True)
class CalibrationStudy(Study[TwinConfig, Draw | None, "_Made"]):
    """Everything the outcomes of the runs depend on. Drift is measured from the plain model in `REFERENCE`.

    calibration_set: draws a set from (mix, size, seed), never of scored images. deployment: the conditions that every
    run is scored in; a cell holds them all, and the label-free distances between its draw and these images.
    """

    model: ZeroShotModel
    runs: tuple[Run, ...]
    data: Dataset
    calibration_set: Callable[[str, int, int], Any]
    deployment: tuple[Condition, ...] = (Condition(),)
    prompts: str | Sequence[str] = "simple"
    seed: int = 0
    table: str | None = None
    batch_size: int = field(default=256, compare=False)

    def __post_init__(self):
        if not self.runs or not self.deployment:
            raise EdgelibError("a study of calibration needs at least one run and one condition to score it in")
        for variant, draw in self.runs:
            if draw is None and scheme(variant.config).needs_calibration:
                raise EdgelibError(f"{variant.config} needs a calibration set; give the run a draw")

    @cached_property
    def variants(self) -> tuple[TwinConfig, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(variant for variant, _ in self.runs))

    def cells(self) -> Iterator[Run]:
        """Every run."""
        yield from self.runs

    def draw(self, draw: Draw) -> Dataset:
        """The calibration set of a draw."""
        return self.calibration_set(draw.mix, draw.size, draw.seed)

    def spec(self, variant: TwinConfig, draw: Draw | None) -> dict:
        """Plain values that name a cell: nothing else may change its rows."""
        return self._shared | {
            "twin": variant.twin,
            "scheme": scheme(variant.config).to_dict(),
            "draw": self._identity(draw),
            "deployment": [[c.corruption, c.severity] for c in self.deployment],
        }

    @cached_property
    def _shared(self) -> dict:
        model = {"model": self.model.fingerprint, "device": self.model.device.type, "code": code_version(__name__)}
        return shared_spec(self.data, self.prompts, self.seed, self.table) | model

    @cached_property
    def _fingerprints(self) -> dict[Draw, str]:
        """What every draw holds."""
        return {}

    def _identity(self, draw: Draw | None) -> list | None:
        if draw is None:
            return None
        if draw not in self._fingerprints:
            self._fingerprints[draw] = self.draw(draw).fingerprint
        return [draw.mix, draw.seed, self._fingerprints[draw]]  # the seed also samples rows

    def columns(self, variant: TwinConfig, draw: Draw | None) -> dict:
        """What the rows of a cell are marked with; mix is "none" and size 0 without calibration."""
        return {"twin": variant.twin, "config": variant.config, **(NO_DRAW if draw is None else vars(draw))}

    def module(self, variant: TwinConfig) -> nn.Module:
        """The network that a variant is a copy of."""
        return self.model.module

    def effort(self, draw: Draw | None, todo: Sequence[TwinConfig]) -> float:
        """Images to calibrate on, for every model."""
        return len(todo) * (1 + (draw.size if draw else 0))

    def for_thread(self) -> CalibrationStudy:
        """A study around a module of its own, because calibration changes its mode for a while; weights are shared."""
        study = replace(self, model=self.model.with_module(shared_copy(self.model.module)))
        vars(study)["_fingerprints"] = self._fingerprints  # the same draws, so nobody needs to look at them again
        return study

    def build(self, group: Sequence[TwinConfig]) -> _Made:
        """Room for what draws share: the reference's features, twins and their activations in deployment."""
        return _Made(self)

    def evaluate(self, built: _Made, draw: Draw | None, todo: Sequence[TwinConfig]) -> dict[TwinConfig, pd.DataFrame]:
        """Draw one set and score the models that use it, twin by twin."""
        images, rows = None if draw is None else self.draw(draw), {}
        for twin in dict.fromkeys(v.twin for v in todo):
            some = [v for v in todo if v.twin == twin]
            model, deployed = built.twin(twin)
            statistics, distance = None, {}
            if draw is not None and images is not None:
                needs = sorted(needs_of(v.config for v in some))
                statistics = calibrate(model, images, needs=needs, seed=draw.seed)
                distance = activation_distance(statistics, deployed)
            models = {
                v.config: quantize(model, v.config, calibration_of(v.config, statistics, images), losses=False)
                for v in some
            }
            scored = self._scored(models, built.reference)
            rows |= {v: scored[v.config].assign(**distance) for v in some}
        return rows

    def _scored(self, models: dict[str, ZeroShotModel], reference: dict[Condition, Tensor]) -> dict[str, pd.DataFrame]:
        """Outcomes of some models in all conditions: corruption, severity, then those of an outcome."""
        vectors = {n: m.class_vectors(self.data.class_names, templates(self.prompts)) for n, m in models.items()}
        parts: dict[str, list[pd.DataFrame]] = {name: [] for name in models}
        for condition in self.deployment:
            tables = outcomes(
                models,
                vectors,
                self.data,
                condition,
                reference=reference[condition],
                seed=self.seed,
                table=self.table,
                batch_size=self.batch_size,
            )
            for name, rows in tables.items():
                parts[name].append(rows.assign(**vars(condition))[[*vars(condition), *rows.columns]])
        return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


@dataclass(frozen=True)
class _Made:
    """What every draw needs, made in each process or thread when it is first asked for."""

    study: CalibrationStudy

    @cached_property
    def reference(self) -> dict[Condition, Tensor]:
        """The plain model's features in every condition."""
        s, model = self.study, quantize(self.study.model, REFERENCE)
        return {
            c: features_of(model, s.data, c, seed=s.seed, table=s.table, batch_size=s.batch_size) for c in s.deployment
        }

    @cached_property
    def _twins(self) -> dict[str, tuple[ZeroShotModel, Statistics]]:
        return {}

    def twin(self, name: str) -> tuple[ZeroShotModel, Statistics]:
        """A twin, and its activations on the deployment images."""
        if name not in self._twins:
            s = self.study
            model = planted(s.model, name, s.seed)
            self._twins[name] = model, calibrate(model, _deployed(s.data, s.deployment, s.seed, s.table))
        return self._twins[name]


def _deployed(data: Dataset, deployment: Sequence[Condition], seed: int, table: str | None) -> Dataset:
    """The scored images in every condition, to calibrate on: their labels reach no Linear."""
    images: list[Tensor] = []
    parts = []
    for condition in deployment:
        by_position = {}
        for positions, batch in data.batches(64):
            by_position |= dict(zip(positions.tolist(), condition.apply(batch, seed, table), strict=True))
        images += [by_position[position] for position in range(len(data))]
        items = data.rows["item"] + f" in {condition.corruption}:{condition.severity}"
        parts.append(data.rows.assign(item=items))
    names = [f"{position} in deployment" for position in range(len(images))]
    return replace(data, rows=pd.concat(parts, ignore_index=True), images=pack_images(images, names))


def distances_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per twin and draw: twin, mix, size, seed and the distances between that draw and deployment."""
    keys = ["twin", "mix", "size", "seed"]
    drawn = rows.loc[rows["mix"] != NO_DRAW["mix"], [*keys, *(d for d in DISTANCES if d in rows)]]
    return drawn.drop_duplicates(keys, ignore_index=True).reindex(columns=[*keys, *DISTANCES])


def layer_report(study: CalibrationStudy, twins: Sequence[str], config: str, draw: Draw) -> pd.DataFrame:
    """What `config` decided for every layer of the twins, calibrated on one draw.

    Columns: twin, tower and depth (the first part and the first number of the layer's name), those of
    `quantization_report`, and relative_loss, the layer's output error over that of rounding to nearest.
    """
    images, parts = study.draw(draw), []
    for twin in twins:
        model = planted(study.model, twin, study.seed)
        statistics = calibrate(model, images, needs=sorted(needs_of([config]) | {"rows"}), seed=draw.seed)
        made = quantize(model, config, calibration_of(config, statistics, images))
        parts.append(quantization_report(made).assign(twin=twin))
    table = pd.concat(parts, ignore_index=True)
    table["tower"] = table["layer"].str.split(".").str[0]
    table["depth"] = table["layer"].str.extract(r"\.(\d+)\.", expand=False).astype(float)
    table["relative_loss"] = table["loss"] / table["loss_rtn"]
    return table


def fraction_of(
    mixes: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], fraction: int = 1
) -> tuple[Draw, ...]:
    """Every `fraction`-th draw of the crossed design mix x size x seed, in a pattern that keeps it balanced.

    Kept are the draws whose level numbers add up to a multiple of `fraction` (a regular fraction, as in Latin squares):
    any two levels of different factors still meet about equally often as long as each factor has `fraction` levels.
    Raises EdgelibError for a fraction below 1 or above the number of levels of the longest factor.
    """
    most = max(len(mixes), len(sizes), len(seeds))
    if not 1 <= fraction <= most:
        raise EdgelibError(f"fraction={fraction!r} of a design whose longest factor has {most} levels: 1 to {most}")
    return tuple(
        Draw(mix, size, seed)
        for i, mix in enumerate(mixes)
        for j, size in enumerate(sizes)
        for k, seed in enumerate(seeds)
        if (i + j + k) % fraction == 0
    )
