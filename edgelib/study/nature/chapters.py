"""Tables of chapters that ran on a graft, kept beside those of its decoder: what the book shows of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import yaml

from edgelib.errors import EdgelibError
from edgelib.ground.paths import whole_file

TABLES = {
    "vlm_accuracy": ("scores", "differences", "changed"),
    "fp8_kv_ablation": ("recovery",),
}
RECORD, KEPT = "graft.json", "chapters.yaml"
HALVES = ("tower", "decoder", "decoder_sha256", "steps", "scenes", "layer", "explained")


def read_chapters(results: str | os.PathLike, graft: str | os.PathLike) -> dict[str, str]:
    """Return what to keep by file name: <chapter>-<table>.csv of the chapters in TABLES, and of what model they are.

    results: folder that the chapters saved to, results/<chapter> for each. graft: the model, as `edgelib graft` writes
    it. Raises EdgelibError where a table or the record of the graft is missing.
    """
    results, graft = Path(results), Path(graft)
    if not (graft / RECORD).is_file():
        raise EdgelibError(
            f"{graft} is no graft: it holds no {RECORD}; make one by edgelib graft {graft} --decoder ..."
        )
    record = json.loads((graft / RECORD).read_text(encoding="utf-8"))
    told = {key: record[key] for key in HALVES if key in record} | {"edgelib": version("edgelib")}
    texts = {KEPT: yaml.safe_dump(told, sort_keys=False)}
    for chapter, names in TABLES.items():
        for name in names:
            file = results / chapter / f"{name}.csv"
            if not file.is_file():
                raise EdgelibError(
                    f"{file} is not there: run papermill notebooks/{chapter}.ipynb out.ipynb -p model {graft} -p "
                    f"results {results}"
                )
            texts[f"{chapter}-{name}.csv"] = file.read_text(encoding="utf-8")
    return texts


def keep_chapters(texts: Mapping[str, str], out: str | os.PathLike) -> None:
    """Write what `read_chapters` returned into the folder `out`, each file whole."""
    for name, text in texts.items():
        with whole_file(Path(out) / name) as place:
            place.write_text(text, encoding="utf-8")
