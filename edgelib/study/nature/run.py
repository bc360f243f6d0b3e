"""The whole comparison into a folder of tables, cell by cell: a run that is killed goes on where it was."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml

from edgelib.data.calibration import calibration_set
from edgelib.data.datasets import dataset
from edgelib.data.questions import QuestionSet
from edgelib.errors import EdgelibError
from edgelib.ground.checks import whole_number
from edgelib.ground.progress import progress_bar
from edgelib.kv.scheme import kv_scheme
from edgelib.models.generative import GenerativeModel
from edgelib.models.load import load
from edgelib.models.twins import PLAIN
from edgelib.quant.scheme import scheme
from edgelib.source import code_version
from edgelib.study.nature.caches import CACHES, CONTROL, CONTROLLED, cache_cell, grown
from edgelib.study.nature.decoder import TextDecoder, batches, load_decoder
from edgelib.study.nature.grid import SCHEMES, WALKING, DecoderGrid, check_twin, twin_cell, twin_named
from edgelib.study.nature.states import state_table
from edgelib.study.store import CellStore

TWINS = (
    PLAIN,
    "activation:8",
    "activation:32",
    "activation:128",
    "weight:4",
    "weight:16",
    "spike:16",
    "spike:256",
    "key:32",
    "value:32",
    "activation:8+spike:16",  # with larger doses together, 16-bit activations overflow
)
STATE_PASSAGES = 4
OPTIONS = ("model", "passages", "calibration", "images", "seed", "twins", "schemes", "caches")
NONE = "none"  # how the command line says an empty list
LIBRARIES = ("torch", "transformers", "edgelib")


@dataclass(frozen=True)
class Nature:
    """What is compared: a decoder, the model whose twins it is held against, and how much of each is read.

    schemes: on the decoder; the twins are asked those that do not walk layer by layer. caches: on the decoder.
    passages, calibration: numbers of passages of the test and of calibration, `length` tokens each. images: scenes that
    the twins are asked about, with all their questions.
    """

    decoder: str
    model: str = "scenes-vlm"
    data: str = "scenes-vqa"
    twins: tuple[str, ...] = TWINS
    schemes: tuple[str, ...] = (*SCHEMES, *WALKING)
    caches: tuple[str, ...] = CACHES
    passages: int = 44
    calibration: int = 36
    length: int = 256
    images: int = 24
    seed: int = 0

    @property
    def compared(self) -> tuple[str, ...]:
        """The schemes that decoder and twins are both asked."""
        return tuple(name for name in self.schemes if not scheme(name).walks)


Cell = tuple[str, tuple[str, ...], Callable[[], pd.DataFrame]]


def measure(asked: Nature, out: Path, *, progress: bool = True, report: Callable[[str], None] = print) -> Path:
    """Compute what lacks of a comparison and write its tables: states, kl, nll, same_top, twins, caches, provenance.

    States are those of the first STATE_PASSAGES test passages. Without schemes or caches, their tables are left out.

    Finished cells are kept in `out`/unfinished, under what they depend on, until the folder is deleted.
    Raises EdgelibError for a decoder or model that does not load, and for numbers that are none.
    """
    for name in ("passages", "calibration", "length", "images"):
        whole_number(getattr(asked, name), name, at_least=2)
    for name in asked.schemes:
        scheme(name)
    for name in asked.caches:
        kv_scheme(name)
    for twin in asked.twins:
        check_twin(twin)
    decoder, model = load_decoder(asked.decoder), load(asked.model)
    if not isinstance(model, GenerativeModel):
        raise EdgelibError(f"{asked.model} writes no answers, and the twins are asked questions; take scenes-vlm")
    store = CellStore(out / "unfinished")
    cells, shared = list(_cells(asked, decoder, model, out / "unfinished")), _shared(asked, decoder, model)
    found: dict[tuple[str, tuple[str, ...]], pd.DataFrame] = {}
    with progress_bar(len(cells), "cell", progress) as done:
        for kind, key, make in cells:
            spec = shared | {"kind": kind, "cell": list(key)}
            rows = store.read(spec)
            if rows is None:
                report(f"{kind} {' '.join(key)}")
                rows = make()
                store.write(spec, rows)
            found[kind, key] = rows
            done(1)
    return _write(asked, decoder, found, out)


def _shared(asked: Nature, decoder: TextDecoder, model: GenerativeModel) -> dict:
    sizes = {name: getattr(asked, name) for name in ("passages", "calibration", "length", "images", "seed", "data")}
    versions = {name: version(name) for name in LIBRARIES}
    code = code_version(__name__)
    return sizes | {"decoder": decoder.fingerprint, "model": model.fingerprint, "versions": versions, "code": code}


def _cells(asked: Nature, decoder: TextDecoder, model: GenerativeModel, kept: Path) -> Iterator[Cell]:
    """Every cell, what is cheap and what others lean on first."""
    test, calibration = (
        decoder.passages(split, getattr(asked, count), asked.length)
        for split, count in (("test", "passages"), ("calibration", "calibration"))
    )
    grid = DecoderGrid(decoder, test, calibration, kept)
    data = dataset(asked.data, n=asked.images, seed=asked.seed)
    pool = calibration_set("balanced", 32, asked.seed, asked.data)
    if not isinstance(data, QuestionSet) or not isinstance(pool, QuestionSet):
        raise EdgelibError(f"{asked.data!r} asks nothing, and the twins answer questions; take scenes-vqa")

    def nature_states(twin: str) -> pd.DataFrame:
        module = grown(decoder.module, twin)
        return state_table(module, [_run(module, ids) for ids in batches(test[:STATE_PASSAGES])])

    def twin_states(twin: str) -> pd.DataFrame:
        own = twin_named(model, twin, asked.seed)
        return state_table(own, (step.run for step in own.calibration_passes(data)))

    for twin in (PLAIN, CONTROL) if asked.caches else (PLAIN,):
        yield "nature", (twin,), partial(nature_states, twin)
    for twin in asked.twins:
        yield "states", (twin,), partial(twin_states, twin)
    for name in asked.compared:
        yield "scheme", (name,), partial(grid.cell, name)
    for twin in asked.twins if asked.compared else ():
        yield "twin", (twin, *asked.compared), partial(twin_cell, model, twin, asked.compared, data, pool)
    for twin, caches in ((PLAIN, asked.caches), (CONTROL, CONTROLLED)):
        for cache in (cache for cache in caches if cache in asked.caches):
            yield "cache", (twin, cache), partial(cache_cell, grid, twin, cache)
    for name in (name for name in asked.schemes if name not in asked.compared):
        yield "scheme", (name,), partial(grid.cell, name)


def _run(module, ids):
    return lambda: module(input_ids=ids, use_cache=False)


def _write(asked: Nature, decoder: TextDecoder, found: dict, out: Path) -> Path:
    """The tables, whole: one row per layer and place, passage, image; methods, twins and caches are columns or rows."""
    states = [
        rows.assign(subject=("nature" if kind == "nature" else "twin"), twin=key[0])
        for (kind, key), rows in found.items()
        if kind in ("nature", "states")
    ]
    schemes = {key[0]: rows for (kind, key), rows in found.items() if kind == "scheme"}
    caches = [rows.assign(twin=key[0], cache=key[1]) for (kind, key), rows in found.items() if kind == "cache"]
    twins = [rows.assign(twin=key[0]) for (kind, key), rows in found.items() if kind == "twin"]
    tables = {"states": _first(pd.concat(states), ["subject", "twin", "part", "place", "layer"])}
    tables |= _pivot(schemes) if schemes else {}
    if twins:
        tables["twins"] = _first(pd.concat(twins), ["twin", "item"])
    if caches:
        tables["caches"] = pd.concat(caches)[["twin", "cache", "item", "tokens", "nll", "kl", "same_top"]]
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        _replace(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    sizes = {name: getattr(asked, name) for name in ("passages", "calibration", "length", "images", "seed")}
    told = {
        "decoder": decoder.name,
        "decoder_sha256": decoder.fingerprint,
        "model": asked.model,
        "data": asked.data,
        "state_passages": min(STATE_PASSAGES, asked.passages),
        **sizes,
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "command": _command(asked),
    }
    _replace(out / "provenance.yaml", yaml.safe_dump(told, sort_keys=False))
    return out


def _command(asked: Nature) -> str:
    """What makes these tables, its defaults left out."""
    said, usual = ["edgelib nature DECODER --out FOLDER"], Nature("")
    for name in OPTIONS:
        value = getattr(asked, name)
        if value != getattr(usual, name):
            said.append(f"--{name} {(','.join(value) or NONE) if isinstance(value, tuple) else value}")
    return " ".join(said)


def _pivot(cells: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    found = {}
    first = next(iter(cells.values()))
    for column in ("kl", "nll", "same_top"):
        found[column] = pd.DataFrame({"item": first["item"], "tokens": first["tokens"]})
        if column == "nll":
            found[column]["fp32"] = first["reference_nll"].to_numpy()
        for name, rows in cells.items():
            found[column][name] = rows[column].to_numpy()
    return found


def _first(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    return table[[*columns, *(c for c in table.columns if c not in columns)]].reset_index(drop=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
