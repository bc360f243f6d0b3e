"""Fold the parameter cells of executed chapters, so that the committed notebooks stay as they were executed."""

from __future__ import annotations

import json

FOLDED = {"parameters", "injected-parameters"}


def folded(notebook: dict) -> dict:
    """Return the notebook with `hide-input` added to the tags of its parameter cells."""
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if FOLDED.intersection(tags) and "hide-input" not in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
    return notebook


def fold(app, docname, source) -> None:
    if app.env.doc2path(docname).endswith(".ipynb"):
        source[0] = json.dumps(folded(json.loads(source[0])))


def setup(app) -> dict:
    app.connect("source-read", fold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
