"""Every named configuration and cache with what its name says: the tables of the book's page *Configurations*.

    .venv/bin/python tests/configuration_table.py

writes book/reference/configurations.csv and caches.csv anew; a test makes the rows again and compares. Named are the
presets and whatever the published parameters of the chapters take.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml
from helpers import ROOT

from edgelib.chapters.schema.base import Parameters
from edgelib.chapters.table import CHAPTERS
from edgelib.formats.table import FORMATS
from edgelib.kv.scheme import kv_scheme
from edgelib.quant.methods import METHODS
from edgelib.quant.scheme import PRESETS, scheme

FOLDER = ROOT / "book" / "reference"
SCHEMES = ("configs", "ladder", "mix", "twin_configs", "vision_configs", "baseline_configs")
CACHES = ("fixes", "dose_schemes")
HEAD = 64  # channels of a head, for the bits of a cache: that of most decoders


@cache
def published() -> dict[str, Parameters]:
    """The published parameters of every chapter."""
    paths = {chapter: ROOT / "params" / f"{chapter}.yaml" for chapter in CHAPTERS}
    return {chapter: CHAPTERS[chapter](**yaml.safe_load(path.read_text())) for chapter, path in paths.items()}


def taken(fields: Iterable[str]) -> dict[str, list[str]]:
    """Which published chapters take a name in one of these parameters: {name: chapters}."""
    found: dict[str, list[str]] = {}
    for chapter, given in published().items():
        for field in fields:
            for name in getattr(given, field, None) or []:
                if (words := chapter.replace("_", " ")) not in found.setdefault(name, []):
                    found[name].append(words)
    return found


def shared(made) -> str:
    """What shares a scale among weights."""
    if made.method == "cast":
        return "none"
    block = getattr(made.weight_format, "block", None)
    if made.group_size or block:
        return f"{'group' if made.group_size else 'block'} of {made.group_size or block}"
    return "output row"


def scheme_rows() -> Iterator[dict[str, str]]:
    """A row per configuration: how it is written and shown, its numbers, what shares a scale, what it looks at."""
    chapters = taken(SCHEMES)
    for name in dict.fromkeys([*PRESETS, *sorted(chapters)]):
        made = scheme(name)
        inputs = FORMATS[made.activation]
        yield {
            "name": f"`{name}`",
            "shown as": made.label,
            "weights": made.weight,
            "inputs": "as they are" if made.method != "cast" and not inputs.scaled else made.activation,
            "a scale per": shared(made),
            "method": METHODS[made.method].label,
            "calibration": "images" if made.needs_calibration else "none",
            "published in": ", ".join(chapters.get(name, [])),
        }


def cache_rows() -> Iterator[dict[str, str]]:
    """A row per cache: how it is written and shown, its bits a value, what it looks at."""
    for name, chapters in sorted(taken(CACHES).items()):
        made = kv_scheme(name)
        yield {
            "name": f"`{name}`",
            "shown as": made.label,
            "bits a value": f"{made.bits_per_element(HEAD):g}",
            "calibration": "questions" if made.needs_calibration else "none",
            "published in": ", ".join(chapters),
        }


TABLES = {"configurations.csv": scheme_rows, "caches.csv": cache_rows}


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    for table, rows in TABLES.items():
        write(FOLDER / table, rows())
