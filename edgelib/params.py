"""Parameters of the chapters: typed, checked in a chapter's first cells, one paragraph when something is wrong.

A chapter calls `begin(globals())` before its parameters cell and `P = validate(globals(), Schema)` after it. Names
that appeared in between are parameters, so a misspelt one is refused whether papermill, nbval or a person put it
there. Schemes, corruptions and other names are checked against the registries of the floors below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgelib.errors import EdgelibError, choose, did_you_mean

_BEFORE = "__edgelib_names_before__"
_GIVEN = "__edgelib_names_given__"

# What IPython itself adds to a namespace.
_SHELL_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


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


class RobustnessGap(Parameters):
    """Parameters of the chapter `robustness_gap`."""

    model: str = Field("scenes-clip", min_length=1, description="zero-shot model: embedded name, folder or hub id")
    baseline_model: str | None = Field(
        "scenes-vit", description="supervised timm classifier of the same classes, or null"
    )
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
    configs: Names = Field(
        ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"],
        description="number formats: the reference first, then at least one to compare with it",
    )
    corruptions: Names = Field(
        ["gaussian_noise", "defocus_blur", "fog", "jpeg_compression"], description="corruptions to apply"
    )
    severities: Annotated[list[Severity], Field(min_length=1)] = Field(
        [1, 3, 5], description="severities 1 (mild) to 5 (harsh)"
    )
    table: Literal["imagenet-c", "cifar-c"] | None = Field(
        None, description="severity table; null chooses by image size"
    )
    twins: list[str] = Field(
        ["weight:4", "weight:8", "weight:16", "activation:32", "activation:128", "activation:512"],
        description='planted outliers as "kind:strength": twins evaluated beside the model',
    )
    twin_configs: Names | None = Field(
        None, description="configurations evaluated on the twins; null takes all but the reference"
    )
    twin_severities: Annotated[list[Severity], Field(min_length=1)] | None = Field(
        None, description="severities evaluated on the twins; null takes the middle one"
    )
    calibration: str = Field("balanced", min_length=1, description="calibration mix")
    n_calibration: int = Field(64, ge=1, description="images in the calibration mix")
    n_bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap draws behind each interval")
    executor: Literal["serial", "process"] = Field("serial", description="how the grid's cells are run")
    workers: int = Field(2, ge=1, le=256, description="processes of the process executor")

    @field_validator("configs", "twin_configs")
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

    @field_validator("prompts")
    @classmethod
    def _prompts(cls, prompts: str) -> str:
        from edgelib.inputs.prompts import templates

        templates(prompts)
        return prompts

    @field_validator("calibration")
    @classmethod
    def _calibration(cls, mix: str) -> str:
        from edgelib.inputs.calibration import MIXES

        choose(MIXES, mix, "calibration mix")
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
        for field, default in (("twin_configs", self.configs[1:]), ("twin_severities", [middle])):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)  # the model is frozen for everyone else
        for field, whole in (("twin_configs", "configs"), ("twin_severities", "severities")):
            outside = [value for value in getattr(self, field) if value not in getattr(self, whole)]
            if self.twins and outside:
                listed = ", ".join(map(repr, getattr(self, whole)))
                raise EdgelibError(f"{field} names {', '.join(map(repr, outside))}, but {whole} has only {listed}")
        return self


SCHEMAS: dict[str, type[Parameters]] = {"embedded_world": EmbeddedWorld, "robustness_gap": RobustnessGap}


def begin(namespace: dict[str, Any]) -> None:
    """Remember which names exist before the parameters cell; pass `globals()`.

    Calling it again in the same session first forgets the parameters of the previous run.
    """
    for name in namespace.pop(_GIVEN, ()):
        namespace.pop(name, None)
    namespace[_BEFORE] = {name: value for name, value in namespace.items() if not name.startswith("_")}


def validate(namespace: dict[str, Any], schema: type[Parameters]) -> Parameters:
    """Return the checked parameters of a chapter; pass `globals()` and the chapter's schema.

    Raises EdgelibError with one paragraph that names each wrong field, its value and what is allowed.
    """
    if _BEFORE not in namespace:
        raise EdgelibError("validate() needs begin(globals()) in a cell before the parameters; run the cells in order")
    before = namespace[_BEFORE]
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _SHELL_NAMES and (name not in before or before[name] is not value)
    }
    given |= {name: namespace[name] for name in schema.model_fields if name in namespace}
    namespace[_GIVEN] = tuple(given)
    return check(given, schema)


def check(values: dict[str, Any], schema: type[Parameters], source: str = "bad parameters") -> Parameters:
    """Return schema(**values); raises EdgelibError that starts with `source` and lists every fault."""
    try:
        return schema(**values)
    except ValidationError as error:
        faults = "; ".join(_fault(detail, schema) for detail in error.errors(include_url=False))
    raise EdgelibError(f"{source}: {faults}")


def read(path: str | Path, chapter: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return (chapter, values) of a parameter file after checking it against the chapter's schema.

    The chapter is the file's stem unless named. Values left out keep the chapter's defaults and are not returned.
    Raises EdgelibError for a missing file, text that is not a YAML mapping, an unknown chapter or a wrong parameter.
    """
    path = Path(path)
    chapter = path.stem if chapter is None else chapter
    schema = choose(SCHEMAS, chapter, "chapter")
    if not path.is_file():
        raise EdgelibError(f"no parameter file {path}; write one, or give the path of an existing one")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgelibError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise EdgelibError(f"{path} must hold lines 'name: value', but it holds a {type(values).__name__}")
    check({str(name): value for name, value in values.items()}, schema, f"bad parameters in {path}")
    return chapter, values


def _fault(detail: dict[str, Any], schema: type[Parameters]) -> str:
    """Return one fault as "field = value: what is wrong and what is allowed"."""
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not detail["loc"]:
        return message
    field, *rest = detail["loc"]
    place = str(field) + "".join(f"[{part}]" for part in rest if isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        names = ", ".join(schema.model_fields)
        hint = did_you_mean(field, schema.model_fields)
        return f"unknown parameter {field!r}{hint}; {schema.__doc__.split('`')[1]} has {names}"
    hint = did_you_mean(detail["input"], _literals(detail)) if isinstance(detail["input"], str) else ""
    return f"{place} = {detail['input']!r}: {message}{hint}"


def _literals(detail: dict[str, Any]) -> list[str]:
    expected = detail.get("ctx", {}).get("expected", "")
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")] if expected else []


def _distinct(values: list) -> list:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise EdgelibError(f"named twice: {', '.join(twice)}; name each once")
    return values


def _checked_twin(twin: str) -> str:
    from edgelib.inputs.outliers import parse_twin

    parse_twin(twin)
    return twin
