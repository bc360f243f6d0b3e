"""Measured times as tables that stay: one folder per machine, made by `edgelib measure`, read by the chapters.

A time is never the same twice, so a chapter that took its own would never have the same bytes twice. It reads a folder
instead: machine.yaml says what was measured where, encoders.csv and generation.csv hold one row per case. The folder
of the published book lies in edgelib/devices/measured; a folder of your own takes its place by one parameter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import yaml

from edgelib.devices.device import Device
from edgelib.devices.table import family_reasons
from edgelib.errors import EdgelibError

PUBLISHED = "epyc-2-cores"
MEMORY = ("weights", "kv", "activations", "workspace")
_CASE = ("model", "runtime", "config", "weight", "activation", "batch")
COLUMNS = {
    "encoders": (*_CASE, "p25", "p50", "p75", "p95", "n", "operations", "bytes", *MEMORY),
    "generation": (
        *_CASE,
        "prompt",
        "new_tokens",
        "ttft_p50",
        "ttft_p95",
        "tpot_p25",
        "tpot_p50",
        "tpot_p75",
        "tpot_p95",
        "tpot",
        "tokens_per_s",
        "operations",
        "bytes",
        *MEMORY,
    ),
}
CEILINGS = ("copy_gb_s", "read_gb_s", "fp32_tops")


@dataclass(frozen=True)
class Measurements:
    """What was measured on one machine: machine (name, processor, threads, ceilings, versions), encoders, generation.

    Times in ms, memory in bytes, operations and bytes of one step; columns as COLUMNS.
    """

    machine: Mapping
    encoders: pd.DataFrame
    generation: pd.DataFrame


def save_measurements(measured: Measurements, folder: str | Path) -> Path:
    """Write the three files of a machine and return the folder; times keep 4 significant digits."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "machine.yaml", yaml.safe_dump(dict(measured.machine), sort_keys=False, allow_unicode=True))
    for name in COLUMNS:
        table = getattr(measured, name)
        rounded = table.assign(**{c: table[c].map("{:.4g}".format) for c in table.select_dtypes("floating")})
        _write(folder / f"{name}.csv", rounded.to_csv(index=False, lineterminator="\n"))
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file that is whole at any moment."""
    whole = path.with_name(f".{path.name}.new")
    whole.write_text(text, encoding="utf-8", newline="\n")
    os.replace(whole, path)


def load_measurements(path: str | Path | None = None) -> Measurements:
    """Return the measurements in a folder, None for those of the published book.

    Raises EdgelibError for a folder without the three files, missing columns, no rows, and times that are not above 0.
    """
    folder = files("edgelib.devices").joinpath("measured", PUBLISHED) if path is None else Path(path).expanduser()
    try:
        machine = yaml.safe_load(folder.joinpath("machine.yaml").read_text(encoding="utf-8"))
        tables = {name: pd.read_csv(folder.joinpath(f"{name}.csv")) for name in COLUMNS}
    except (OSError, yaml.YAMLError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EdgelibError(
            f"no measurements in {folder}: {type(error).__name__}; make them there with `edgelib measure {folder}`"
        ) from None
    for fact in ("name", "threads", "ceilings"):
        if not isinstance(machine, dict) or not machine.get(fact):
            raise EdgelibError(
                f"machine.yaml in {folder} has no {fact!r}; measure again with `edgelib measure {folder}`"
            )
    for name, table in tables.items():
        _check(name, table, folder)
    return Measurements(MappingProxyType(machine), **tables)


def _check(name: str, table: pd.DataFrame, folder) -> None:
    missing = [column for column in COLUMNS[name] if column not in table.columns]
    if missing:
        raise EdgelibError(f"{name}.csv in {folder} lacks {', '.join(missing)}; measure again with `edgelib measure`")
    times = [c for c in COLUMNS[name] if c in ("p25", "p50", "p75", "p95") or c.startswith(("ttft", "tpot"))]
    if len(table) == 0 or not (table[times] > 0).all(axis=None):
        raise EdgelibError(f"{name}.csv in {folder} must hold times above 0 ms in every row; measure again")


def machine_device(measured: Measurements, key: str = "this-machine") -> Device:
    """Return a measured machine as a row of the device table: its ceilings are what it reached, not promises."""
    machine = measured.machine
    ceilings = machine["ceilings"]
    lacking = [ceiling for ceiling in CEILINGS if not ceilings.get(ceiling, 0) > 0]
    if lacking:
        raise EdgelibError(
            f"the measurements of {machine['name']} lack the ceilings {', '.join(lacking)}; measure again"
        )
    rates = {name.removesuffix("_tops"): float(rate) for name, rate in ceilings.items() if name.endswith("_tops")}
    memory, family = machine.get("memory_gib"), str(machine.get("family", "measured"))
    # Integer products run on every CPU that Python runs on; their ceiling is not measured.
    rates = rates if "int8" in rates else rates | {"int8": None}
    facts = dict(memory_gib=memory, usable_gib=machine.get("usable_gib", memory))
    return Device(
        key=key,
        name=str(machine["name"]),
        family=family,
        bandwidth_gb_s=float(ceilings["read_gb_s"]),
        rates=MappingProxyType(rates),
        lacks=MappingProxyType(family_reasons(family)),
        sources=("measured before and after the times",),
        **facts,
    )


def achieved(table: pd.DataFrame, time: str) -> pd.DataFrame:
    """Return the cases with gb_s and tops, bytes and operations of a step by its time, and intensity, their ratio."""
    seconds = table[time] / 1e3
    return table.assign(
        gb_s=table["bytes"] / seconds / 1e9,
        tops=table["operations"] / seconds / 1e12,
        intensity=table["operations"] / table["bytes"],
    )
