"""The chapter `calibration_sensitivity`: how much of a result is the choice, and the luck, of calibration images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, model_validator

from edgelib.chapters.schema.base import ZeroShot
from edgelib.chapters.schema.fields import (
    MOST_ITEMS,
    Conditions,
    Configs,
    Mixes,
    Twins,
    at_least_two,
    distinct,
    each,
    scheme_of,
)
from edgelib.chapters.schema.kinds import check_parts
from edgelib.errors import EdgelibError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgelib.chapters.schema import present
    from edgelib.study.calibration_runs import CalibrationStudy, Draw


def _dependent(config: str) -> None:
    if not scheme_of(config).needs_calibration:
        raise EdgelibError(f"{config} needs no calibration set, so nothing of it can depend on one; leave it out")


class CalibrationSensitivity(ZeroShot):
    """Parameters of the chapter `calibration_sensitivity`."""

    # The predictor of drops is tested by n_bootstrap - 1 permutations, which makes one draw more than the others need.
    n_bootstrap: int = Field(1000, ge=101, le=100_000, description="bootstrap draws behind each interval")
    ladder: Annotated[Configs, at_least_two("configurations to compare")] = Field(
        ["w4a8-minmax", "w4a8-awq-fixed", "w4a8-awq"],
        description="configurations compared with the first one, on one mix and size",
    )
    configs: Annotated[Configs, each(_dependent), at_least_two("configurations to compare")] = Field(
        ["w8a8-minmax-static", "w4a8-awq-fixed"],
        description="configurations of the crossed experiment; each must need a calibration set",
    )
    mixes: Annotated[Mixes, at_least_two("mixes to compare")] = Field(
        ["balanced", "noise"], description="calibration mixes, the usual one first"
    )
    sizes: Annotated[
        list[Annotated[int, Field(ge=1, le=MOST_ITEMS)]],
        Field(min_length=2),
        AfterValidator(distinct),
        AfterValidator(sorted),
    ] = Field([8, 32], description="numbers of calibration images")
    seeds: int = Field(2, ge=2, le=1000, description="calibration draws of the crossed design, seeds 0, 1, ...")
    fraction: int = Field(1, ge=1, description="run every fraction-th combination of mix, size and seed; divides seeds")
    ladder_size: int = Field(
        32, ge=1, le=MOST_ITEMS, description="calibration images of the ladder; its mix is the first one"
    )
    ladder_seeds: int = Field(2, ge=1, le=1000, description="calibration draws of the ladder, seeds 0, 1, ...")
    twins: Twins = Field(["weight:8"], description='planted outliers as "kind:strength", beside the plain model')
    deployment: Conditions = Field(["clean"], description='conditions the models are scored in: "clean" or "fog:3"')
    margin: float = Field(0.02, gt=0, lt=1, description="accuracy one is ready to lose for a cheaper calibration")

    @model_validator(mode="after")
    def _fraction_of_the_design(self) -> CalibrationSensitivity:
        if self.seeds % self.fraction:
            raise EdgelibError(
                f"fraction = {self.fraction} of seeds = {self.seeds} leaves some mixes and sizes more draws than "
                "others; take a divisor of seeds, or seeds that are a multiple of the fraction"
            )
        levels = len(self.mixes), len(self.sizes), self.seeds
        draws, least = math.prod(levels) // self.fraction, 2 + sum(levels) - len(levels)
        if draws < least:
            raise EdgelibError(
                f"fraction = {self.fraction} of {levels[0]} mixes x {levels[1]} sizes x seeds = {levels[2]} keeps "
                f"{draws} draws, but telling their effects from the rest needs {least}; "
                "take a smaller fraction or more seeds"
            )
        return self

    @model_validator(mode="after")
    def _groups_of_the_predictor(self) -> CalibrationSensitivity:
        groups = (1 + len(self.twins)) * len(self.configs)
        if groups < 3:
            raise EdgelibError(
                f"{len(self.configs)} configs without twins are {groups} groups of runs, but a predictor that leaves "
                "out one group at a time needs 3; add a twin or a configuration"
            )
        return self

    def design(self) -> tuple[Draw, ...]:
        """The calibration sets of the crossed experiment."""
        from edgelib.study.calibration_runs import fraction_of

        return fraction_of(self.mixes, self.sizes, range(self.seeds), self.fraction)

    def draws(self) -> Iterable[present.Draw]:
        """The largest calibration set of each mix, and that of the ladder."""
        yield from self.one_draw(self.ladder, self.mixes[0], self.ladder_size)
        for mix in self.mixes:
            yield from self.one_draw(self.configs, mix, max(self.sizes))

    def study(self) -> CalibrationStudy:
        """Load what the parameters name and lay out the runs: the reference, the ladder, the crossed experiment.

        The ladder has the first mix, `ladder_size` images and `ladder_seeds` draws; a configuration that needs no
        calibration is run once. Raises EdgelibError for whatever cannot be loaded.
        """
        from functools import partial

        from edgelib.corruptions.condition import condition
        from edgelib.data.calibration import calibration_set
        from edgelib.models.twins import PLAIN
        from edgelib.study.calibration_runs import REFERENCE, CalibrationStudy, Draw, TwinConfig

        data = self.load_data()
        model = self.load_model()
        check_parts(model, [*self.ladder, *self.configs], self.twins, self.seed)
        steps = [Draw(self.mixes[0], self.ladder_size, seed) for seed in range(self.ladder_seeds)]
        runs: dict[tuple[TwinConfig, Draw | None], None] = {(TwinConfig(PLAIN, REFERENCE), None): None}
        for twin in (PLAIN, *self.twins):
            for config in self.ladder:
                draws = steps if scheme_of(config).needs_calibration else [None]
                runs |= {(TwinConfig(twin, config), draw): None for draw in draws}
            runs |= {(TwinConfig(twin, c), draw): None for draw in self.design() for c in self.configs}
        return CalibrationStudy(
            model=model,
            runs=tuple(runs),
            data=data,
            calibration_set=partial(calibration_set, source=self.dataset, exclude=data, **self.reading()),
            deployment=tuple(condition(name) for name in self.deployment),
            **self.protocol(),
        )
