"""From a chapter's parameters to the grid or the experiment they ask for."""

from __future__ import annotations

from typing import Protocol

from edgelib.corruptions.condition import condition
from edgelib.data.calibration import calibration_set
from edgelib.data.datasets import dataset
from edgelib.models.load import load
from edgelib.models.twins import PLAIN
from edgelib.quant.scheme import scheme
from edgelib.study.calibration_runs import REFERENCE, Draw, Experiment, Run, fraction_of
from edgelib.study.sweep import Grid, conditions_of, variants_of


class GridParameters(Protocol):
    """The parameters that a grid of zero-shot outcomes is made from."""

    model: str
    baseline_model: str | None
    prompts: str
    dataset: str
    split: str
    n_images: int
    label_column: str | None
    image_column: str | None
    configs: list[str]
    baseline_configs: list[str]
    corruptions: list[str]
    severities: list[int]
    table: str | None
    twins: list[str]
    twin_configs: list[str]
    twin_severities: list[int]
    calibration: str
    n_calibration: int
    seed: int
    batch_size: int
    device: str
    local_files_only: bool


def grid_of(p: GridParameters) -> Grid:
    """Load what the parameters name and lay out the grid: the model and its twins, then the supervised baseline.

    Calibration images come from the data set's training split, or from items that are not scored. Raises EdgelibError
    for whatever cannot be loaded.
    """
    reading = {"offline": p.local_files_only, "label_column": p.label_column, "image_column": p.image_column}
    data = dataset(p.dataset, p.split, p.n_images, p.seed, **reading)
    seen = None
    if any(scheme(c).needs_calibration for c in p.configs):
        seen = calibration_set(p.calibration, p.n_calibration, p.seed, p.dataset, exclude=data, **reading)
    model = load(p.model, device=p.device, offline=p.local_files_only)
    models = {model.name: model}
    variants = variants_of(model.name, p.twins, p.configs, p.twin_configs)
    if p.baseline_model is not None:
        baseline = load(p.baseline_model, device=p.device, offline=p.local_files_only)
        name = baseline.name if baseline.name != model.name else f"{baseline.name} (baseline)"
        models[name] = baseline
        variants += variants_of(name, [], p.baseline_configs)
    return Grid(
        models=models,
        variants=variants,
        conditions=conditions_of(p.corruptions, p.severities),
        twin_conditions=conditions_of(p.corruptions, p.twin_severities),
        data=data,
        calibration=seen,
        prompts=p.prompts,
        seed=p.seed,
        table=p.table,
        batch_size=p.batch_size,
    )


class ExperimentParameters(Protocol):
    """The parameters that an experiment on calibration is made from."""

    model: str
    prompts: str
    dataset: str
    split: str
    n_images: int
    label_column: str | None
    image_column: str | None
    ladder: list[str]
    configs: list[str]
    mixes: list[str]
    sizes: list[int]
    seeds: int
    fraction: int
    ladder_size: int
    ladder_seeds: int
    twins: list[str]
    deployment: list[str]
    table: str | None
    seed: int
    batch_size: int
    device: str
    local_files_only: bool


def design_of(p: ExperimentParameters) -> tuple[Draw, ...]:
    """The calibration sets of the crossed experiment."""
    return fraction_of(p.mixes, p.sizes, range(p.seeds), p.fraction)


def experiment_of(p: ExperimentParameters) -> Experiment:
    """Load what the parameters name and lay out the runs: the reference, the ladder, the crossed experiment.

    The ladder has the first mix, `ladder_size` images and `ladder_seeds` draws; a configuration that needs no
    calibration is run once. Raises EdgelibError for whatever cannot be loaded.
    """
    reading = {"offline": p.local_files_only, "label_column": p.label_column, "image_column": p.image_column}
    data = dataset(p.dataset, p.split, p.n_images, p.seed, **reading)
    steps = [Draw(p.mixes[0], p.ladder_size, seed) for seed in range(p.ladder_seeds)]
    runs = {Run(PLAIN, REFERENCE, None): None}
    for twin in (PLAIN, *p.twins):
        for config in p.ladder:
            draws = steps if scheme(config).needs_calibration else [None]
            runs |= {Run(twin, config, draw): None for draw in draws}
        runs |= {Run(twin, config, draw): None for draw in design_of(p) for config in p.configs}
    return Experiment(
        model=load(p.model, device=p.device, offline=p.local_files_only),
        runs=tuple(runs),
        data=data,
        source=p.dataset,
        reading=reading,
        deployment=tuple(condition(name) for name in p.deployment),
        prompts=p.prompts,
        seed=p.seed,
        table=p.table,
        batch_size=p.batch_size,
    )
