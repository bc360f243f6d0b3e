"""Kinds of values that several chapters' parameters take, each checked against the registry of the floor below."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from edgelib.errors import EdgelibError, choose
from edgelib.ground.records import shown

MOST_ITEMS = 10_000_000  # images or questions: no test set of the field has more
MOST_AT_ONCE = 65_536  # images in a batch: as uint8 of 224 pixels they fill 10 GB
LONGEST_NAME = 4096  # characters, the longest path of a file


def distinct(values: list, meanings: Sequence[object] | None = None) -> list:
    """Return the values; raises EdgelibError if one is named twice, or two of them mean the same."""
    seen: dict[object, object] = {}
    for value, meaning in zip(values, values if meanings is None else meanings, strict=True):
        if meaning in seen:
            first = seen[meaning]
            same = f"{shown(first)} and {shown(value)} are the same" if value != first else str(value)
            raise EdgelibError(f"named twice: {same}; name each once")
        seen[meaning] = value
    return values


def at_least_two(what: str) -> AfterValidator:
    """Refuse lists of less than two values."""

    def check(values: list) -> list:
        if len(values) < 2:
            raise EdgelibError(f"needs at least 2 {what}")
        return values

    return AfterValidator(check)


def each(check: Callable[[str], object]) -> AfterValidator:
    """Refuse lists, and keys of mappings, that name a thing twice or that `check` raises for.

    check: value -> what it means, by which two spellings of one thing are told; None where that is the value itself.
    """

    def checked(values):
        meanings = [(check(value), value) for value in values]
        distinct([*values], [value if meaning is None else meaning for meaning, value in meanings])
        return values

    return AfterValidator(checked)


def spelt(name_of: Callable[[str], str]) -> AfterValidator:
    """Give every value of a list its usual spelling, so that other parameters find it however it was written."""
    return AfterValidator(lambda values: [name_of(value) for value in values])


def one(check: Callable[[str], object]) -> AfterValidator:
    """Refuse a value that `check` raises for."""

    def checked(value: str) -> str:
        check(value)
        return value

    return AfterValidator(checked)


def _text(value: str, allowed: str = "") -> str:
    """Refuse what neither a file nor a terminal takes: control characters, ends of lines, halves of characters."""
    bad = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in allowed), None)
    if bad is not None:
        raise EdgelibError(f"it cannot hold the character {bad!r}; leave it out")
    return value


class Source:
    """Marks a parameter that names files or folders; a chapter is stale once what lies under them changes."""


class Kind:
    """Marks a parameter whose kind its name may tell; `refuse` raises EdgelibError, before anything is loaded."""

    def __init__(self, refuse: Callable[[str], object]):
        self.refuse = refuse


def in_checkout(path: str) -> str:
    """The path as a kernel of `edgelib publish` reads it, from the checkout or from home; one that is nowhere stays."""
    from edgelib.ground.paths import find_root

    there = find_root() / os.path.expanduser(path)
    return str(there) if os.path.exists(there) else path  # unlike Path.exists, it takes any name


# The registries are imported when a value is checked: a schema is also read where no torch is installed.
def scheme_of(name: str):
    """The scheme of a configuration; raises EdgelibError for an unknown one."""
    from edgelib.quant.scheme import scheme

    return scheme(name)


def _spelled(value: object) -> object:
    """The one text of a scheme that is written as a mapping; whatever else stays."""
    if not isinstance(value, Mapping):
        return value
    from edgelib.quant.scheme import scheme

    return scheme(value).spelling


def _rounding(name: str) -> object:
    """What a scheme rounds and how: a grid that a name spells out is the one that its format has anyway."""
    scheme = scheme_of(name)
    layers = {field: tuple(sorted(set(getattr(scheme, field)))) for field in ("targets", "exclude")}
    plain = replace(scheme, symmetric=True, full_range=False, scale_rule=None, **layers)
    return plain, scheme.weight_format, scheme.activation_format


def _cache(name: str):
    from edgelib.kv.scheme import kv_scheme

    return kv_scheme(name)


def _caching(name: str) -> object:
    scheme = _cache(name)
    return replace(scheme, delivered=True) if scheme.scale == "one" else scheme  # a scale of 1 is 1 if it is lost, too


def _corruption(name: str) -> None:
    from edgelib.corruptions import CORRUPTIONS

    choose(CORRUPTIONS, name, "corruption")


def _condition(name: str) -> object:
    from edgelib.corruptions.condition import condition

    return condition(name)


def _mix(name: str) -> object:
    from edgelib.data.mixes import meaning_of

    return meaning_of(name)


def twin_name(twin: str) -> str:
    """The usual name of a twin: "weight:8" for "weight:8.0"; raises EdgelibError for a wrong one."""
    from edgelib.models import twins

    return twins.twin_name(*twins.parse_twin(twin))


def _twin(name: str) -> str:
    """What a twin is; without strength the factors are 1, and all that multiply are the model itself."""
    usual = twin_name(name)
    return "the model itself" if usual.endswith(":1") and not usual.startswith("key-offset") else usual


def _prompts(name: str) -> None:
    from edgelib.data.prompts import templates

    templates(name)


def _architecture(name: str) -> str:
    """What an architecture is: its configuration, wherever it stands."""
    from edgelib.devices.shapes import read_architecture
    from edgelib.models.architectures import architecture

    architecture(in_checkout(name))
    return json.dumps(read_architecture(in_checkout(name)), sort_keys=True)


def is_particular(config: str) -> bool:
    """Whether a configuration names layers or groups of weights, so that it does not fit every model."""
    return config.endswith(")") or scheme_of(config).group_size is not None


def refuse_layers(architecture: str, config: str) -> None:
    """Raise EdgelibError for a configuration that names layers, or groups of weights, which an architecture lacks."""
    from edgelib.models.architectures import architecture as built
    from edgelib.quant.report import parameter_plan

    try:
        parameter_plan(built(in_checkout(architecture)), config)
    except EdgelibError as error:
        raise EdgelibError(f"{config} does not fit the architecture {architecture}: {error}") from None


def check_devices(keys: list[str] | None, table: str | None) -> None:
    """Raise EdgelibError for a device that neither the table nor the library knows."""
    from edgelib.devices.table import devices, select

    select(devices(table), keys or [])


def _roles(columns: dict[str, str]) -> dict[str, str]:
    """Refuse a role that no benchmark knows."""
    from edgelib.tasks.benchmarks import TASKS

    known = dict.fromkeys(["image", *(name for task in TASKS.values() for name in task.wanted), "answers"])
    for role in columns:
        choose(known, role, "role of a column")
    return columns


NotEmpty = Field(min_length=1)
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_text)]
Names = Annotated[list[Name], NotEmpty]
Prose = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(lambda text: _text(text, allowed="\n\t"))]
Columns = Annotated[dict[Name, Name], AfterValidator(_roles)]
ModelName = Annotated[Name, Source()]
DataName = Annotated[Name, Source()]
Files = Annotated[Names, each(_architecture), Source()]
TablePath = Annotated[Name, AfterValidator(in_checkout), Source()]
Devices = Annotated[Names, AfterValidator(distinct)]
Config = Annotated[Name, BeforeValidator(_spelled)]  # a name, or a mapping of a scheme's fields
_Usual = spelt(lambda name: scheme_of(name).spelling)
SomeConfigs = Annotated[list[Config], each(_rounding), _Usual]
Configs = Annotated[list[Config], NotEmpty, each(_rounding), _Usual]
Caches = Annotated[Names, each(_caching), spelt(lambda name: _cache(name).name)]
Corruptions = Annotated[Names, each(_corruption)]
Conditions = Annotated[Names, each(_condition)]
Severities = Annotated[
    list[Annotated[int, Field(ge=1, le=5)]], NotEmpty, AfterValidator(distinct), AfterValidator(sorted)
]
Mix = Annotated[Name, one(_mix)]
Mixes = Annotated[Names, each(_mix)]
Prompts = Annotated[Name, one(_prompts)]
Twins = Annotated[list[Name], each(_twin), spelt(twin_name)]
SeverityTable = Literal["imagenet-c", "cifar-c"]
