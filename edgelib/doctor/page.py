"""What the doctor found, as text for a terminal and as JSON for a report."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from edgelib.doctor.finding import Finding
from edgelib.doctor.models import Examined
from edgelib.ground.records import printable

_WIDTH = 20  # of a topic


def faults(environment: Mapping[str, list[Finding]], models: Iterable[Examined]) -> int:
    """How many findings keep something that was asked for from working."""
    every = [*(f for section in environment.values() for f in section), *(f for m in models for f in m.findings)]
    return sum(finding.fault for finding in every)


def as_json(environment: Mapping[str, list[Finding]], models: list[Examined]) -> str:
    """One object: environment (findings by section), models (name, works, facts, findings), faults."""
    said = {
        "environment": {section: [_plain(f) for f in found] for section, found in environment.items()},
        "models": [
            {"name": m.name, "works": m.works, "facts": m.facts, "findings": [_plain(f) for f in m.findings]}
            for m in models
        ],
        "faults": faults(environment, models),
    }
    return json.dumps(said, indent=1, default=str)


def as_text(environment: Mapping[str, list[Finding]], models: list[Examined], width: int = 120) -> str:
    """Sections of lines "mark topic text", each fix on a line of its own; the last line says what to do."""
    lines = []
    for section, found in environment.items():
        lines += ["", section, *(line for finding in found for line in _lines(finding, width))]
    for model in models:
        lines += ["", f"model {printable(model.name)}", *(line for f in model.findings for line in _lines(f, width))]
    count = faults(environment, models)
    last = "nothing that was asked for is at fault"
    if count:
        last = f"{count} {'fault' if count == 1 else 'faults'}: make the fixes above, then run edgelib doctor again"
    elif not models:
        last += "; name a model or a folder to have it examined: edgelib doctor ./my-model"
    return "\n".join([*lines[1:], "", last])


def _plain(finding: Finding) -> dict:
    return {"mark": finding.mark, **asdict(finding)}


def _lines(finding: Finding, width: int) -> list[str]:
    head = f"  {finding.mark:5}  {printable(finding.topic):{_WIDTH}}"
    indent = " " * len(head)
    said = [printable(" ".join(finding.text.split()))]
    said += [f"-> {printable(finding.fix)}"] if finding.fix else []
    options: dict[str, Any] = {"width": width, "subsequent_indent": indent, "break_long_words": False}
    options |= {"break_on_hyphens": False}
    first = textwrap.wrap(said[0], initial_indent=head + " ", **options) or [head]
    return first + [w for more in said[1:] for w in textwrap.wrap(more, initial_indent=indent + " ", **options)]
