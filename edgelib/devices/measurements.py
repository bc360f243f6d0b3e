"""Measured times as tables that stay: one folder per machine, made by `edgelib measure`, read by the chapters.

A time is never the same twice, so a chapter that took its own would never have the same bytes twice. It reads a folder
instead: machine.yaml says what was measured where, encoders.csv and generation.csv hold one row per case. The folder
of the published book lies in edgelib/devices/measured; a folder of your own takes its place by one parameter.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pandas as pd
import yaml
from pydantic import Field

from edgelib.devices.device import Device
from edgelib.devices.table import family_reasons
from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home, require_ordinary, whole_file
from edgelib.ground.records import Record, Text, between, checked, one_line, read_yaml, shown

PUBLISHED = "epyc-2-cores"
MEMORY = ("weights", "kv", "activations", "workspace")
_TEXTS = ("model", "runtime", "config", "weight", "activation")
_TTFT = ("ttft_p50", "ttft_p95")
_TPOT = ("tpot_p25", "tpot_p50", "tpot_p75", "tpot_p95")
_STEP = ("p25", "p50", "p75", "p95")
COLUMNS = {
    "encoders": (*_TEXTS, "batch", *_STEP, "n", "operations", "bytes", *MEMORY),
    "generation": (
        *(*_TEXTS, "batch", "prompt", "new_tokens"),
        *(*_TTFT, *_TPOT, "tpot", "tokens_per_s"),
        *("operations", "bytes", *MEMORY),
    ),
}
# Columns of a loaded model that was timed, and what a table without them is taken to say.
_OWN_TEXTS = ("part", "image")
_OWN_TIMES = ("prepare_p50", "encode_p50")
OWN = {
    "encoders": (*_OWN_TEXTS, "prepare_p50"),
    "generation": ("image", "image_tokens", *_OWN_TIMES),
}
CEILINGS = ("copy_gb_s", "read_gb_s", "fp32_tops")
# What a number of each column may be: least, most. Times are in ms; a time of 12 days or a step of 10^24 is a slip.
_COUNTS = ("batch", "prompt", "new_tokens", "n")
_RANGES = {
    **dict.fromkeys(_COUNTS, (1, 1e7)),
    **dict.fromkeys((*_STEP, *_TTFT, *_TPOT, *_OWN_TIMES, "tpot", "tokens_per_s"), (1e-9, 1e9)),
    "image_tokens": (0, 1e7),
    **dict.fromkeys(("operations", "bytes"), (1, 1e24)),
    **dict.fromkeys(MEMORY, (0, 1e16)),
}
_RISING = (_STEP, _TTFT, _TPOT)


class ModelFacts(Record):
    """Whose times they are, where a loaded model was timed.

    name: of its folder or hub id. kind: whether it writes text or classifies images. parameters: how many.
    architecture: SHA-256 of its configuration and the shapes of its tensors. weights: of their values.
    """

    name: Text
    kind: Literal["generative", "zero-shot"]
    parameters: Annotated[int, Field(ge=1)]
    architecture: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    weights: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class MachineFacts(Record):
    """What machine.yaml holds.

    name: of the machine in the book. threads: that torch had. ceilings: {"copy_gb_s", "read_gb_s", "<format>_tops":
    rate}. memory_gib, usable_gib: its memory, and what its system leaves. family: as of a device. others: share of the
    machine that other programs took meanwhile. left_out: cases that were not measured, and why. unsettled: cases that
    were stopped while their median was uncertain. model: that was timed, absent where shapes with random weights were.
    images: that it was timed on.
    """

    name: Text
    processor: Text | None = None
    cores: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)]
    memory_gib: Annotated[float, between(0.01, 100_000)] | None = None
    usable_gib: Annotated[float, between(0.01, 100_000)] | None = None
    family: Text = "measured"
    versions: dict[Text, Text] = {}
    others: Annotated[float, between(0, 1)] | None = None
    ceilings: Annotated[
        dict[Annotated[str, Field(pattern="^.+_(gb_s|tops)$")], Annotated[float, between(1e-9, 1e9)]],
        Field(min_length=1),
    ]
    left_out: list[Text] = []
    unsettled: list[Text] = []
    model: ModelFacts | None = None
    images: Text | None = None


@dataclass(frozen=True)
class Measurements:
    """What was measured on one machine: machine (name, processor, threads, ceilings, versions), encoders, generation.

    Times in ms, memory in bytes, operations and bytes of one step; columns as COLUMNS, and OWN where a loaded model was
    timed. config: its config.json; it is written beside the tables, so that their folder names an architecture too.
    """

    machine: Mapping
    encoders: pd.DataFrame
    generation: pd.DataFrame
    config: Mapping | None = None


def save_measurements(measured: Measurements, folder: str | Path) -> Path:
    """Write the files of a machine and return the folder; times keep 4 significant digits.

    A table without rows has no file: of a model without a decoder, or one that encodes images only with their prompt.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "machine.yaml", yaml.safe_dump(dict(measured.machine), sort_keys=False, allow_unicode=True))
    if measured.config is not None:
        _write(folder / "config.json", json.dumps(dict(measured.config), indent=1, sort_keys=True, default=str) + "\n")
    for name in COLUMNS:
        table = getattr(measured, name)
        if not len(table):
            (folder / f"{name}.csv").unlink(missing_ok=True)
            continue
        numbers = table.select_dtypes("floating")
        rounded = table.assign(**{c: numbers[c].map("{:.4g}".format, na_action="ignore") for c in numbers})
        _write(folder / f"{name}.csv", rounded.to_csv(index=False, lineterminator="\n"))
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file that is whole at any moment."""
    with whole_file(path) as place:
        place.write_text(text, encoding="utf-8", newline="\n")


def load_measurements(path: str | Path | None = None) -> Measurements:
    """Return the measurements in a folder, None for those of the published book.

    Raises EdgelibError naming file, line, column and value for a folder without the three files, a file that is cut,
    missing columns, no rows, a case twice, numbers that no measurement gives, and percentiles that fall.
    """
    folder = Path(__file__).parent / "measured" / PUBLISHED if path is None else from_home(path)
    try:
        machine = read_yaml(folder / "machine.yaml", "machine")
        facts = checked(MachineFacts, machine, f"machine.yaml in {folder}")
        own = facts.model is not None
        tables = {name: _table(name, folder / f"{name}.csv", may_lack=own) for name in COLUMNS}
        if not any(map(len, tables.values())):
            raise EdgelibError(f"{folder} has neither {' nor '.join(f'{name}.csv' for name in COLUMNS)}")
    except EdgelibError as error:
        raise EdgelibError(f"no measurements: {error}; make them there with `edgelib measure {folder}`") from None
    return Measurements(MappingProxyType(facts.model_dump(exclude_unset=True)), **tables)


def _table(name: str, path: Path, may_lack: bool = False) -> pd.DataFrame:
    """One file of measurements, checked; without rows where there is none and it may lack."""
    if may_lack and not path.exists():
        return pd.DataFrame(columns=[*COLUMNS[name], *OWN[name]])
    table = read_columns(path, _kinds(COLUMNS[name]), _kinds(OWN[name]))
    require_rising(path, table, _RISING)
    case = [column for column in ("model", *_OWN_TEXTS, "config", "batch", "prompt", "new_tokens") if column in table]
    require_once(path, table, case)
    return table


def _kinds(columns: Iterable[str]) -> dict[str, Number | None]:
    texts = (*_TEXTS, *_OWN_TEXTS)
    return {
        name: None if name in texts else Number(*_RANGES[name], name in _COUNTS, name in _OWN_TIMES) for name in columns
    }


@dataclass(frozen=True)
class Number:
    """What a number of a column may be: from least to most, whole or not. lacks: whether a cell may be empty."""

    least: float
    most: float
    whole: bool = False
    lacks: bool = False


def read_columns(
    path: Path, columns: Mapping[str, Number | None], more: Mapping[str, Number | None] | None = None
) -> pd.DataFrame:
    """Return a file's rows; raises EdgelibError naming file, line, column and value.

    columns: what each holds, None for texts that are not empty. more: columns that a file may lack.
    """
    require_ordinary(path)
    try:
        text = path.read_bytes().decode("utf-8")
        lines = [line for line in csv.reader(StringIO(text, newline=""), strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgelibError(f"cannot read {path}: {one_line(error)}") from None
    if len(lines) < 2:
        raise EdgelibError(f"{path} holds no rows")
    header = lines[0]
    missing = [column for column in columns if header.count(column) != 1]
    if missing:
        raise EdgelibError(f"{path} lacks {', '.join(missing)}, or has it twice")
    for at, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise EdgelibError(f"{path}, line {at} has {len(line)} values for {len(header)} columns")
    if not text.endswith("\n"):
        raise EdgelibError(f"{path} ends in the middle of line {len(lines)}: it was cut")
    wanted = {**columns, **{name: kind for name, kind in (more or {}).items() if name in header}}
    texts = dict.fromkeys((name for name, kind in wanted.items() if kind is None), str)
    try:
        table = pd.read_csv(StringIO(text), dtype=texts, keep_default_na=False, na_values=[""])
    except pd.errors.ParserError as error:
        raise EdgelibError(f"cannot read {path}: {one_line(error)}") from None
    if len(table) != len(lines) - 1:
        raise EdgelibError(f"{path} has quotes or ends of lines that leave open where its rows end")
    for name, kind in wanted.items():
        table[name] = _column(path, table[name], kind, [line[header.index(name)] for line in lines[1:]])
    return table


def _column(path: Path, values: pd.Series, kind: Number | None, written: list[str]) -> pd.Series:
    """A column of texts or numbers; raises where a value is missing or cannot be measured, as it is written."""
    if kind is None:
        good, rule, found = values.notna(), "must not be empty", values
    else:
        found = pd.to_numeric(values, errors="coerce")
        good = found.between(kind.least, kind.most) & (found % 1 == 0 if kind.whole else True) & (values.dtype != bool)
        good |= values.isna() & kind.lacks
        rule = f"must be a {'whole ' if kind.whole else ''}number from {kind.least:g} to {kind.most:g}"
    if not good.all():
        at = int((~good).to_numpy().argmax())
        raise EdgelibError(f"{path}, line {at + 2}, {values.name} = {shown(written[at])}: {rule}")
    return found


def require_rising(path: Path, table: pd.DataFrame, groups: Iterable[Sequence[str]]) -> None:
    """Raise EdgelibError for a row in which a number is above the next of its group, such as a percentile."""
    for columns in groups:
        for low, high in pairwise(column for column in columns if column in table):
            falls = (table[low] > table[high]).to_numpy()
            if falls.any():
                at = int(falls.argmax())
                values = f"{low} = {table[low].iloc[at]:g} is above {high} = {table[high].iloc[at]:g}"
                raise EdgelibError(f"{path}, line {at + 2}: {values}")


def require_once(path: Path, table: pd.DataFrame, case: Sequence[str]) -> None:
    """Raise EdgelibError for a row that is the case of an earlier one; case: the columns that tell which it is."""
    twice = table.duplicated(list(case)).to_numpy()
    if twice.any():
        at = int(twice.argmax())
        raise EdgelibError(f"{path}, line {at + 2} is a case again: {', '.join(map(str, table[case].iloc[at]))}")


def named_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose `model` also says which part of a model was timed and on images of what size."""
    words = {"vision": ", images", "text": ", texts"}
    named = table["model"]
    if "part" in table:
        named = named + table["part"].map(words).fillna("")
    if "image" in table:
        named = named + table["image"].map(lambda size: "" if size == "none" else f" of {size}")
    return table.assign(model=named)


