"""Time llama.cpp on this machine and keep the times as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from edgelib.devices.machine import Watch, describe
from edgelib.errors import EdgelibError
from edgelib.kernels.llama_cpp.engine import why_no_engine
from edgelib.kernels.llama_cpp.speed import CACHES, MIXES, decoder_shape, engine_speed
from edgelib.study.engine.times import FILE, engine_times

SHAPE = "qwen2-0.5b"  # of `decoder_shape`, with random weights: times do not depend on them


def times_of(wanted: str | None, folder: str | os.PathLike) -> pd.DataFrame:
    """Return the times that a chapter's parameter names: as `engine_times`, or "here": taken now, kept in `folder`."""
    return engine_times(measure_engine(folder).parent if wanted == "here" else wanted)


def measure_engine(
    folder: str | os.PathLike,
    model=None,
    *,
    name: str | None = None,
    files: str | os.PathLike | None = None,
    mixes: Sequence[str] = MIXES,
    caches: Sequence[str] = CACHES,
    prompt: int = 64,
    tokens: int = 32,
    repeats: int = 3,
) -> Path:
    """Time llama.cpp on this machine and write the table of `engine_times` into a folder; return its path.

    model: a loaded model or decoder, None for the shape of Qwen2.5-0.5B with random weights. name: of the machine in
    the book. files: where GGUF files are kept, None for a folder that is removed. The rest as in `engine_speed`.
    Raises EdgelibError without the engine, and as `engine_speed` does.
    """
    if reason := why_no_engine():
        raise EdgelibError(f"llama.cpp cannot be timed here: {reason}")
    timed, label = (decoder_shape(), SHAPE) if model is None else (model, getattr(model, "name", type(model).__name__))
    watch = Watch()
    with TemporaryDirectory() as temporary:
        given = {"prompt": prompt, "tokens": tokens, "repeats": repeats}
        runs = engine_speed(timed, files or temporary, mixes=mixes, caches=caches, **given)
    others, whole = watch.seconds()
    rows = []
    for (mix, cache), part in runs.groupby(["mix", "cache"], sort=False):
        first = part.iloc[0]
        row = {"machine": describe(name)["name"], "model": label, "mix": mix, "cache": cache}
        row |= {column: int(first[column]) for column in ("threads", "file_bytes", "prompt_tokens")}
        row |= {"repeats": len(part), "others": round(others / whole, 4)}
        for what in ("prompt", "decode"):
            rate = part[f"{what}_per_s"]
            row |= {f"{what}_per_s": rate.median(), f"{what}_low": rate.min(), f"{what}_high": rate.max()}
        rows.append(row)
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file = path.with_name(f".{FILE}.new")
    pd.DataFrame(rows).to_csv(whole_file, index=False, float_format="%.4g", lineterminator="\n")
    os.replace(whole_file, path)
    return path
