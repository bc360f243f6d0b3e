"""Parameters of the chapters that classify images."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgelib.chapters.base import Parameters, ZeroShot
from edgelib.chapters.fields import (
    Conditions,
    Configs,
    Corruptions,
    Mix,
    Mixes,
    Name,
    Severities,
    Twins,
    at_least_two,
    distinct,
    each,
    scheme_of,
)
from edgelib.errors import EdgelibError


def _dependent(config: str) -> None:
    if not scheme_of(config).needs_calibration:
        raise EdgelibError(f"{config} needs no calibration set, so nothing of it can depend on one; leave it out")


class EmbeddedWorld(Parameters):
    """Parameters of the chapter `embedded_world`."""

    model: Name = Field("scenes-clip", description="an embedded model, a folder or a hub id")
    n_images: int = Field(300, ge=2, description="held-out scenes the model is scored on")
    twins: Twins = Field(
        ["weight:10", "activation:100", "key:30", "value:30"],
        description='planted outliers as "kind:strength"; the function is unchanged',
    )


class RobustnessGap(ZeroShot):
    """Parameters of the chapter `robustness_gap`."""

    baseline_model: str | None = Field(
        "scenes-vit", description="supervised timm classifier of the same classes, or null"
    )
    configs: Annotated[Configs, at_least_two("number formats: the reference, and one to compare with it")] = Field(
        ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"],
        description="number formats: the reference first, then at least one to compare with it",
    )
    corruptions: Corruptions = Field(
        ["gaussian_noise", "defocus_blur", "fog", "jpeg_compression"], description="corruptions to apply"
    )
    severities: Severities = Field([1, 5], description="severities 1 (mild) to 5 (harsh)")
    twins: Twins = Field(
        ["weight:4", "weight:16", "activation:32", "activation:512"],
        description='planted outliers as "kind:strength": twins evaluated beside the model',
    )
    baseline_configs: Configs | None = Field(
        None, description="configurations of the supervised baseline, the reference first; null takes all"
    )
    twin_configs: Configs | None = Field(
        None, description="configurations evaluated on the twins; null takes all but the reference"
    )
    twin_severities: Severities | None = Field(
        None, description="severities evaluated on the twins; null takes the middle one"
    )
    calibration: Mix = Field("balanced", description="calibration mix")
    n_calibration: int = Field(64, ge=1, description="images in the calibration mix")

    @model_validator(mode="after")
    def _twins_within_the_grid(self) -> RobustnessGap:
        middle = self.severities[len(self.severities) // 2]
        defaults = {"twin_configs": self.configs[1:], "twin_severities": [middle], "baseline_configs": self.configs}
        for field, default in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)  # the model is frozen for everyone else
        parts = {"twin_configs": ("configs", self.twins), "twin_severities": ("severities", self.twins)}
        parts |= {"baseline_configs": ("configs", self.baseline_model)}
        for field, (whole, used) in parts.items():
            outside = [value for value in getattr(self, field) if value not in getattr(self, whole)]
            if used and outside:
                listed = ", ".join(map(repr, getattr(self, whole)))
                raise EdgelibError(f"{field} names {', '.join(map(repr, outside))}, but {whole} has only {listed}")
        if self.baseline_model and (self.baseline_configs[0] != self.configs[0] or len(self.baseline_configs) < 2):
            raise EdgelibError(
                f"baseline_configs = {self.baseline_configs}: name the reference {self.configs[0]!r} first, then at "
                "least one configuration to compare with it"
            )
        return self


class CalibrationSensitivity(ZeroShot):
    """Parameters of the chapter `calibration_sensitivity`."""

    ladder: Annotated[Configs, at_least_two("configurations to compare")] = Field(
        [
            "w4a8-minmax",
            "w4a8-smoothquant-search",
            "w4a8-awq-fixed",
            "w4a8-awq-noclip",
            "w4a8-awq",
            "w4a8-gptq",
            "w4a8-imatrix",
        ],
        description="configurations compared with the first one, on one mix and size",
    )
    configs: Annotated[Configs, each(_dependent), at_least_two("configurations to compare")] = Field(
        ["w8a8-minmax-static", "w8a8-smoothquant", "w4a8-awq", "w4a8-gptq"],
        description="configurations of the crossed experiment; each must need a calibration set",
    )
    mixes: Annotated[Mixes, at_least_two("mixes to compare")] = Field(
        ["balanced", "dark", "noise"], description="calibration mixes, the usual one first"
    )
    sizes: Annotated[
        list[Annotated[int, Field(ge=1)]], Field(min_length=2), AfterValidator(distinct), AfterValidator(sorted)
    ] = Field([8, 64], description="numbers of calibration images")
    seeds: int = Field(2, ge=2, le=1000, description="calibration draws of the crossed design, seeds 0, 1, ...")
    fraction: int = Field(1, ge=1, description="run every fraction-th combination of mix, size and seed; divides seeds")
    ladder_size: int = Field(64, ge=1, description="calibration images of the ladder; its mix is the first one")
    ladder_seeds: int = Field(2, ge=1, le=1000, description="calibration draws of the ladder, seeds 0, 1, ...")
    twins: Twins = Field(
        ["weight:8", "activation:128"], description='planted outliers as "kind:strength", beside the plain model'
    )
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