def machine_device(measured: Measurements, key: str = "this-machine") -> Device:
    """Return a measured machine as a row of the device table: its ceilings are what it reached, not promises."""
    machine = measured.machine
    ceilings = machine["ceilings"]
    lacking = [ceiling for ceiling in CEILINGS if not ceilings.get(ceiling, 0) > 0]
    if lacking:
        raise EdgelibError(
            f"the measurements of {machine['name']} lack the ceilings {', '.join(lacking)}; measure again"
        )
    # Integer products run on every CPU that Python runs on; where their ceiling was not measured, it comes last.
    tops: dict[str, float | None] = {name: float(v) for name, v in ceilings.items() if name.endswith("_tops")}
    rates = {name.removesuffix("_tops"): rate for name, rate in tops.items()}
    rates.setdefault("int8", None)
    memory, family = machine.get("memory_gib"), str(machine.get("family", "measured"))
    return Device(
        key=key,
        name=str(machine["name"]),
        family=family,
        bandwidth_gb_s=float(ceilings["read_gb_s"]),
        rates=MappingProxyType(rates),
        lacks=MappingProxyType(family_reasons(family)),
        sources=("measured before and after the times",),
        memory_gib=memory,
        usable_gib=machine.get("usable_gib", memory),
    )


def achieved(table: pd.DataFrame, time: str) -> pd.DataFrame:
    """Return the cases with gb_s and tops, bytes and operations of a step by its time, and intensity, their ratio."""
    seconds = table[time] / 1e3
    return table.assign(
        gb_s=table["bytes"] / seconds / 1e9,
        tops=table["operations"] / seconds / 1e12,
        intensity=table["operations"] / table["bytes"],
    )
