"""Where the numbers of a page come from, as one line that opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def provenance_html(values: Mapping[str, Any]) -> str:
    """Return a folded list of what `Parameters.provenance` tells.

    Each entry has a class of its own name, so that a comparison of two runs can leave out what differs by machine.
    """
    entries = [
        ("edgelib", "edgelib", str(values["edgelib"])),
        *(("source", name, told) for name, told in values["sources"].items()),
        ("code", "code", f"SHA-256 {values['code']}"),
        ("libraries", "libraries", ", ".join(f"{name} {v}" for name, v in values["libraries"].items())),
        ("device", "device", str(values["device"])),
        ("machine", "machine", str(values["machine"])),
        ("seed", "seed", str(values["seed"])),
        ("parameters", "parameters", json.dumps(values["parameters"], ensure_ascii=False)),
    ]
    lines = (f'<dt>{escape(name)}</dt><dd class="{kind}">{escape(told)}</dd>' for kind, name, told in entries)
    summary = "Provenance: models, data, code, libraries, device, seed, parameters"
    return f'<details class="provenance"><summary>{summary}</summary><dl>{"".join(lines)}</dl></details>'
