"""From a chapter's checked parameters to the grid they ask for, the same in a notebook and on the command line."""

from __future__ import annotations

from typing import Protocol

from edgelib.evaluate.sweep import Grid, conditions_of, variants_of
from edgelib.inputs.calibration import calibration_set
from edgelib.inputs.datasets import dataset
from edgelib.inputs.models import load
from edgelib.quant.scheme import scheme


class Plan(Protocol):
    """What `grid_of` reads; the parameters of `robustness_gap` have all of it."""

    model: str
    baseline_model: str | None
    prompts: str
    dataset: str
    split: str
    n_images: int
    configs: list[str]
    corruptions: list[str]
    severities: list[int]
    table: str | None
    twins: list[str]
    calibration: str
    n_calibration: int
    seed: int
    batch_size: int
    device: str
    offline: bool


def grid_of(plan: Plan) -> Grid:
    """Return the grid of a plan: its model and twins in every configuration, and the baseline model without twins.

    Calibration images come from the plan's data set, never those that are scored, and only where a configuration needs
    them. Raises EdgelibError for whatever the loaders refuse.
    """
    data = dataset(plan.dataset, plan.split, plan.n_images, plan.seed, offline=plan.offline)
    models = {plan.model: load(plan.model, device=plan.device, offline=plan.offline)}
    variants = variants_of(plan.model, plan.twins, plan.configs)
    if plan.baseline_model is not None:
        models[plan.baseline_model] = load(plan.baseline_model, device=plan.device, offline=plan.offline)
        variants += variants_of(plan.baseline_model, (), plan.configs)
    calibration = None
    if any(scheme(config).needs_calibration for config in plan.configs):
        calibration = calibration_set(
            plan.calibration, plan.n_calibration, plan.seed, plan.dataset, exclude=data, offline=plan.offline
        )
    conditions = conditions_of(plan.corruptions, plan.severities)
    return Grid(models, variants, conditions, data, calibration, plan.prompts, plan.seed, plan.table, plan.batch_size)
