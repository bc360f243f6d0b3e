"""Schemas of the chapters' parameters: what each one takes, its default and what it may be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

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


class VlmAccuracy(Parameters):
    """Parameters of the chapter `vlm_accuracy`."""

    model: str = Field("scenes-vlm", min_length=1, description="a model that writes: embedded name, folder or hub id")
    vqa: str = Field("scenes-vqa", min_length=1, description="questions in the columns of lmms-lab/VQAv2")
    vqa_split: str = Field("test", min_length=1, description="split of the VQA questions")
    n_vqa: int = Field(24, ge=2, description="VQA images, each with all of its questions")
    pope: str = Field("scenes-pope", min_length=1, description="questions in the columns of lmms-lab/POPE")
    pope_split: str = Field("test", min_length=1, description="split of the POPE questions")
    n_pope: int = Field(8, ge=2, description="POPE images, each with all of its questions")
    mme: str = Field("scenes-mme", min_length=1, description="questions in the columns of lmms-lab/MME")
    mme_split: str = Field("test", min_length=1, description="split of the MME questions")
    n_mme: int = Field(42, ge=28, description="MME images, spread over the sub-tasks")
    configs: Names = Field(
        ["bf16", "w8a16", "w4a16", "w8a8-smoothquant", "fp8", "w4a16-awq", "nvfp4"],
        description="configurations of the decoder: the reference first, then at least one to compare with it",
    )
    vision_configs: list[str] = Field(
        ["w8a8-smoothquant-vision"], description="configurations that round the vision tower too"
    )
    twins: Names = Field(["weight:16"], description='planted outliers as "kind:strength", beside the plain model')
    twin_configs: Names = Field(["w4a16", "w4a16-awq"], description="configurations evaluated on the twins")
    calibration: str = Field("balanced", min_length=1, description="calibration mix")
    calibration_source: Literal["vqa", "pope", "mme"] = Field("vqa", description="whose questions calibrate")
    n_calibration: int = Field(32, ge=1, description="questions in a calibration set")
    translation_config: str = Field("w4a16-awq", description="configuration of the language experiment")
    translation_mixes: Annotated[list[str], Field(min_length=2, max_length=2)] = Field(
        ["english", "balanced"], description="calibration mixes that are compared: one language, and both"
    )
    translation_draws: int = Field(1, ge=1, le=100, description="calibration draws of each mix, seeds 0, 1, ...")
    n_translation: int = Field(8, ge=2, description="images of the translation sub-task of MME")
    conditions: Names = Field(["gaussian_noise:3", "fog:3"], description='conditions such as "fog:3"')
    corrupted_task: Literal["vqa", "pope", "mme"] = Field("pope", description="questions asked about corrupted images")
    table: Literal["imagenet-c", "cifar-c"] | None = Field(
        None, description="severity table; null chooses by image size"
    )
    instruction: str = Field("", description="a line after each question, as real models want to be asked")
    max_new_tokens: int = Field(8, ge=1, le=4096, description="longest answer, in tokens")
    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "process"] = Field("serial", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes of the process executor")

    @field_validator("configs", "vision_configs", "twin_configs")
    @classmethod
    def _configs(cls, configs: list[str], info) -> list[str]:
        from edgelib.quant.scheme import scheme

        for config in _distinct(configs):
            scheme(config)
        if info.field_name == "configs" and len(configs) < 2:
            raise EdgelibError("needs at least 2 configurations: the reference, and one to compare with it")
        return configs

    @field_validator("translation_config")
    @classmethod
    def _calibrated(cls, config: str) -> str:
        from edgelib.quant.scheme import scheme

        if not scheme(config).needs_calibration:
            raise EdgelibError(f"{config} needs no calibration set, so the language of one cannot matter; take another")
        return config

    @field_validator("calibration", "translation_mixes")
    @classmethod
    def _mixes(cls, mixes: str | list[str]) -> str | list[str]:
        from edgelib.inputs.mixes import parse_mix

        for mix in [mixes] if isinstance(mixes, str) else _distinct(mixes):
            parse_mix(mix)
        return mixes

    @field_validator("conditions")
    @classmethod
    def _conditions(cls, names: list[str]) -> list[str]:
        from edgelib.evaluation.zero_shot import condition

        for name in _distinct(names):
            condition(name)
        return names

    @field_validator("twins")
    @classmethod
    def _twins(cls, twins: list[str]) -> list[str]:
        return [_checked_twin(twin) for twin in _distinct(twins)]


class Efficiency(Parameters):
    """Parameters of the chapter `efficiency`."""

    model: str = Field("scenes-clip", min_length=1, description="model that is packed, saved and read again")
    dataset: str = Field("scenes", min_length=1, description="images it is compared with its simulation on")
    n_images: int = Field(32, ge=2, description="how many of them")
    architectures: Names = Field(
        ["clip-vit-base-patch32", "qwen2-vl-2b"],
        description="models whose size is computed from public dimensions: a name, or a config.json",
    )
    configs: Names = Field(
        ["fp32", "fp16", "w8a8-minmax", "w8a16", "w4a8-minmax", "w4a16", "fp8", "nvfp4"],
        description="configurations, the unquantized one first",
    )
    measurements: str | None = Field(
        None, description='folder made by `edgelib measure`; null: the published machine, "here": measure now'
    )
    devices: Names | None = Field(None, description="keys of the device table, in order; null takes all")
    device_table: str | None = Field(None, description="YAML file with device rows of your own")
    encoder: str = Field("clip-vit-b32", description="vision encoder that is projected onto the devices")
    decoder: str = Field("qwen2-vl-2b", description="language model that is projected onto the devices")
    context: int = Field(1024, ge=1, description="tokens that the language model keeps in memory")
    projection_level: float = Field(0.9, ge=0.5, lt=1, description="level of the intervals of projections")

    @field_validator("configs")
    @classmethod
    def _configs(cls, configs: list[str]) -> list[str]:
        return [_checked_scheme(config) for config in _distinct(configs)]

    @field_validator("encoder", "decoder")
    @classmethod
    def _shape(cls, name: str, info) -> str:
        from edgelib.measure import workload

        getattr(workload, info.field_name)(name)
        return name

    @model_validator(mode="after")
    def _devices(self) -> Efficiency:
        _check_devices(self.devices, self.device_table)
        return self


class Pareto(ZeroShot):
    """Parameters of the chapter `pareto`."""

    configs: Names = Field(
        ["fp32", "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w4a8-awq", "w3a8-minmax"],
        description="configurations, the reference first",
    )
    corruptions: Names = Field(["gaussian_noise", "fog", "jpeg_compression"], description="corruptions to apply")
    severities: Annotated[list[Severity], Field(min_length=1)] = Field([3], description="severities, 1 to 5")
    calibration: str = Field("balanced", min_length=1, description="calibration mix")
    n_calibration: int = Field(32, ge=1, description="images in a calibration set")
    seeds: int = Field(2, ge=1, le=100, description="calibration draws of the configurations that need one")
    cost_of: str | None = Field(
        "clip-vit-base-patch32",
        description="architecture whose bytes and latency stand for a deployed model; null: the evaluated model itself",
    )
    tiers: dict[str, str] = Field(
        {"embedded": "jetson-nano", "mobile": "snapdragon-8-gen-3", "edge-server": "orin-nx-16gb"},
        description="tier -> device that its latency is projected onto",
    )
    budgets: dict[str, float] | None = Field(
        None, description='a tier of your own on every device, such as {"bytes": 2e8, "latency_ms": 5}'
    )
    devices: Names | None = Field(None, description="devices of the deployment guide; null takes all")
    device_table: str | None = Field(None, description="YAML file with device rows of your own")
    mix: Names = Field(
        ["w4a8-minmax", "w3a8-minmax", "w8a8-minmax"],
        description="formats that layers choose from; the first is the uniform scheme to beat at equal bytes",
    )
    mix_slack: float = Field(0.0, ge=0, description="share of bytes that the mix may have beyond the first format")
    n_sensitivity: int = Field(32, ge=1, description="images that the layers' sensitivity is measured on")

    # What a grid also takes, of which this chapter has none.
    baseline_model: ClassVar[None] = None
    baseline_configs: ClassVar[tuple] = ()
    twins: ClassVar[tuple] = ()
    twin_configs: ClassVar[tuple] = ()
    twin_severities: ClassVar[tuple] = ()

    @field_validator("configs", "mix")
    @classmethod
    def _configs(cls, configs: list[str], info) -> list[str]:
        if len(configs) < 2:
            raise EdgelibError(f"{info.field_name} needs at least 2 configurations to choose from")
        return [_checked_scheme(config) for config in _distinct(configs)]

    @field_validator("corruptions")
    @classmethod
    def _corruptions(cls, corruptions: list[str]) -> list[str]:
        from edgelib.inputs.corruptions import CORRUPTIONS

        for corruption in _distinct(corruptions):
            choose(CORRUPTIONS, corruption, "corruption")
        return corruptions

    @field_validator("severities")
    @classmethod
    def _severities(cls, severities: list[int]) -> list[int]:
        return sorted(_distinct(severities))

    @field_validator("calibration")
    @classmethod
    def _calibration(cls, mix: str) -> str:
        from edgelib.inputs.mixes import parse_mix

        parse_mix(mix)
        return mix

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: dict[str, float] | None) -> dict[str, float] | None:
        for column, most in (budgets or {}).items():
            choose(dict.fromkeys(("bytes", "latency_ms")), column, "budget")
            if not most > 0:
                raise EdgelibError(f"the budget of {column!r} must be above 0, got {most}")
        return budgets

    @model_validator(mode="after")
    def _tiers_and_devices(self) -> Pareto:
        from edgelib.measure.pareto import TIERS

        for tier in self.tiers:
            choose(TIERS, tier, "tier")
        if not self.tiers:
            raise EdgelibError("tiers needs at least one tier, such as {'mobile': 'snapdragon-8-gen-3'}")
        _check_devices([*self.tiers.values(), *(self.devices or [])], self.device_table)
        return self


class Fp8KvAblation(Parameters):
    """Parameters of the chapter `fp8_kv_ablation`."""

    model: str = Field("scenes-vlm", min_length=1, description="a model that writes: embedded name, folder or hub id")
    dataset: str = Field("scenes-vqa", min_length=1, description="questions about images")
    split: str = Field("test", min_length=1, description="split of the questions")
    n_images: int = Field(24, ge=4, description="images, each with all of its questions")
    calibration: str = Field("balanced", min_length=1, description="calibration mix; it must show images")
    n_calibration: int = Field(32, ge=1, description="questions in the calibration set")
    format: Literal["e4m3", "e5m2", "int8", "int4"] = Field("e4m3", description="format of the cache that is examined")
    attention: Literal["fp8_e4m3", "fp8_e5m2", "int8"] = Field(
        "fp8_e4m3", description="format of the second ablation, in which attention computes"
    )
    twins: list[str] = Field(
        ["key:1024", "value:1024", "key-offset:256"], description="planted outliers that the ladder is climbed on"
    )
    dose_kinds: Annotated[list[Literal["key", "value", "key-offset"]], Field(min_length=1)] = Field(
        ["key", "value", "key-offset"], description="kinds of planted outliers of the dose-response curves"
    )
    doses: Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=2)] = Field(
        [64.0, 1024.0], description="strengths of the planted outliers"
    )
    dose_schemes: Names = Field(
        ["e4m3-one", "e4m3-amax", "int8-amax"], description="caches of the dose-response curves"
    )
    fixes: Names = Field(
        ["e4m3-amax", "e4m3-channel", "int8-amax", "int8-channel", "int4-channel-mean"],
        description="caches that are tested for non-inferiority to the exact one",
    )
    margin: float = Field(0.01, gt=0, lt=1, description="accuracy that a non-inferior cache may lose")
    steps: int = Field(4, ge=2, le=256, description="tokens that are written to see whether errors grow")
    max_new_tokens: int = Field(4, ge=1, le=4096, description="longest answer, in tokens")
    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "process"] = Field("serial", description="how the cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes of the process executor")

    @field_validator("dose_schemes", "fixes")
    @classmethod
    def _caches(cls, names: list[str]) -> list[str]:
        from edgelib.quant.kv_scheme import kv_scheme

        for name in _distinct(names):
            kv_scheme(name)
        return names

    @field_validator("twins")
    @classmethod
    def _twins(cls, twins: list[str]) -> list[str]:
        return [_checked_twin(twin) for twin in _distinct(twins)]

    @field_validator("doses", "dose_kinds")
    @classmethod
    def _doses(cls, values: list) -> list:
        return sorted(_distinct(values)) if isinstance(values[0], float) else _distinct(values)


SCHEMAS: dict[str, type[Parameters]] = {
    "embedded_world": EmbeddedWorld,
    "robustness_gap": RobustnessGap,
    "calibration_sensitivity": CalibrationSensitivity,
    "vlm_accuracy": VlmAccuracy,
    "efficiency": Efficiency,
    "pareto": Pareto,
    "fp8_kv_ablation": Fp8KvAblation,
}


def _distinct(values: list) -> list:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise EdgelibError(f"named twice: {', '.join(twice)}; name each once")
    return values


def _checked_scheme(config: str) -> str:
    from edgelib.quant.scheme import scheme

    scheme(config)
    return config


def _check_devices(keys: list[str] | None, table: str | None) -> None:
    from edgelib.measure.edge import devices, select

    select(devices(table), keys or [])


def _checked_twin(twin: str) -> str:
    from edgelib.inputs.outliers import parse_twin

    parse_twin(twin)
    return twin
