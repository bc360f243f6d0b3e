"""Kinds of values that several chapters' parameters take, each checked against the registry of the floor below."""

from __future__ import annotations

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
    """Refuse lists that name a value twice or hold one that `check` raises for."""

    def checked(values: list[str]) -> list[str]:
        for value in distinct(values):
            check(value)
        return values

    return AfterValidator(checked)


def one(check: Callable[[str], object]) -> AfterValidator:
    """Refuse a value that `check` raises for."""

    def checked(value: str) -> str:
        check(value)
        return value

    return AfterValidator(checked)


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


NotEmpty = Field(min_length=1)
Name = Annotated[str, NotEmpty]
Names = Annotated[list[str], NotEmpty]
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
