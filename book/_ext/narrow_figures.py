"""Figures for the screen: where a chapter drew a figure twice, a narrow screen gets the narrow drawing.

The outputs of a chapter carry both (edgelib.report.notebook); a page shows the wide one as an image that is named after
the hash of its text. Here the narrow one is written beside it, and the image becomes a picture of both. Paper is wide.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

NARROW = "application/vnd.edgelib.narrow+xml"
WIDE = "image/svg+xml"
SCREEN = "screen and (max-width: 600px)"
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="([^"]*/)([0-9a-f]{64})\.svg"[^>]*>')


def drawings(notebook: dict) -> dict[str, str]:
    """Return {name of the wide image: narrow drawing} of a notebook's outputs."""
    outputs = [o.get("data", {}) for cell in notebook["cells"] for o in cell.get("outputs", [])]
    both = [(_text(data[WIDE]), _text(data[NARROW])) for data in outputs if WIDE in data and NARROW in data]
    return {name_of(wide): narrow for wide, narrow in both}


def name_of(wide: str) -> str:
    """What MyST-NB calls the file of a drawing."""
    return hashlib.sha256(os.linesep.join(wide.splitlines()).encode("utf-8")).hexdigest()


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def pictures(body: str, names) -> str:
    """Return a page in which each image of `names` has its narrow drawing beside it."""

    def both(found: re.Match) -> str:
        folder, name = found.groups()
        if name not in names:
            return found[0]
        return f'<picture><source media="{SCREEN}" srcset="{folder}{name}-narrow.svg">{found[0]}</picture>'

    return IMAGE.sub(both, body)


def show_both(app, page, template, context, doctree) -> None:
    source = Path(app.env.doc2path(page)) if page in app.env.found_docs else Path()
    if source.suffix != ".ipynb" or app.builder.format != "html" or "body" not in context:
        return
    found = drawings(json.loads(source.read_text(encoding="utf-8")))
    context["body"] = pictures(context["body"], found)
    folder = Path(app.outdir, app.builder.imagedir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, narrow in found.items():
        (folder / f"{name}-narrow.svg").write_text(narrow, encoding="utf-8")


def setup(app) -> dict:
    app.connect("html-page-context", show_both)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
