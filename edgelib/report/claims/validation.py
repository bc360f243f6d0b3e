"""Sentences about what this book's numbers are held against: peers, kernels, published points, known truths, claims."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import interval_text
from edgelib.report.replication.evidence import CONTRADICTED, HOLDS, OPEN, UNTESTED

BAND = 0.01  # either side of the level: what a coverage may be, 94 to 96 % of 95 % intervals
FALSE, COVER = "false claims", "coverage"


def agreement_claim(rows: pd.DataFrame) -> str:
    """Say how many numbers were compared with other tools, how many differ, and whether conventions explain those.

    rows: of `agreements`.
    """
    beyond = rows[rows["largest"] > rows["allowed"]]
    n, differ = int(rows["n"].sum()), int(rows["differ"].sum())
    text = (
        f"of {n:,} numbers that {rows['peer'].nunique()} other tools computed, {n - differ:,} are the same here and "
        f"{differ:,} differ"
    )
    if len(beyond):
        named = "; ".join(f"{row.what} of {row.peer} by {row.largest:.3g} {row.unit}" for row in beyond.itertuples())
        return f"{text}, {len(beyond)} of {len(rows)} comparisons by more than conventions explain ({named})"
    return f"{text}, each by no more than its row allows" if differ else text


def study_verdict(row: pd.Series) -> str:
    """Return what a simulated share says of its target: at most the nominal rate of false claims, or a coverage within
    a point of the nominal one.

    "holds" where the whole interval lies on the right side, "exceeded", "wider" or "narrower" where it lies on the
    wrong one (a wider interval errs on the safe side), else "not excluded".
    """
    if row["study"] == FALSE:
        return (
            "holds" if row["high"] <= row["nominal"] else "exceeded" if row["low"] > row["nominal"] else "not excluded"
        )
    low, high = row["nominal"] - BAND, row["nominal"] + BAND
    if row["low"] > high:
        return "wider"
    if row["high"] < low:
        return "narrower"
    return "holds" if low <= row["low"] and row["high"] <= high else "not excluded"


def study_claim(rows: pd.DataFrame) -> str:
    """Say what the simulated experiments show of false claims and of coverage, worst first; rows: of the studies."""
    parts = []
    for study, worst in ((FALSE, "largest"), (COVER, "smallest")):
        own = rows[rows["study"] == study]
        row = own.loc[own["share"].idxmax() if study == FALSE else own["share"].idxmin()]
        bad = {"exceeded", "narrower"} & {study_verdict(line) for _, line in own.iterrows()}
        target = f"at most {100 * row.nominal:g} %" if study == FALSE else f"{100 * row.nominal:g} %"
        span = interval_text((row.low, row.high), row.level, 100)
        where = f"{row['what']}, {row['case']}, {row.n:,.0f} simulations"
        parts.append(
            f"the {worst} share of {study} is {100 * row.share:.1f} % ({span}, wanted {target}; {where})"
            + (f", and one case is {bad.pop()}" if bad else "")
        )
    return "; ".join(parts)


def coverage_claim(rows: pd.DataFrame, level: float) -> str:
    """Say how many published points lie in the intervals of projections that had not seen their device.

    rows: step, accuracy (share inside), low, high, level of these, n (devices), points, factor; the step "all" among
    them. level: of the intervals of projections.
    """
    row = rows.set_index("step").loc["all"]
    span = interval_text((row.low, row.high), row.level, 100, 0)
    inside = "as wide as they say" if row.low <= level <= row.high else "too narrow" if row.high < level else "too wide"
    return (
        f"{100 * row.accuracy:.0f} % of {row.points:.0f} published points lie inside {100 * level:g} % intervals of "
        f"projections ({span} over {row.n:.0f} devices): the intervals are {inside}, a median "
        f"factor of {row.factor:.1f} either way"
    )


def counts_text(verdicts: Sequence[str]) -> str:
    """Count verdicts in words: "3 hold, 9 are contradicted, 8 stay open, 2 are not tested here"."""
    counts = {verdict: list(verdicts).count(verdict) for verdict in (HOLDS, CONTRADICTED, OPEN, UNTESTED)}
    verbs = {HOLDS: ("holds", "hold"), CONTRADICTED: ("is contradicted", "are contradicted")}
    verbs |= {OPEN: ("stays open", "stay open"), UNTESTED: ("is not tested here", "are not tested here")}
    return ", ".join(f"{n} {verbs[verdict][n != 1]}" for verdict, n in counts.items() if n)


def validation_opening(claims: pd.DataFrame, studies: pd.DataFrame, agreed: pd.DataFrame | None) -> Opening:
    """Open the chapter on validation.

    claims: of `claim_table`. studies: of the simulated experiments. agreed: of `agreements`, None without vectors.
    """
    own = studies[(studies["study"] == FALSE) & (studies["what"] == "differences")].iloc[0]
    wrong = [row for _, row in studies.iterrows() if study_verdict(row) in ("exceeded", "narrower")]
    answer = f"of {len(claims)} claims that two published benchmarks make, {counts_text(claims['verdict'])}"
    number = (
        f"two configurations that do not differ are claimed to differ in {100 * own.share:.1f} % of {own.n:,.0f} "
        f"simulated comparisons ({interval_text((own.low, own.high), own.level, 100)})"
    )
    if agreed is None:
        number += "; other tools' vectors are not there to compare with"
    elif (agreed["largest"] > agreed["allowed"]).any():
        number += "; some numbers differ from those of other tools by more than conventions explain"
    trust = "read a difference with its interval, and an open verdict as a question of more images"
    if wrong:
        trust = f"do not trust {wrong[0]['what']} for {wrong[0]['case']} here: {wrong[0]['study']} miss their target"
    small = "a claim contradicted on this book's models may hold on yours, one contradicted by its own figures does not"
    return Opening(answer, number, f"{trust}; {small}")
