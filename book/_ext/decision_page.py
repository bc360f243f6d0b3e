"""The decision page: its script and the record that it compares, in one file that works from a disk without a network.

`{edgelib-decision} form` is replaced by the form. The scripts stand in decision/; they are not under _static in the
sources, because the book tool adds every script that it finds there to every page. Without a published record the page
says so.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book" / "data" / "pareto-decision.json"
PARTS = ("words.js", "compare.js", "page.js")
SCRIPT = "decision.js"
MISSING = "There is no published record of a decision in this book yet: `edgelib publish pareto` writes one."


def facts(record) -> dict:
    """Return a `DecisionRecord` as the page reads it: sums of memory are in it, empty parts and unused ones are not."""

    def lean(need) -> dict:
        if need.reason:
            return {"config": need.config, "reason": need.reason}
        shown = need.model_dump()
        return shown | {"memory": {part: size for part, size in need.memory.items() if size}, "total": need.total}

    found = record.model_dump()
    for device, known in zip(found["devices"], record.devices, strict=True):
        device["options"] = [lean(option) for option in known.options]
    if record.writer is not None:
        found["writer"]["devices"] = {key: [lean(n) for n in needs] for key, needs in record.writer.devices.items()}
    return found


def script(record) -> str:
    """Return the script of the page for a record."""
    data = json.dumps(facts(record), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    parts = [Path(__file__).with_name("decision").joinpath(name).read_text(encoding="utf-8") for name in PARTS]
    return f'(() => {{\n"use strict";\nconst RECORD = {data};\n{"".join(parts)}}})();\n'


def published():
    """Return the published record, None where there is none; EdgelibError for one that is not whole."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from edgelib.decide.record import read_record

    return read_record(RECORD) if RECORD.is_file() else None


class Decision(SphinxDirective):
    """The place of the form."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(RECORD))
        for name in PARTS:
            self.env.note_dependency(str(Path(__file__).with_name("decision") / name))
        if not RECORD.is_file():
            return self.parse_text_to_nodes(MISSING)
        self.env.metadata[self.env.docname][SCRIPT] = hashlib.sha256(RECORD.read_bytes()).hexdigest()
        without = "This form needs JavaScript; <code>edgelib choose</code> gives the same answers."
        return [nodes.raw("", f'<div id="decision"><noscript><p>{without}</p></noscript></div>', format="html")]


def write_script(app) -> None:
    """Put the script into the static folder of an HTML build before pages name it."""
    record = published() if app.builder.format == "html" else None
    if record is not None:
        folder = Path(app.outdir, "_static")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SCRIPT).write_text(script(record), encoding="utf-8")


def load_script(app, page, template, context, doctree) -> None:
    """Load the script on the page that has the form, and on no other."""
    if SCRIPT in app.env.metadata.get(page, {}):
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app) -> dict:
    app.add_directive("edgelib-decision", Decision)
    app.connect("builder-inited", write_script)
    app.connect("html-page-context", load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
