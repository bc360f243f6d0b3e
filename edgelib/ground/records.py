"""Files that people write: YAML read with a guard, and records checked against a schema, errors in one paragraph."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.paths import require_ordinary

_MOST_BYTES = 2**18  # no file that a person writes is longer
_MOST_VALUES = 10_000  # of a file, before and after its aliases are followed: nested ones multiply
_MOST_DIGITS = 100  # of a whole number; what this long one is for, none of our rules allows
_MOST_SHOWN = 300  # characters of a value that an error quotes
_MOST_FAULTS = 5  # of one record that are named


# Octal numbers, base 60 and underscores: 010 is 8, 1:30 is 90, 1_0 is 10.
_OTHER_DIGITS = re.compile(r"[-+]?0[0-9]|.*[:_]")


class _Shown(reprlib.Repr):
    """Python's own short repr: of few levels, and of whole numbers so long that Python refuses to write them."""

    def repr_int(self, x, level):
        return super().repr_int(x, level) if x.bit_length() < 4096 else f"a number of {x.bit_length():,} bits"


_SHOWN = _Shown()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60
_SHOWN.maxlevel = 3

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


def checked(schema: type[Schema], facts: object, where: str, noun: str = "name") -> Schema:
    """Return schema(**facts); raises EdgelibError that starts with `where` and names faults: field, value, rule.

    noun: what a name of the schema is called in errors, such as "parameter".
    """
    if not isinstance(facts, Mapping):
        raise EdgelibError(f"{where} must hold lines 'name: value', got {shown(facts)}")
    try:
        return schema.model_validate(dict(facts))
    except ValidationError as error:
        details = error.errors(include_url=False)
    faults = [_fault(detail, schema, noun) for detail in details[:_MOST_FAULTS]]
    more = f"; and {len(details) - _MOST_FAULTS} more" if len(details) > _MOST_FAULTS else ""
    raise EdgelibError(f"{where}: {'; '.join(faults)}{more}")


def shown(value: object) -> str:
    """Return a value as an error quotes it, cut where it is long."""
    text = _SHOWN.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def _fault(detail: Mapping[str, Any], schema: type[BaseModel], noun: str) -> str:
    place = _place(detail["loc"])
    rule = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(place, schema.model_fields)
        return f"unknown {noun} {shown(detail['loc'][-1])}{hint}; known are {_listed(schema)}"
    if detail["type"] == "missing":
        return f"{place} is missing"
    if not place:
        return rule
    allowed = detail.get("ctx", {}).get("expected", "").replace(" or ", ", ").split(", ")
    given = detail["input"]
    hint = did_you_mean(given, [word.strip("'") for word in allowed]) if allowed[0] and isinstance(given, str) else ""
    return f"{place} = {shown(given)}: {rule}{hint}"


def _place(steps: Iterable[str | int]) -> str:
    """Where a value stands, such as "rates.int8" or "power_w[0]"; a long name is cut."""
    place = ""
    for step in steps:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step != "[key]":
            place += ("." if place else "") + (step if step.isprintable() and len(step) <= 60 else shown(step))
    return place


def _listed(schema: type[BaseModel]) -> str:
    return ", ".join(schema.model_fields)


def read_yaml(path: Path, what: str) -> object:
    """Return what a YAML file of plain values holds.

    what: the file's name in errors, such as "device table". Raises EdgelibError for a file that cannot be read, is
    longer than 256 KiB, is no text or no YAML, names a key twice, or holds more values than a person writes.
    """
    require_ordinary(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise EdgelibError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MOST_BYTES:
        raise EdgelibError(f"the {what} {path} has more than {_MOST_BYTES:,} bytes; it may have no more")
    return parse_yaml(data, f"the {what} {path}")


def parse_yaml(data: bytes | str, where: str) -> object:
    """Return the plain values of a YAML text; raises EdgelibError that starts with `where`, as `read_yaml` does."""
    try:
        return yaml.load(data if isinstance(data, str) else data.decode("utf-8"), _Loader)
    except RecursionError:
        reason = "its values are nested too deeply"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = one_line(error)
    except Exception as error:  # impossible dates, tags that do not fit: PyYAML lets any type out
        reason = one_line(error) if isinstance(error, ValueError) else "a value is not of the form that its tag says"
    raise EdgelibError(f"{where} is not YAML: {reason}")


def printable(text: str) -> str:
    """Text on one line that moves no cursor and turns no direction: what is not printed is written as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def one_line(error: Exception) -> str:
    """Return the text of an error on one line, cut where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


class _Loader(yaml.SafeLoader):
    """Plain values; a key that is named twice, aliases that multiply and endless numbers are errors."""

    def __init__(self, stream):
        super().__init__(stream)
        self.values = 0

    def compose_node(self, parent, index):
        self.values += 1
        _check_number(self.values)
        return super().compose_node(parent, index)

    def get_single_node(self):
        node = super().get_single_node()
        _count(node, {}, frozenset())
        return node

    def construct_mapping(self, node, deep=False):
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = "<<" if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key)
                if name in names:
                    raise yaml.constructor.ConstructorError(None, None, f"{shown(name)} is named twice", key.start_mark)
                names.add(name)
        return super().construct_mapping(node, deep)

    def construct_number(self, node):
        if len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number has more than {_MOST_DIGITS} digits", node.start_mark
            )
        kind = node.tag.rpartition(":")[2]
        if _OTHER_DIGITS.match(node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value!r} is a number in base 8 or 60, or with underscores: write it in digits",
                node.start_mark,
            )
        return self.construct_yaml_int(node) if kind == "int" else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def _check_number(values: int) -> None:
    if values > _MOST_VALUES:
        raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, those behind aliases included")


def _count(node, known: dict[int, int], above: frozenset[int]) -> int:
    """The values of a node with its aliases followed; raises where they are too many or contain themselves."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise yaml.YAMLError("a value contains itself")
    if id(node) not in known:
        inner = above | {id(node)}
        known[id(node)] = 1 + sum(_count(child, known, inner) for child in _children(node))
    _check_number(known[id(node)])
    return known[id(node)]


def _children(node) -> Iterable:
    return (part for pair in node.value for part in pair) if isinstance(node, yaml.MappingNode) else node.value
