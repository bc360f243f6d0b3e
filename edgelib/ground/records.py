"""Files that people write: YAML read with a guard, and records checked against a schema, errors in one paragraph."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgelib.errors import EdgelibError, did_you_mean

_MOST_BYTES = 2**20  # no file that a person writes is longer
_MOST_NODES = 100_000  # values after aliases are followed: nested ones multiply
_MOST_FAULTS = 5  # of one record that are named
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60

Text = Annotated[str, Field(min_length=1)]


class Record(BaseModel):
    """Base of a schema: nothing is converted silently, and names that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def between(low: float, high: float) -> BeforeValidator:
    """Return the rule that a field of a Record is a number from low to high: Annotated[float, between(0, 1)]."""

    def rule(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    return BeforeValidator(rule)


Schema = TypeVar("Schema", bound=BaseModel)


def checked(schema: type[Schema], facts: object, where: str) -> Schema:
    """Return schema(**facts); raises EdgelibError that starts with `where` and names faults: field, value, rule."""
    if not isinstance(facts, Mapping):
        raise EdgelibError(f"{where} must hold lines 'name: value', got {shown(facts)}")
    try:
        return schema.model_validate(dict(facts))
    except ValidationError as error:
        faults = [_fault(detail, schema) for detail in error.errors(include_url=False)]
    more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
    raise EdgelibError(f"{where}: {'; '.join(faults[:_MOST_FAULTS])}{more}")


def shown(value: object) -> str:
    """Return a value as an error quotes it, cut where it is long."""
    return _SHOWN.repr(value)


def _fault(detail: Mapping[str, Any], schema: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    rule = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "extra_forbidden":
        return f"unknown name {place!r}{did_you_mean(place, schema.model_fields)}; known are {_listed(schema)}"
    if detail["type"] == "missing":
        return f"{place} is missing"
    if not place:
        return rule
    allowed = detail.get("ctx", {}).get("expected", "").replace(" or ", ", ").split(", ")
    hint = did_you_mean(detail["input"], [word.strip("'") for word in allowed]) if allowed[0] else ""
    return f"{place} = {shown(detail['input'])}: {rule}{hint}"


def _listed(schema: type[BaseModel]) -> str:
    return ", ".join(schema.model_fields)


def read_yaml(path: Path, what: str) -> object:
    """Return what a YAML file of plain values holds.

    what: the file's name in errors, such as "device table". Raises EdgelibError for a file that cannot be read, is
    longer than 1 MiB, is no text or no YAML, names a key twice, or holds more values than a person writes.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise EdgelibError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MOST_BYTES:
        raise EdgelibError(f"the {what} {path} has {len(data):,} bytes; it may have {_MOST_BYTES:,}")
    try:
        return yaml.load(data.decode("utf-8"), _Loader)
    except RecursionError:
        reason = "its values are nested too deeply"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, impossible dates, numbers of 5,000 digits
        reason = one_line(error)
    raise EdgelibError(f"the {what} {path} is not YAML: {reason}")


def one_line(error: Exception) -> str:
    """Return the text of an error on one line, cut where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


class _Loader(yaml.SafeLoader):
    """Plain values; a key that is named twice and aliases that multiply are errors."""

    def get_single_node(self):
        node = super().get_single_node()
        _count(node, {}, frozenset())
        return node

    def construct_mapping(self, node, deep=False):
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key)
                if name in names:
                    raise yaml.constructor.ConstructorError(None, None, f"{shown(name)} is named twice", key.start_mark)
                names.add(name)
        return super().construct_mapping(node, deep)


def _count(node, known: dict[int, int], above: frozenset[int]) -> int:
    """The values of a node with its aliases followed; raises where they are too many or contain themselves."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise yaml.YAMLError("a value contains itself")
    if id(node) not in known:
        inner = above | {id(node)}
        known[id(node)] = 1 + sum(_count(child, known, inner) for child in _children(node))
    if known[id(node)] > _MOST_NODES:
        raise yaml.YAMLError(f"more than {_MOST_NODES:,} values after its aliases are followed")
    return known[id(node)]


def _children(node) -> Iterable:
    return (part for pair in node.value for part in pair) if isinstance(node, yaml.MappingNode) else node.value
