"""Runs of an experiment on calibration: each set is drawn once and serves every twin and configuration that uses it.

The unit of work is a draw (mix, size, seed). Outcomes are cells of the same store as a sweep's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd
from torch import Tensor

from edgelib.corruptions.condition import Condition
from edgelib.data.calibration import calibration_set
from edgelib.data.images import pack_images
from edgelib.data.labelled import Dataset
from edgelib.data.prompts import templates
from edgelib.errors import EdgelibError
from edgelib.ground.modules import shared_copy
from edgelib.ground.progress import progress_bar
from edgelib.infer.classify import features_of, outcomes
from edgelib.models.twins import planted
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.calibrate import calibrate
from edgelib.observe.distance import DISTANCES, activation_distance
from edgelib.observe.statistics import Statistics
from edgelib.quant.quantize import quantize
from edgelib.quant.report import quantization_report
from edgelib.quant.scheme import needs_of, scheme
from edgelib.study.executors import run_tasks
from edgelib.study.store import CellStore, code_version
from edgelib.study.sweep import shared_spec

REFERENCE = "fp32"


@dataclass(frozen=True)
class Draw:
    """One calibration set: a mix, how many images, and the seed that draws them."""

    mix: str
    size: int
    seed: int


@dataclass(frozen=True)
class Run:
    """One quantized model that is scored: the twin, its configuration, the set it was calibrated on (None: none)."""

    twin: str
    config: str
    draw: Draw | None


@dataclass(frozen=True)
class Experiment:
    """Everything the outcomes of the runs depend on. Drift is measured from the plain model in `REFERENCE`.

    source: where calibration images come from, as `calibration_set` takes it, with its options; scored images are
    never among them. deployment: the conditions the models are scored in.
    """

    model: ZeroShotModel
    runs: tuple[Run, ...]
    data: Dataset
    source: str
    reading: Mapping = field(default_factory=dict)
    deployment: tuple[Condition, ...] = (Condition(),)
    prompts: str | Sequence[str] = "simple"
    seed: int = 0
    table: str | None = None
    batch_size: int = field(default=256, compare=False)

    def __post_init__(self):
        if not self.runs or not self.deployment:
            raise EdgelibError("an experiment needs at least one run and one condition to score it in")
        for run in self.runs:
            if run.draw is None and scheme(run.config).needs_calibration:
                raise EdgelibError(f"{run.config} needs a calibration set; give the run a draw")

    def draw(self, draw: Draw) -> Dataset:
        """The calibration set of a draw."""
        return calibration_set(draw.mix, draw.size, draw.seed, self.source, exclude=self.data, **self.reading)

    @cached_property
    def _shared(self) -> dict:
        own = {"model": self.model.fingerprint, "device": self.model.device.type, "code": code_version(__name__)}
        return shared_spec(self.data, self.prompts, self.seed, self.table) | own

    @cached_property
    def _drawn(self) -> dict[Draw | None, str | None]:
        """What every draw holds, by fingerprint."""
        return {None: None}

    def _told(self, draw: Draw | None) -> list | None:
        if draw not in self._drawn:
            self._drawn[draw] = self.draw(draw).fingerprint
        return None if draw is None else [draw.mix, draw.seed, self._drawn[draw]]  # the seed also samples rows

    def spec(self, run: Run, condition: Condition) -> dict:
        """Plain values that name the outcomes of a run."""
        return self._shared | {
            "twin": run.twin,
            "scheme": scheme(run.config).to_dict(),
            "draw": self._told(run.draw),
            "corruption": condition.corruption,
            "severity": condition.severity,
        }

    def distance_spec(self, twin: str, draw: Draw) -> dict:
        """Plain values that name the distances between a draw and deployment."""
        conditions = [[c.corruption, c.severity] for c in self.deployment]
        return self._shared | {"distance": [twin, self._told(draw)], "deployment": conditions}


def run_experiment(
    experiment: Experiment, store: CellStore, *, executor: str = "serial", workers: int = 2, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the runs that the store lacks; return (outcomes, distances), both in the experiment's order.

    outcomes: columns twin, config, mix, size, seed, corruption, severity, then those of an outcome; mix is "none" and
    size 0 without calibration. distances: twin, mix, size, seed and the label-free distances of `activation_distance`
    between that draw and the deployment images. A run that is killed and started again computes only what is missing.
    """
    missing: dict[Draw | None, list[Run]] = {}
    for run in experiment.runs:
        if not _complete(experiment, store, run):
            missing.setdefault(run.draw, []).append(run)
    with progress_bar(sum(map(len, missing.values())), "runs", progress and bool(missing)) as advance:
        # the longest first, so that no worker is left alone with one at the end
        tasks = sorted(missing.items(), key=lambda task: -len(task[1]) * (1 + (task[0].size if task[0] else 0)))
        tasks = [(draw, tuple(runs)) for draw, runs in tasks]
        for done in run_tasks(_score, tasks, _Job(experiment, store), executor=executor, workers=workers):
            advance(done)
    return _collected(experiment, store)


def _complete(experiment: Experiment, store: CellStore, run: Run) -> bool:
    scored = all(experiment.spec(run, c) in store for c in experiment.deployment)
    return scored and (run.draw is None or experiment.distance_spec(run.twin, run.draw) in store)


