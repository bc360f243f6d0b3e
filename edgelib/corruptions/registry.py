"""The table of corruptions: one small function and one row per severity table each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getdoc

FAMILIES = ("noise", "blur", "weather", "digital")
TABLES = ("imagenet-c", "cifar-c")
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One corruption: what it does, how strong each severity is, where it comes from.

    - `family`: one of FAMILIES, as Hendrycks and Dietterich (2019) group them.
    - `parameter`: what one entry of a severity table means, with its unit.
    - `levels`: severity table name -> five entries, severity 1 first.
    - `random`: whether the result depends on the seed.
    - `source`: whose definition it is.
    - `notes`: the formula for a grey level v, and which quirks of the source are kept: the docstring of `apply`.
    - `apply`: (uint8 [n, 3, H, W], one entry of a table, int64 keys [n]) -> uint8 [n, 3, H, W]; images and keys
      are on the same device, keys is None unless `random`, and image i may depend on images[i] and keys[i] only.
    """

    name: str
    family: str
    parameter: str
    levels: dict[str, tuple]
    random: bool
    source: str
    notes: str
    apply: Callable


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(
    family: str,
    parameter: str,
    *,
    imagenet_c: tuple,
    cifar_c: tuple,
    source: str,
    random: bool = False,
):
    """Register the decorated `apply` function (see Corruption) under its own name, with its docstring as notes."""

    def register(apply):
        levels = dict(zip(TABLES, (imagenet_c, cifar_c), strict=True))
        name = apply.__name__
        CORRUPTIONS[name] = Corruption(name, family, parameter, levels, random, source, getdoc(apply) or "", apply)
        return apply

    return register
