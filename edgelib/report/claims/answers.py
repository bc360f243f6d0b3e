"""Sentences about answers: how sure a model was of those that change, what a family of sub-tasks leaves open."""

from __future__ import annotations

import pandas as pd

from edgelib.report.figures.palette import readable
from edgelib.stats.family import Family


def margin_claim(rows: pd.DataFrame, reference: str) -> str:
    """Say how sure the reference is of the answers that some configuration changes, beside all of its answers.

    rows: of `changed_answers`, with margin, the log-probability of an answer's first token over the second best (nats).
    """
    margins = rows[rows["config"] == reference].set_index(["task", "item"])["margin"]
    moved = rows[rows["correct"] > 0][["task", "item"]].drop_duplicates()
    if not len(moved):
        return "No configuration changes any answer of the reference."
    hesitant = margins.loc[pd.MultiIndex.from_frame(moved)].median()
    return (
        f"The reference's margin has a median of {hesitant:.2f} nats on the {len(moved):,} answers that some "
        f"configuration changes and of {margins.median():.2f} on all {len(margins):,}. Where margins are near zero, a "
        "small shift in one direction changes many answers while the mean divergence stays small."
    )


def nothing_settled_claim(family: Family) -> str:
    """Say what no test of MME's sub-tasks shows, and how large a difference each of them would have found."""
    largest = max(test.mde for test in family.tests.values())
    return (
        f"no sub-task of any configuration differs beyond doubt (Holm-corrected over {len(family)} tests). One such "
        f"test, not corrected, finds a difference of {100 * largest:.0f} points of MME four times in five, in every "
        "one of them"
    )


def condition_claim(rows: pd.DataFrame) -> str:
    """Say the mean score (columns corruption, severity, score) of each condition of the images, in their order."""
    means = rows.groupby(["corruption", "severity"], sort=False)["score"].mean()
    parts = [
        f"{readable(name)}{f' {severity}' if severity else ''}: {100 * mean:.1f} %"
        for (name, severity), mean in means.items()
    ]
    return f"Mean simulated accuracy over configurations, by corruption and severity: {', '.join(parts)}."
