"""The table of published claims: every row of both sources with what it was tested by and the verdict."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from edgelib.report.replication import edgevlm, swift
from edgelib.report.replication.evidence import READERS, UNTESTED, Finding, Missing, Tables

SOURCES = (edgevlm.SOURCE, swift.SOURCE)
BASES = {
    "model": "models of this book",
    "figures": "their own figures",
    "dimensions": "public dimensions",
    "machine": "a measured machine",
    "devices": "facts of devices",
    "formats": "definition of the format",
    "none": "nothing",
}


@cache
def published_claims() -> dict[str, dict[str, Any]]:
    """Return {source: name, cite, claims, ...} as claims.yaml has them."""
    return yaml.safe_load(files("edgelib.report.replication").joinpath("claims.yaml").read_text(encoding="utf-8"))


def claim_table(folder: Path) -> pd.DataFrame:
    """Return one row per published claim: source, cite, claim, basis, tested, number, verdict, source by source.

    folder: the published tables of the chapters. What they do not hold is "not tested here", with the reason.
    Raises EdgelibError for a table that cannot be read or lacks a column.
    """
    tables = Tables(folder)
    rows: list[dict] = []
    for source in SOURCES:
        facts = published_claims()[source]
        for key, claim in facts["claims"].items():
            given = claim | {"table": facts.get("table", {})}
            try:
                found = READERS[source][key](tables, given)
            except Missing as reason:
                found = Finding(str(reason), "", UNTESTED)
            row = {
                "source": facts["name"],
                "cite": facts["cite"],
                "claim": claim["claim"],
                "basis": BASES[claim["basis"]],
            }
            rows.append(row | vars(found))
    return pd.DataFrame(rows)
