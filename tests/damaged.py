"""Fields of JSON files that are given values which they cannot have."""

from __future__ import annotations

OTHER_VALUES = (None, True, 0, -1, 7, 0.5, 1e30, 10**30, "", "nope", "int8", [], ["x"], {}, {"x": 1})


def places(value, path=()) -> list[tuple]:
    """The paths of all fields in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [step for key, child in inner for step in ((*path, key), *places(child, (*path, key)))]


def change_place(facts, path: tuple, value, rename: bool = False) -> None:
    """Give the field at a path another value, or, where it has a name, another one."""
    *steps, last = path
    for step in steps:
        facts = facts[step]
    if rename and isinstance(facts, dict):
        facts[f"{last}_x"] = facts.pop(last)
    else:
        facts[last] = value
