"""The chapters by name, and the parameter files that ask for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgelib.chapters.calibration_sensitivity import CalibrationSensitivity
from edgelib.chapters.edge_engines import EdgeEngines
from edgelib.chapters.efficiency import Efficiency
from edgelib.chapters.embedded_world import EmbeddedWorld
from edgelib.chapters.fp8_kv_ablation import Fp8KvAblation
from edgelib.chapters.params import check
from edgelib.chapters.pareto import Pareto
from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.chapters.schema.base import Parameters
from edgelib.chapters.schema.fields import Kind
from edgelib.chapters.validation import Validation
from edgelib.chapters.vlm_accuracy import VlmAccuracy
from edgelib.errors import EdgelibError, choose
from edgelib.ground.records import parse_yaml, read_yaml, shown

# A chapter goes by the name of its file, its notebook and its parameter file.
CHAPTERS: dict[str, type[Parameters]] = {
    chapter.__module__.rpartition(".")[2]: chapter
    for chapter in (
        EmbeddedWorld,
        RobustnessGap,
        CalibrationSensitivity,
        VlmAccuracy,
        Efficiency,
        EdgeEngines,
        Pareto,
        Fp8KvAblation,
        Validation,
    )
}


def studies() -> dict[str, type[Parameters]]:
    """The chapters that evaluate models: those whose parameters lead to a study."""
    return {name: chapter for name, chapter in CHAPTERS.items() if hasattr(chapter, "study")}


def taking(model: str) -> dict[str, list[str]]:
    """The chapters that take a model by its name, each with the parameters that do, as far as its files tell."""
    found = {
        name: [field for field, mark in chapter.model_marks() if _accepts(mark, model)]
        for name, chapter in CHAPTERS.items()
    }
    return {name: fields for name, fields in found.items() if fields}


def _accepts(mark: Kind, name: str) -> bool:
    try:
        mark.refuse(name)
    except EdgelibError:
        return False
    return True


def read(path: str | Path, chapter: str | None = None, over: str = "") -> tuple[str, dict[str, Any]]:
    """Return (chapter, values) of a parameter file after checking it against the chapter's schema.

    The chapter is the file's stem unless named. Values left out keep the chapter's defaults and are not returned.
    over: YAML of values that win over the file's, as papermill takes it by -y.
    Raises EdgelibError for a missing file, text that is not a YAML mapping, an unknown chapter or a wrong parameter.
    """
    path = Path(path)
    chapter = path.stem if chapter is None else chapter
    schema = choose(CHAPTERS, chapter, "chapter")
    if not os.path.isfile(path):
        raise EdgelibError(f"no parameter file {path}; write one, or give the path of an existing one")
    values = _mapping(read_yaml(path, "parameter file"), str(path)) | _mapping(parse_yaml(over, "-y"), "-y")
    check(values, schema, f"bad parameters in {path}" + (" with -y" if over else ""))
    return chapter, values


def _mapping(values: object, where: str) -> dict:
    if values is None:  # comments alone
        return {}
    if not isinstance(values, dict):
        raise EdgelibError(f"{where} must hold lines 'name: value', got {shown(values)}")
    return values
