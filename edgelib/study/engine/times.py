"""Times of llama.cpp as tables that stay: measured once on a machine, read by a chapter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from edgelib.devices.measurements import PUBLISHED
from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home
from edgelib.ground.records import one_line

FILE, FIRST_FILE = "llama_cpp.csv", "llama_cpp_first.csv"
_TEXTS = ("machine", "model", "mix", "cache")
_NUMBERS = (
    *("threads", "file_bytes", "prompt_tokens", "repeats", "others"),
    *("prompt_per_s", "prompt_low", "prompt_high", "decode_per_s", "decode_low", "decode_high"),
)
_FIRST_TEXTS = ("machine", "model", "mix", "vision")
_FIRST_NUMBERS = (
    "threads",
    "image_tokens",
    "prompt_tokens",
    "repeats",
    "others",
    "first_ms",
    "first_low",
    "first_high",
)
_MEASURED = Path(__file__).parents[2] / "devices" / "measured"


def engine_times(wanted: str | os.PathLike | None) -> pd.DataFrame:
    """Return times by mix and cache: those of the published machine (None), or of a folder.

    Columns: machine, model, mix, cache, threads, file_bytes, prompt_tokens, repeats, others (the share of the machine
    that other programs took), prompt_per_s and decode_per_s (tokens per second, medians) with low and high, the slowest
    and fastest repeat. No rows where the published machine has no such table.
    Raises EdgelibError for a folder without it, and for a table that lacks columns or holds what is no time.
    """
    path, there = _place(wanted, FILE)
    if wanted is not None and not there:
        raise EdgelibError(
            f"{path.parent.name!r} holds no {FILE}, the times of llama.cpp; null takes those of the published machine, "
            '"here" measures them now'
        )
    return _read(path, _TEXTS, _NUMBERS) if there else pd.DataFrame(columns=[*_TEXTS, *_NUMBERS])


def first_times(wanted: str | os.PathLike | None) -> pd.DataFrame:
    """Return the waits for a first token by model, file and number of image tokens; no rows without such a table.

    Columns: machine, model, mix and vision (of the two files), image_tokens, threads, prompt_tokens, repeats, others,
    first_ms (median, milliseconds) with first_low and first_high. wanted and errors: as `engine_times`.
    """
    path, there = _place(wanted, FIRST_FILE)
    if not there:
        return pd.DataFrame(columns=[*_FIRST_TEXTS, *_FIRST_NUMBERS])
    return _read(path, _FIRST_TEXTS, _FIRST_NUMBERS)


def _place(wanted: str | os.PathLike | None, file: str) -> tuple[Path, bool]:
    """The path of a table and whether it is there."""
    path = (_MEASURED / PUBLISHED if wanted is None else from_home(str(wanted))) / file
    return path, os.path.isfile(path)  # unlike Path.is_file, it takes any name


def _read(path: Path, texts: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    where = f"{path.name} in {path.parent.name!r}"
    try:
        rows = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise EdgelibError(f"{where} is no table ({one_line(error)}); measure it again") from None
    lacking = [column for column in (*texts, *names) if column not in rows]
    if lacking or not len(rows):
        raise EdgelibError(f"{where} lacks {', '.join(lacking) or 'rows'}; measure it again")
    numbers = rows[list(names)].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers).all(axis=None) or (numbers.drop(columns="others") <= 0).any(axis=None):
        raise EdgelibError(f"{where} holds what is no time or count above 0; measure it again")
    return rows.assign(**numbers)
