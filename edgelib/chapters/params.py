"""Parameters of the chapters: typed, checked in a chapter's first cells, one paragraph when something is wrong.

A chapter calls `begin(globals())` before its parameters cell and `P = validate(globals(), Schema)` after it. Names
that appeared in between are parameters, so a misspelt one is refused whether papermill, nbval or a person put it
there. Schemes, corruptions and other names are checked against the registries of the floors below.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from edgelib.chapters.base import Parameters
from edgelib.errors import EdgelibError, did_you_mean

_BEFORE = "__edgelib_names_before__"
_GIVEN = "__edgelib_names_given__"

# What IPython itself adds to a namespace.
_SHELL_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


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
