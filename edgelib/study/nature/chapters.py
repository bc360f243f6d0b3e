"""Tables of chapters that ran on a graft, kept beside those of its decoder: what the book shows of them."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import yaml

from edgelib.errors import EdgelibError
from edgelib.ground.paths import whole_file

TABLES = {
    "vlm_accuracy": ("scores", "differences", "changed"),
    "fp8_kv_ablation": ("recovery", "states"),
}
RECORD, KEPT = "graft.json", "chapters.yaml"
HALVES = ("tower", "decoder", "decoder_sha256", "steps", "scenes", "layer", "explained")


def keep_chapters(results: str | os.PathLike, graft: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Copy the tables of the chapters in TABLES to `out` as <chapter>-<table>.csv, and say of what model they are.

    results: folder that the chapters saved to, results/<chapter> for each. graft: the model, as `edgelib graft` writes
    it. Returns `out`. Raises EdgelibError where a table or the record of the graft is missing.
    """
    results, graft, out = Path(results), Path(graft), Path(out)
    if not (graft / RECORD).is_file():
        raise EdgelibError(
            f"{graft} holds no {RECORD}: it is no graft; make one by edgelib graft {graft} --decoder ..."
        )
    record = json.loads((graft / RECORD).read_text(encoding="utf-8"))
    tables = {}
    for chapter, names in TABLES.items():
        for name in names:
            file = results / chapter / f"{name}.csv"
            if not file.is_file():
                raise EdgelibError(
                    f"{file} is not there: run papermill notebooks/{chapter}.ipynb out.ipynb -p model {graft} -p "
                    f"results {results}"
                )
            tables[f"{chapter}-{name}.csv"] = file.read_text(encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    told = {key: record[key] for key in HALVES if key in record} | {"edgelib": version("edgelib")}
    for name, text in (tables | {KEPT: yaml.safe_dump(told, sort_keys=False)}).items():
        with whole_file(out / name) as place:
            place.write_text(text, encoding="utf-8")
    return out
