"""Time llama.cpp on this machine and keep the times as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from transformers import Qwen2VLImageProcessor

from edgelib.devices.machine import Watch, describe
from edgelib.errors import EdgelibError
from edgelib.ground.paths import whole_file
from edgelib.kernels.llama_cpp.engine import why_no_engine
from edgelib.kernels.llama_cpp.speed import (
    CACHES,
    MIXES,
    decoder_shape,
    engine_speed,
    first_picture,
    first_token_speed,
)
from edgelib.models.generative import GenerativeModel
from edgelib.models.load import load
from edgelib.models.token_budget import image_tokens
from edgelib.source import code_version
from edgelib.study.engine.times import FILE, FIRST_FILE, engine_times, first_times
from edgelib.study.store import CellStore

SHAPE = "qwen2-0.5b"  # of `decoder_shape`, with random weights: times do not depend on them
SMALL = "scenes-vlm"  # whose wait for a first token is timed beside that shape, which sees no pictures
SHARES = (1 / 4, 4 / 9, 1, 16 / 9)  # of the tokens that its processor makes of a picture


def times_of(wanted: str | None, folder: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the times that a chapter's parameter names, as `engine_times` and `first_times`.

    wanted: as they take it, or "here": taken now, kept in `folder`.
    """
    at = measure_engine(folder).parent if wanted == "here" else wanted
    return engine_times(at), first_times(at)


def measure_engine(
    folder: str | os.PathLike,
    model=None,
    *,
    name: str | None = None,
    files: str | os.PathLike | None = None,
    store: CellStore | None = None,
    report: Callable[[str], None] = lambda line: None,
    mixes: Sequence[str] = MIXES,
    caches: Sequence[str] = CACHES,
    prompt: int = 64,
    tokens: int = 32,
    repeats: int = 3,
) -> Path:
    """Time llama.cpp on this machine, write the tables of `engine_times` and `first_times`, return its path.

    model: a loaded model or decoder, None for the shape of Qwen2.5-0.5B with random weights and, for first tokens, the
    embedded model. First tokens are timed of models whose processor takes a number of image tokens, and in files of the
    names in `mixes` beside a tower in F16. name: of the machine in the book. files: where GGUF files are kept, None
    for a folder that is removed. store: where every case is kept as it is done, so that a run that is killed goes on
    from there. report: called with the name of each case that begins. The rest as in `engine_speed`.
    Raises EdgelibError without the engine, and as `engine_speed` does.
    """
    if reason := why_no_engine():
        raise EdgelibError(f"llama.cpp cannot be timed here: {reason}")
    shown = load(SMALL) if model is None else model
    timed, label = (decoder_shape(), SHAPE) if model is None else (model, getattr(model, "name", type(model).__name__))
    machine, threads = describe(name)["name"], torch.get_num_threads()
    known = {"threads": threads, "xllamacpp": version("xllamacpp"), "code": code_version(__name__), "machine": machine}

    case = partial(_case, known=known, label=label, store=store, report=report)
    sizes = {"prompt": prompt, "tokens": tokens, "repeats": repeats}
    with TemporaryDirectory() as temporary:
        place = files or temporary
        speeds = [
            case(
                f"{mix}, cache {cache}",
                timed,
                sizes,
                partial(engine_speed, timed, place, mixes=[mix], caches=[cache]),
            )
            for mix in mixes
            for cache in caches
        ]
        firsts = [
            case(
                f"{mix}, first token after {count} image tokens",
                shown,
                {"repeats": repeats},
                partial(first_token_speed, shown, place, tokens=[count], mixes=[mix]),
            )
            for mix in mixes
            for count in _budgets(shown)
        ]
    if firsts:
        _write(Path(folder) / FIRST_FILE, firsts)
    return _write(Path(folder) / FILE, speeds)


def _case(
    what: str,
    of,
    sizes: dict,
    make: Callable[..., pd.DataFrame],
    *,
    known: dict,
    label: str,
    store: CellStore | None,
    report: Callable[[str], None],
) -> dict:
    """One row: medians and extremes of a case, from the store or made now."""
    spec = {"llama.cpp": what, "model": getattr(of, "fingerprint", label), **sizes, **known}
    kept = None if store is None else store.read(spec)
    if kept is None:
        report(what)
        watch = Watch()
        runs = make(**sizes)
        others, whole = watch.seconds()
        row = {"machine": known["machine"], "model": getattr(of, "name", label), "others": others, "seconds": whole}
        kept = pd.DataFrame({"row": [json.dumps(row | _summed(runs))]})
        if store is not None:
            store.write(spec, kept)
    return json.loads(kept["row"].iloc[0])


def _budgets(model) -> list[int]:
    """The numbers of image tokens that first tokens are timed at; none for a model that takes no such number."""
    if not isinstance(model, GenerativeModel):
        return []
    if not isinstance(model.processor.image_processor, Qwen2VLImageProcessor):
        return []
    whole = image_tokens(model, first_picture())
    return list(dict.fromkeys(max(1, round(share * whole)) for share in SHARES))


def _summed(runs: pd.DataFrame) -> dict:
    """What the repeats of one case have in common, and of every rate or time its median and extremes."""
    row: dict = {"repeats": len(runs)}
    for column in runs.columns.drop("repeat"):
        if not column.endswith(("_per_s", "_ms")):
            row[column] = runs[column].iloc[0].item() if hasattr(runs[column].iloc[0], "item") else runs[column].iloc[0]
    for what in ("prompt_per_s", "decode_per_s", "first_ms"):
        if what in runs:
            kind = what.partition("_")[0]
            row |= {what: runs[what].median(), f"{kind}_low": runs[what].min(), f"{kind}_high": runs[what].max()}
    return row


def _write(path: Path, rows: list[dict]) -> Path:
    """Write the rows of all cases, each with the share of the machine that other programs took over all of them."""
    table = pd.DataFrame(rows)
    table["others"] = round(table["others"].sum() / table["seconds"].sum(), 4)
    with whole_file(path) as place:
        table.drop(columns="seconds").to_csv(place, index=False, float_format="%.4g", lineterminator="\n")
    return path
