"""Tokens per second of llama.cpp as a table that stays: measured once on a machine, read by a chapter."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from edgelib.devices.measurements import PUBLISHED
from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home
from edgelib.ground.records import one_line

FILE = "llama_cpp.csv"
_TEXTS = ("machine", "model", "mix", "cache")
_NUMBERS = (
    *("threads", "file_bytes", "prompt_tokens", "repeats", "others"),
    *("prompt_per_s", "prompt_low", "prompt_high", "decode_per_s", "decode_low", "decode_high"),
)
_MEASURED = Path(__file__).parents[2] / "devices" / "measured"


def engine_times(wanted: str | os.PathLike | None) -> pd.DataFrame:
    """Return times by mix and cache: those of the published machine (None), or of a folder.

    Columns: machine, model, mix, cache, threads, file_bytes, prompt_tokens, repeats, others (the share of the machine
    that other programs took), prompt_per_s and decode_per_s (tokens per second, medians) with low and high, the slowest
    and fastest repeat. No rows where the published machine has no such table.
    Raises EdgelibError for a folder without it, and for a table that lacks columns or holds what is no time.
    """
    path = (_MEASURED / PUBLISHED if wanted is None else from_home(str(wanted))) / FILE
    there = os.path.isfile(path)  # unlike Path.is_file, it takes any name
    if wanted is None and not there:
        return pd.DataFrame(columns=[*_TEXTS, *_NUMBERS])
    if not there:
        raise EdgelibError(
            f"{path.parent.name!r} holds no {FILE}, the times of llama.cpp; null takes those of the published machine, "
            '"here" measures them now'
        )
    try:
        rows = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise EdgelibError(
            f"{FILE} in {path.parent.name!r} is no table ({one_line(error)}); measure it again"
        ) from None
    lacking = [column for column in (*_TEXTS, *_NUMBERS) if column not in rows]
    if lacking or not len(rows):
        raise EdgelibError(f"{FILE} in {path.parent.name!r} lacks {', '.join(lacking) or 'rows'}; measure it again")
    numbers = rows[list(_NUMBERS)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers).all(axis=None) or (numbers.drop(columns="others") <= 0).any(axis=None):
        raise EdgelibError(f"{FILE} in {path.parent.name!r} holds what is no time or count above 0; measure it again")
    return rows.assign(**numbers)
