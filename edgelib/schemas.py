"""Schemas of the chapters' parameters: what each one takes, its default and what it may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgelib.errors import EdgelibError, choose


class Parameters(BaseModel):
    """Base of every chapter's schema: unknown names are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    seed: int = Field(0, ge=0, lt=2**31, description="the only source of randomness")
    batch_size: int = Field(128, ge=1, description="images per forward pass; no result depends on it")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description='"cpu", "cuda", "cuda:1" or "mps"')
    local_files_only: bool = Field(False, description="never ask a hub: names must be folders or downloaded already")
    level: float = Field(0.95, ge=0.5, lt=1, description="confidence level of the intervals")
    results: str = Field("results", min_length=1, description="folder for outcomes, figures and tables")


Names = Annotated[list[str], Field(min_length=1)]
Severity = Annotated[int, Field(ge=1, le=5)]


class ZeroShot(Parameters):
    """What chapters share that classify images without training on them: the model, the prompts and the images."""

    model: str = Field("scenes-clip", min_length=1, description="zero-shot model: embedded name, folder or hub id")
    prompts: str = Field("simple", min_length=1, description="set of prompt templates, or one template with {}")
    dataset: str = Field("scenes", min_length=1, description='"scenes", a folder, an .npz file or a hub id')
    split: str = Field("test", min_length=1, description="split of the data set")
    image_column: str | None = Field(
        None, min_length=1, description="column of images, where the usual names do not fit"
    )
    label_column: str | None = Field(
        None, min_length=1, description="column of labels, where the usual names do not fit"
    )
    n_images: int = Field(64, ge=2, description="images drawn from the split")
    table: Literal["imagenet-c", "cifar-c"] | None = Field(
        None, description="severity table; null chooses by image size"
    )
    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "thread", "process"] = Field("thread", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="threads or processes of the executor")

    @field_validator("prompts")
    @classmethod
    def _prompts(cls, prompts: str) -> str:
        from edgelib.inputs.prompts import templates

        templates(prompts)
        return prompts


class EmbeddedWorld(Parameters):
    """Parameters of the chapter `embedded_world`."""

    model: str = Field("scenes-clip", min_length=1, description="an embedded model, a folder or a hub id")
    n_images: int = Field(300, ge=2, description="held-out scenes the model is scored on")
    twins: list[str] = Field(
        ["weight:10", "activation:100", "key:30", "value:30"],
        description='planted outliers as "kind:strength"; the function is unchanged',
    )

    @field_validator("twins")
    @classmethod
    def _twins(cls, twins: list[str]) -> list[str]:
        return [_checked_twin(twin) for twin in _distinct(twins)]


