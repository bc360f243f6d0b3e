"""Prompt templates as data: the texts that turn a class name into what a text tower reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Formatter

import yaml

from edgelib.errors import EdgelibError, choose


@cache
def prompt_sets() -> dict[str, tuple[str, ...]]:
    """Every named set of templates, from prompts.yaml beside this file."""
    text = files("edgelib.data").joinpath("prompts.yaml").read_text(encoding="utf-8")
    return {name: _checked(tuple(lines), f"prompt set {name!r}") for name, lines in yaml.safe_load(text).items()}


def templates(name_or_list: str | Sequence[str]) -> tuple[str, ...]:
    """Return templates by the name of their set ("simple", "scenes", "cifar", "imagenet-7"), or check one's own list.

    Each holds exactly one {} for the class name. A single template may be passed as it is.
    Raises EdgelibError for an unknown set (with the closest name), an empty list, a repeated template, or one without
    exactly one {}.
    """
    if isinstance(name_or_list, str):
        if "{" not in name_or_list:
            return choose(prompt_sets(), name_or_list, "prompt set")
        name_or_list = (name_or_list,)
    if not isinstance(name_or_list, Sequence):
        raise EdgelibError(
            f"prompts must be the name of a set ({', '.join(prompt_sets())}) or a list, got {name_or_list!r}"
        )
    return _checked(tuple(name_or_list), "the prompt list")


def _checked(lines: tuple[str, ...], where: str) -> tuple[str, ...]:
    if not lines:
        raise EdgelibError(f"{where} is empty; give at least one template such as 'a photo of a {{}}.'")
    for line in lines:
        if not isinstance(line, str) or _fields(line) != [""]:
            raise EdgelibError(
                f"template {line!r} of {where} needs exactly one {{}} for the class name, as in 'a photo of a {{}}.'"
            )
    if len(set(lines)) < len(lines):
        repeated = next(line for line in lines if lines.count(line) > 1)
        raise EdgelibError(f"template {repeated!r} stands twice in {where} and would weigh double; keep one")
    return lines


def _fields(line: str) -> list[str] | None:
    """What stands inside each pair of braces, '' for {}; None if the braces do not match."""
    try:
        parts = [part[1:] for part in Formatter().parse(line) if part[1] is not None]
        return [f"{field or ''}{convert or ''}{spec or ''}" for field, spec, convert in parts]
    except ValueError:
        return None