@dataclass(frozen=True)
class _Job:
    """What every task needs, built by a process or thread when it is first asked for."""

    experiment: Experiment
    store: CellStore

    def for_thread(self) -> _Job:
        """A job around modules of its own, because calibration changes their mode for a while; weights are shared."""
        e = self.experiment
        own = replace(e, model=e.model.with_module(shared_copy(e.model.module)))
        vars(own)["_drawn"] = e._drawn  # the same draws, so nobody needs to look at them again
        return _Job(own, self.store)

    @cached_property
    def reference(self) -> dict[Condition, Tensor]:
        """The plain model's features in every condition."""
        e, model = self.experiment, quantize(self.experiment.model, REFERENCE)
        return {
            c: features_of(model, e.data, c, seed=e.seed, table=e.table, batch_size=e.batch_size) for c in e.deployment
        }

    @cached_property
    def _twins(self) -> dict[str, tuple[ZeroShotModel, Statistics]]:
        return {}

    def twin(self, name: str) -> tuple[ZeroShotModel, Statistics]:
        """A twin, and its activations on the deployment images."""
        if name not in self._twins:
            e = self.experiment
            model = planted(e.model, name, e.seed)
            self._twins[name] = model, calibrate(model, _deployed(e.data, e.deployment, e.seed, e.table))
        return self._twins[name]


def _deployed(data: Dataset, deployment: Sequence[Condition], seed: int, table: str | None) -> Dataset:
    """The scored images in every condition, to calibrate on: their labels reach no Linear."""
    images: list[Tensor] = []
    for condition in deployment:
        found = {}
        for positions, batch in data.batches(64):
            found |= dict(zip(positions.tolist(), condition.apply(batch, seed, table), strict=True))
        images += [found[position] for position in range(len(data))]
    names = [f"{position} in deployment" for position in range(len(images))]
    rows = pd.concat([data.rows] * len(deployment), ignore_index=True)
    return replace(data, rows=rows, images=pack_images(images, names))


def _score(job: _Job, draw: Draw | None, runs: tuple[Run, ...]) -> int:
    """Draw one set and score the runs that use it, twin by twin."""
    e = job.experiment
    images = None if draw is None else e.draw(draw)
    for twin in dict.fromkeys(run.twin for run in runs):
        mine = [run for run in runs if run.twin == twin]
        model, deployed = job.twin(twin)
        seen = None
        if images is not None:
            seen = calibrate(model, images, needs=sorted(needs_of(run.config for run in mine)), seed=draw.seed)
        models = {run.config: quantize(model, run.config, seen, losses=False) for run in mine}
        vectors = {n: m.class_vectors(e.data.class_names, templates(e.prompts)) for n, m in models.items()}
        for condition in e.deployment:
            found = outcomes(
                models,
                vectors,
                e.data,
                condition,
                reference=job.reference[condition],
                seed=e.seed,
                table=e.table,
                batch_size=e.batch_size,
            )
            for run in mine:
                job.store.write(e.spec(run, condition), found[run.config])
        if seen is not None:
            distance = pd.DataFrame([activation_distance(seen, deployed)])
            job.store.write(e.distance_spec(twin, draw), distance)
    return len(runs)


def _collected(experiment: Experiment, store: CellStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts, distances = [], {}
    for run in experiment.runs:
        drawn = {"mix": "none", "size": 0, "seed": 0} if run.draw is None else vars(run.draw)
        *scored, distance = _read(experiment, store, run)
        for condition, rows in zip(experiment.deployment, scored, strict=True):
            where = {"twin": run.twin, "config": run.config, **drawn, **vars(condition)}
            parts.append(rows.assign(**where)[[*where, *rows.columns]])
        if distance is not None and (run.twin, run.draw) not in distances:
            where = {"twin": run.twin, **drawn}
            distances[run.twin, run.draw] = distance.assign(**where)[[*where, *distance.columns]]
    none = pd.DataFrame(columns=["twin", "mix", "size", "seed", *DISTANCES])
    return pd.concat(parts, ignore_index=True), pd.concat([*distances.values()] or [none], ignore_index=True)


def _read(experiment: Experiment, store: CellStore, run: Run) -> list[pd.DataFrame | None]:
    """The outcomes of a run, one table per condition, then its distances (None without a draw)."""
    specs = [experiment.spec(run, condition) for condition in experiment.deployment]
    if run.draw is not None:
        specs.append(experiment.distance_spec(run.twin, run.draw))
    found = [store.read(spec) for spec in specs]
    if any(rows is None for rows in found):  # damaged, which shows only now: compute it again
        _score(_Job(experiment, store), run.draw, (run,))
        found = [store.read(spec) for spec in specs]
    return found if run.draw is not None else [*found, None]


def layer_report(experiment: Experiment, twins: Sequence[str], config: str, draw: Draw) -> pd.DataFrame:
    """What `config` decided for every layer of the twins, calibrated on one draw.

    Columns: twin, tower and depth (the first part and the first number of the layer's name), those of
    `quantization_report`, and relative_loss, the layer's output error over that of rounding to nearest.
    """
    images, parts = experiment.draw(draw), []
    for twin in twins:
        model = planted(experiment.model, twin, experiment.seed)
        seen = calibrate(model, images, needs=sorted(needs_of([config]) | {"rows"}), seed=draw.seed)
        parts.append(quantization_report(quantize(model, config, seen)).assign(twin=twin))
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
