"""Parameters of the chapters: typed, checked in a chapter's first cells, one paragraph when something is wrong.

A chapter calls `begin(globals())` before its parameters cell and `P = validate(globals(), Schema)` after it. Names
that appeared in between are parameters, so a misspelt one is refused whether papermill, nbval or a person put it
there. Schemes, corruptions and other names are checked against the registries of the floors below.
"""

from __future__ import annotations

from typing import Any, TypeVar

from edgelib.chapters.schema.base import Parameters
from edgelib.errors import EdgelibError
from edgelib.ground.quiet import quiet_libraries
from edgelib.ground.records import checked

Schema = TypeVar("Schema", bound=Parameters)

_BEFORE = "__edgelib_names_before__"
_GIVEN = "__edgelib_names_given__"

# What IPython itself adds to a namespace.
_SHELL_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


def begin(namespace: dict[str, Any]) -> None:
    """Silence the model libraries and remember which names exist before the parameters cell; pass `globals()`.

    Calling it again in the same session first forgets the parameters of the previous run.
    """
    quiet_libraries()  # checking a parameter may import them
    for name in namespace.pop(_GIVEN, ()):
        namespace.pop(name, None)
    namespace[_BEFORE] = {name: value for name, value in namespace.items() if not name.startswith("_")}


def validate(namespace: dict[str, Any], schema: type[Schema]) -> Schema:
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


def check(values: dict[str, Any], schema: type[Schema], source: str = "bad parameters") -> Schema:
    """Return schema(**values); raises EdgelibError that starts with `source` and names the faults."""
    parameters = checked(schema, values, source, noun="parameter")
    try:
        parameters.refuse_kinds()
    except EdgelibError as error:
        raise EdgelibError(f"{source}: {error}") from None
    return parameters
