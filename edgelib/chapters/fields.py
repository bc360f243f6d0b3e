"""Kinds of values that several chapters' parameters take, each checked against the registry of the floor below."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgelib.errors import EdgelibError, choose


def distinct(values: list) -> list:
    """Return the values; raises EdgelibError if one is named twice."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise EdgelibError(f"named twice: {', '.join(twice)}; name each once")
    return values


def at_least_two(what: str) -> AfterValidator:
    """Refuse lists of less than two values."""

    def check(values: list) -> list:
        if len(values) < 2:
            raise EdgelibError(f"needs at least 2 {what}")
        return values

    return AfterValidator(check)


def each(check: Callable[[str], object]) -> AfterValidator:
    """Refuse lists that name a value twice, and lists or keys of mappings that `check` raises for."""

    def checked(values):
        for value in distinct([*values]):
            check(value)
        return values

    return AfterValidator(checked)


def one(check: Callable[[str], object]) -> AfterValidator:
    """Refuse a value that `check` raises for."""

    def checked(value: str) -> str:
        check(value)
        return value

    return AfterValidator(checked)


class Source:
    """Marks a parameter that names files or folders; a chapter is stale once what lies under them changes."""


def in_checkout(path: str) -> str:
    """The path as a kernel of `edgelib publish` reads it, from the checkout or from home; one that is nowhere stays."""
    from edgelib.ground.paths import find_root

    there = find_root() / os.path.expanduser(path)
    return str(there) if there.exists() else path


# The registries are imported when a value is checked: a schema is also read where no torch is installed.
def scheme_of(name: str):
    """The scheme of a configuration; raises EdgelibError for an unknown one."""
    from edgelib.quant.scheme import scheme

    return scheme(name)


def _cache(name: str) -> None:
    from edgelib.kv.scheme import kv_scheme

    kv_scheme(name)


def _corruption(name: str) -> None:
    from edgelib.corruptions import CORRUPTIONS

    choose(CORRUPTIONS, name, "corruption")


def _condition(name: str) -> None:
    from edgelib.corruptions.condition import condition

    condition(name)


def _mix(name: str) -> None:
    from edgelib.data.mixes import parse_mix

    parse_mix(name)


def _twin(name: str) -> None:
    from edgelib.models.twins import parse_twin

    parse_twin(name)


def _prompts(name: str) -> None:
    from edgelib.data.prompts import templates

    templates(name)


def check_devices(keys: list[str] | None, table: str | None) -> None:
    """Raise EdgelibError for a device that neither the table nor the library knows."""
    from edgelib.devices.table import devices, select

    select(devices(table), keys or [])


NotEmpty = Field(min_length=1)
Name = Annotated[str, NotEmpty]
Names = Annotated[list[str], NotEmpty]
ModelName = Annotated[str, NotEmpty, Source()]
DataName = Annotated[str, NotEmpty, Source()]
Files = Annotated[list[str], NotEmpty, Source()]
TablePath = Annotated[str, AfterValidator(in_checkout), Source()]
Configs = Annotated[Names, each(scheme_of)]
SomeConfigs = Annotated[list[str], each(scheme_of)]
Caches = Annotated[Names, each(_cache)]
Corruptions = Annotated[Names, each(_corruption)]
Conditions = Annotated[Names, each(_condition)]
Severities = Annotated[
    list[Annotated[int, Field(ge=1, le=5)]], NotEmpty, AfterValidator(distinct), AfterValidator(sorted)
]
Mix = Annotated[Name, one(_mix)]
Mixes = Annotated[Names, each(_mix)]
Prompts = Annotated[Name, one(_prompts)]
Twins = Annotated[list[str], each(_twin)]
SeverityTable = Literal["imagenet-c", "cifar-c"]
