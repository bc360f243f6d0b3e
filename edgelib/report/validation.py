"""What the chapter on validation shows: rows from the other chapters' tables, and how its own tables are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from edgelib.devices.validation import Validation
from edgelib.errors import EdgelibError
from edgelib.report.claims.validation import study_verdict
from edgelib.report.engines import file_name
from edgelib.report.figures.palette import label
from edgelib.report.replication.evidence import CONTRADICTED, HOLDS, OPEN, UNTESTED, Missing, Tables
from edgelib.report.replication.table import BASES
from edgelib.report.tables import Column, interval, number
from edgelib.stats.outcomes import accuracy_table

VERDICTS = (HOLDS, CONTRADICTED, OPEN, UNTESTED)


def published_folder(root: Path, named: str | None) -> Path:
    """Return where the published tables lie: the named folder, else book/data of the checkout, which may be absent.

    Raises EdgelibError for a named folder that is none.
    """
    folder = root / "book" / "data" if named is None else root / named
    if named is not None and not folder.is_dir():
        raise EdgelibError(f"no folder {named!r} of published tables; name one such as book/data, or null")
    return folder


def read_scope(folder: Path) -> str:
    """Say which tables a page reads: how many chapters have published any, and that nothing else was run."""
    found = sorted({path.name.partition("-")[0].replace("_", " ") for path in folder.glob("*.csv")} - {"validation"})
    return f"Verdicts are read from the published tables of {len(found)} chapters: {', '.join(found) or 'none'}"


def claim_columns() -> dict[str, str | Column]:
    """What a table of `claim_table` shows."""
    columns: dict[str, str | Column] = {"Published claim": "claim", "Verdict": "verdict", "What we tested": "tested"}
    return columns | {"On": "basis", "What came out": "number", "Source": "source"}


def verdict_counts(claims: pd.DataFrame) -> pd.DataFrame:
    """Return a row per basis of a claim and a column per verdict, counting."""
    counts = pd.crosstab(claims["basis"], claims["verdict"])
    counts = counts.reindex(index=[b for b in BASES.values() if b in counts.index], columns=VERDICTS, fill_value=0)
    return counts.rename_axis(index="Tested on", columns=None).reset_index()


def agreement_columns() -> dict[str, str | Column]:
    """What a table of `agreements` shows."""
    columns: dict[str, str | Column] = {"Part": "part", "Peer": "peer", "What": "what"}
    columns |= {"Numbers": number("n", "{:,.0f}"), "Differ": number("differ", "{:,.0f}")}
    columns |= {"Largest difference": number("largest", "{:.2g}"), "Unit": "unit"}
    return columns | {"Explained": number("allowed", "{:.2g}")}


def run_rows(folder: Path) -> pd.DataFrame:
    """Return a row per file or engine that was held against its simulation: what, how many differ, the distance.

    folder: the published tables; a chapter without them has no rows.
    """
    tables, rows = Tables(folder), []
    try:
        for row in tables("efficiency", "files").itertuples():
            what = f"packed file, {label(row.config)}"
            rows.append((what, "answers of the reloaded model", f"{row.flips:.0f} differ", f"{row.max_difference:.2g}"))
    except Missing:
        pass
    try:
        for row in tables("edge_engines", "ladders", step="simulation").itertuples():
            share = f"{100 * row.top1:.0f} % the same (at least {100 * row.top1_low:.0f} %)"
            bound = f"bound {100 * row.bound:.2g} points"
            rows.append((f"llama.cpp, {file_name(row.mix)}", f"next token of {row.n:.0f} prompts", share, bound))
    except Missing:
        pass
    return pd.DataFrame(rows, columns=["What runs", "Compared", "Outcome", "Largest difference"])


def coverage_rows(validation: Validation, level: float, seed: int) -> pd.DataFrame:
    """Return a row per kind of step and one for all: share of published points inside their projection's interval, with
    its own interval over devices (low, high, level), n devices, points, median factor either way and median error.

    level: of the interval of a share. seed: of its bootstrap.
    """
    points = validation.points.assign(correct=validation.points["inside"].astype(float))
    points = pd.concat([points, points.assign(step="all")])
    points["factor"], points["error"] = points["high"] / points["projected"], points["error"].abs()
    shares = accuracy_table(points, ["step"], cluster="silicon", level=level, seed=seed).set_index("step")
    groups = points.groupby("step", sort=False)
    more = groups.agg(points=("correct", "size"), factor=("factor", "median"), median_error=("error", "median"))
    return shares.join(more).assign(level=level).reset_index()


def judged(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of simulated studies together, each with its verdict."""
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(verdict=[study_verdict(row) for _, row in rows.iterrows()])


def study_columns() -> dict[str, str | Column]:
    """What a table of simulated studies shows."""
    columns: dict[str, str | Column] = {"Share of": "study", "Of what": "what", "Case": "case"}
    columns |= {"Images": "images", "Questions each": "questions", "Simulations": number("n", "{:,.0f}")}
    columns |= {"Share, %": interval("share"), "Wanted, %": number("nominal", "{:g}", 100)}
    return columns | {"Verdict": "verdict"}