class RobustnessGap(ZeroShot):
    """Parameters of the chapter `robustness_gap`."""

    baseline_model: str | None = Field(
        "scenes-vit", description="supervised timm classifier of the same classes, or null"
    )
    configs: Names = Field(
        ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"],
        description="number formats: the reference first, then at least one to compare with it",
    )
    corruptions: Names = Field(
        ["gaussian_noise", "defocus_blur", "fog", "jpeg_compression"], description="corruptions to apply"
    )
    severities: Annotated[list[Severity], Field(min_length=1)] = Field(
        [1, 5], description="severities 1 (mild) to 5 (harsh)"
    )
    twins: list[str] = Field(
        ["weight:4", "weight:16", "activation:32", "activation:512"],
        description='planted outliers as "kind:strength": twins evaluated beside the model',
    )
    baseline_configs: Names | None = Field(
        None, description="configurations of the supervised baseline, the reference first; null takes all"
    )
    twin_configs: Names | None = Field(
        None, description="configurations evaluated on the twins; null takes all but the reference"
    )
    twin_severities: Annotated[list[Severity], Field(min_length=1)] | None = Field(
        None, description="severities evaluated on the twins; null takes the middle one"
    )
    calibration: str = Field("balanced", min_length=1, description="calibration mix")
    n_calibration: int = Field(64, ge=1, description="images in the calibration mix")

    @field_validator("configs", "twin_configs", "baseline_configs")
    @classmethod
    def _configs(cls, configs: list[str] | None) -> list[str] | None:
        from edgelib.quant.scheme import scheme

        for config in _distinct(configs or []):
            scheme(config)
        return configs

    @field_validator("configs")
    @classmethod
    def _comparison(cls, configs: list[str]) -> list[str]:
        if len(configs) < 2:
            raise EdgelibError("needs at least 2 number formats: the reference, and one to compare with it")
        return configs

    @field_validator("corruptions")
    @classmethod
    def _corruptions(cls, corruptions: list[str]) -> list[str]:
        from edgelib.inputs.corruptions import CORRUPTIONS

        for corruption in _distinct(corruptions):
            choose(CORRUPTIONS, corruption, "corruption")
        return corruptions

    @field_validator("calibration")
    @classmethod
    def _calibration(cls, mix: str) -> str:
        from edgelib.inputs.mixes import parse_mix

        parse_mix(mix)
        return mix

    @field_validator("severities", "twin_severities")
    @classmethod
    def _severities(cls, severities: list[int] | None) -> list[int] | None:
        return severities and sorted(_distinct(severities))

    @field_validator("twins")
    @classmethod
    def _twins(cls, twins: list[str]) -> list[str]:
        return [_checked_twin(twin) for twin in _distinct(twins)]

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

    ladder: Names = Field(
        ["w4a8-minmax", "w4a8-smoothquant-search", "w4a8-awq-fixed", "w4a8-awq-noclip", "w4a8-awq", "w4a8-gptq",
         "w4a8-imatrix"],
        description="configurations compared with the first one, on one mix and size",
    )  # fmt: skip
    configs: Names = Field(
        ["w8a8-minmax-static", "w8a8-smoothquant", "w4a8-awq", "w4a8-gptq"],
        description="configurations of the crossed experiment; each must need a calibration set",
    )
    mixes: Names = Field(["balanced", "dark", "noise"], description="calibration mixes, the usual one first")
    sizes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)] = Field(
        [8, 64], description="numbers of calibration images"
    )
    seeds: int = Field(2, ge=2, le=1000, description="calibration draws, seeds 0, 1, ... of the crossed design")
    fraction: int = Field(1, ge=1, description="run every fraction-th combination of mix, size and seed")
    ladder_size: int = Field(64, ge=1, description="calibration images of the ladder; its mix is the first one")
    twins: list[str] = Field(
        ["weight:8", "activation:128"], description='planted outliers as "kind:strength", beside the plain model'
    )
    deployment: Names = Field(["clean"], description='conditions the models are scored in: "clean" or "fog:3"')
    margin: float = Field(0.02, gt=0, lt=1, description="accuracy one is ready to lose for a cheaper calibration")

    @field_validator("ladder", "configs")
    @classmethod
    def _configs(cls, configs: list[str], info) -> list[str]:
        from edgelib.quant.scheme import scheme

        for config in _distinct(configs):
            if not scheme(config).needs_calibration and info.field_name == "configs":
                raise EdgelibError(
                    f"{config} needs no calibration set, so nothing of it can depend on one; leave it out"
                )
        if len(configs) < 2:
            raise EdgelibError("needs at least 2 configurations to compare")
        return configs

    @field_validator("mixes")
    @classmethod
    def _mixes(cls, mixes: list[str]) -> list[str]:
        from edgelib.inputs.mixes import parse_mix

        for mix in _distinct(mixes):
            parse_mix(mix)
        if len(mixes) < 2:
            raise EdgelibError("needs at least 2 mixes to compare")
        return mixes

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, sizes: list[int]) -> list[int]:
        return sorted(_distinct(sizes))

    @field_validator("twins")
    @classmethod
    def _twins(cls, twins: list[str]) -> list[str]:
        return [_checked_twin(twin) for twin in _distinct(twins)]

    @field_validator("deployment")
    @classmethod
    def _deployment(cls, names: list[str]) -> list[str]:
        from edgelib.evaluation.zero_shot import condition

        for name in _distinct(names):
            condition(name)
        return names

    @model_validator(mode="after")
    def _fraction_of_the_design(self) -> CalibrationSensitivity:
        longest = max(len(self.mixes), len(self.sizes), self.seeds)
        if self.fraction > longest:
            raise EdgelibError(f"fraction = {self.fraction} of a design whose longest factor has {longest} levels")
        return self


SCHEMAS: dict[str, type[Parameters]] = {
    "embedded_world": EmbeddedWorld,
    "robustness_gap": RobustnessGap,
    "calibration_sensitivity": CalibrationSensitivity,
}


def _distinct(values: list) -> list:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise EdgelibError(f"named twice: {', '.join(twice)}; name each once")
    return values


def _checked_twin(twin: str) -> str:
    from edgelib.inputs.outliers import parse_twin

    parse_twin(twin)
    return twin
