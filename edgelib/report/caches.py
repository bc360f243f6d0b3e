"""What the chapter on caches shows of losses and of diagnoses, as tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.report.claims.caches import lost
from edgelib.report.tables import Column, interval, number, with_interval
from edgelib.stats.ladder import Attribution


def loss_rows(attributions: Mapping[tuple[str, str], Attribution], games: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per twin and experiment of `games` (key -> its name): the loss and, where one is shown, its parts.

    Columns: twin, experiment, effect, low, high, p, mde (fractions), verdict, parts in words, the largest first.
    """
    rows = []
    for (twin, game), found in attributions.items():
        if game not in games:
            continue
        total, ordered = found.total, sorted(found.parts.items(), key=lambda part: -part[1].effect)
        parts = "; ".join(f"{factor} {with_interval(part.effect, *part.interval)}" for factor, part in ordered)
        rows.append(
            {
                "twin": twin,
                "experiment": games[game],
                "effect": total.effect,
                "low": total.interval[0],
                "high": total.interval[1],
                "p": total.p,
                "mde": total.mde,
                "verdict": "lost" if lost(found) else "no loss is shown",
                "parts": parts if lost(found) else "",
            }
        )
    return pd.DataFrame(rows)


def loss_columns() -> dict[str, str | Column]:
    """What a table of `loss_rows` shows."""
    columns: dict[str, str | Column] = {"Twin": "twin", "Experiment": "experiment", "Lost, points": interval()}
    columns |= {"p": number("p", "{:.3f}"), "Verdict": "verdict", "Its parts, points": "parts"}
    return columns | {"One test finds, points": number("mde", "{:.1f}", 100, missing="not defined")}
