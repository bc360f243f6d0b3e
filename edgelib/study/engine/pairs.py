"""Outcomes of pairs of files, matched question by question: by condition of the images, and by their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

Matched = tuple[np.ndarray, np.ndarray, np.ndarray]


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return scored answer rows with the columns correct, their score, and place: "clean", or as in "fog 3"."""
    condition = rows["corruption"] + " " + rows["severity"].astype(str)
    return rows.assign(correct=rows["score"], place=condition.where(rows["severity"] > 0, "clean"))


def matched(first: pd.DataFrame, second: pd.DataFrame) -> Matched:
    """Return (scores, scores, images) of two configurations that answered the same questions in the same places.

    first, second: rows of `placed`, one for each place and item. As `edgelib.stats.family.compare` takes them.
    """
    one, two = (rows.sort_values(["place", "item"]) for rows in (first, second))
    return one["score"].to_numpy(), two["score"].to_numpy(), one["image_id"].to_numpy()


def by_config(rows: pd.DataFrame, configs: Sequence[str], reference: str) -> dict[str, Matched]:
    """Return every configuration beside the reference, over all places of the rows."""
    base = rows[rows["config"] == reference]
    return {config: matched(rows[rows["config"] == config], base) for config in configs}


def by_place(rows: pd.DataFrame, configs: Sequence[str], reference: str) -> dict[tuple[str, str], Matched]:
    """Return every configuration beside the reference, by (place, config), places in their order."""
    found = {place: by_config(part, configs, reference) for place, part in rows.groupby("place", sort=False)}
    return {(str(place), config): pair for place, pairs in found.items() for config, pair in pairs.items()}


def with_tokens(parts: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of `placed` of several numbers of image tokens as one frame with the column tokens, ascending."""
    frames = [placed(rows).assign(tokens=tokens) for tokens, rows in sorted(parts.items())]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["tokens"])


def trades(rows: pd.DataFrame, wide: str, narrow: str) -> dict[tuple[str, str], Matched]:
    """Return `wide` with fewer image tokens beside `narrow` with more, by both numbers of tokens as text.

    rows: of `with_tokens`. wide, narrow: configurations, the one of more bits first.
    """
    parts = (
        {(tokens, config): part for (tokens, config), part in rows.groupby(["tokens", "config"])} if len(rows) else {}
    )
    counts = sorted({tokens for tokens, _ in parts})
    return {
        (str(few), str(more)): matched(parts[few, wide], parts[more, narrow])
        for few in counts
        for more in counts
        if few < more
    }
