"""Times of llama.cpp as tables that stay: measured once on a machine, read by a chapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from edgelib.devices.measurements import PUBLISHED, Number, read_columns, require_once, require_rising
from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home

FILE, FIRST_FILE = "llama_cpp.csv", "llama_cpp_first.csv"
_COUNT, _RATE = Number(1, 1e12, whole=True), Number(1e-9, 1e9)  # rates in tokens per second, waits in milliseconds
_ASKED = {"threads": _COUNT, "prompt_tokens": _COUNT, "repeats": _COUNT, "others": Number(0, 1)}
_TIMES = dict.fromkeys(("machine", "model", "mix", "cache")) | _ASKED | {"file_bytes": _COUNT}
_FIRST = dict.fromkeys(("machine", "model", "mix", "vision")) | _ASKED | {"image_tokens": _COUNT}
_RISING = tuple(
    tuple(f"{what}_{end}" for end in ("low", middle, "high"))
    for what, middle in (("prompt", "per_s"), ("decode", "per_s"), ("first", "ms"))
)
_TIMES |= dict.fromkeys((*_RISING[0], *_RISING[1]), _RATE)
_FIRST |= dict.fromkeys(_RISING[2], _RATE)
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
    return _read(path, _TIMES) if there else pd.DataFrame(columns=list(_TIMES))


def first_times(wanted: str | os.PathLike | None) -> pd.DataFrame:
    """Return the waits for a first token by model, file and number of image tokens; no rows without such a table.

    Columns: machine, model, mix and vision (of the two files), image_tokens, threads, prompt_tokens, repeats, others,
    first_ms (median, milliseconds) with first_low and first_high. wanted and errors: as `engine_times`.
    """
    path, there = _place(wanted, FIRST_FILE)
    if not there:
        return pd.DataFrame(columns=list(_FIRST))
    return _read(path, _FIRST)


def _place(wanted: str | os.PathLike | None, file: str) -> tuple[Path, bool]:
    """The path of a table and whether it is there."""
    path = (_MEASURED / PUBLISHED if wanted is None else from_home(str(wanted))) / file
    return path, os.path.isfile(path)  # unlike Path.is_file, it takes any name


def _read(path: Path, columns: Mapping[str, Number | None]) -> pd.DataFrame:
    try:
        table = read_columns(path, columns)
        require_rising(path, table, _RISING)
        case = ("machine", "model", "mix", "cache", "vision", "image_tokens", "threads", "prompt_tokens")
        require_once(path, table, [column for column in case if column in columns])
    except EdgelibError as error:
        raise EdgelibError(
            f"no times of llama.cpp: {error}; measure again with `edgelib measure --llama-cpp`"
        ) from None
    return table
