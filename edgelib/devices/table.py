"""Devices as rows of a table: what runs on them and why not, and what fits into their memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from numbers import Real
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import yaml

from edgelib.errors import EdgelibError, choose, did_you_mean

GIB = 2**30
UNPUBLISHED = "unpublished"
# Plausible magnitudes: a slipped unit (1792 for 1.792 TB/s, bytes for gigabytes) is caught when the table is read.
MAGNITUDES = {
    "memory_gib": (0.25, 1024),
    "usable_gib": (0.1, 1024),
    "bandwidth_gb_s": (1, 20_000),
    "rates": (0.01, 50_000),
    "power_w": (0.5, 2000),
}
# The arithmetic unit that a format needs; narrow weights beside wide activations need none, they are decoded first.
UNITS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "int8",
    "int4": "int8",
    "int3": "int8",
    "int2": "int8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "mxfp8": "mxfp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}
WIDE = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Device:
    """One row of the device table; a fact that is None is not known.

    memory_gib, usable_gib: fitted memory, and what the operating system leaves, in GiB. bandwidth_gb_s: peak of the
    memory, 1e9 bytes/s. rates: {unit: dense peak in 1e12 operations/s, None where it is not published}. lacks: {unit:
    why it does not run}. silicon: what rows of one chip in several power modes share. unverified: facts for which no
    source of the vendor was seen.
    """

    key: str
    name: str
    family: str
    memory_gib: float | None = None
    usable_gib: float | None = None
    bandwidth_gb_s: float | None = None
    rates: Mapping[str, float | None] = field(default_factory=dict)
    power_w: tuple[float, ...] = ()
    silicon: str | None = None
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)

    def fact(self, name: str) -> float:
        """Return a fact that a calculation needs; raises EdgelibError where the row does not have it."""
        value = getattr(self, name)
        if value is None:
            raise EdgelibError(f"device {self.key!r} has no fact {name!r}; add it to its row, with its source")
        return value

    def rate(self, unit: str) -> float:
        """Return the peak rate of a unit, 1e12 operations/s; raises EdgelibError for one that lacks or is unknown."""
        if unit not in self.rates:
            reason = self.lacks.get(unit, "its row lists no such rate")
            raise EdgelibError(f"{unit} does not run on {self.name}: {reason}; it runs {', '.join(self.rates)}")
        if self.rates[unit] is None:
            raise EdgelibError(
                f"device {self.key!r} has no published rate of {unit!r}; add it to its row, or measure it"
            )
        return self.rates[unit]


def unit_of(weight: str, activation: str) -> str:
    """Return the arithmetic unit that computes with such weights and activations: that of the wider of the two.

    Narrow weights beside wide activations are decoded first, so they compute as the activations do.
    Raises EdgelibError for an unknown format.
    """
    needed = choose(UNITS, weight, "weight format"), choose(UNITS, activation, "activation format")
    if activation in WIDE:
        return needed[1]
    return needed[0] if weight in WIDE else max(needed, key=lambda unit: ("fp4", "int8", "mxfp8", "fp8").index(unit))


def reason_against(device: Device, weight: str, activation: str) -> str | None:
    """Return why the device cannot compute with weights and activations of these formats, or None if it can."""
    unit = unit_of(weight, activation)
    if unit in device.rates:
        return None
    return device.lacks.get(unit, f"the row of {device.name} lists no rate of {unit}")


def legality(table: Iterable[Device], numbers: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return one row per device and configuration: device, config, legal, reason (empty where legal).

    numbers: {configuration: (weight format, activation format)}.
    """
    rows = []
    for device in table:
        for config, (weight, activation) in numbers.items():
            reason = reason_against(device, weight, activation)
            rows.append(dict(device=device.key, config=config, legal=reason is None, reason=reason or ""))
    return pd.DataFrame(rows, columns=["device", "config", "legal", "reason"])


def memory_table(table: Iterable[Device], needed: Mapping[str, float]) -> pd.DataFrame:
    """Return one row per device and configuration: need_gib, usable_gib, free_gib (negative: short by that), fits.

    needed: {configuration: bytes of weights, keys and values, activations and workspace together}.
    Raises EdgelibError for a device whose usable memory is not known and for a need that is not above 0.
    """
    rows = []
    for device in table:
        usable = device.fact("usable_gib")
        for config, need in needed.items():
            if isinstance(need, bool) or not isinstance(need, Real) or not need > 0:
                raise EdgelibError(f"{config!r} needs memory above 0 bytes, got {need!r}")
            free = usable - need / GIB
            rows.append(
                dict(
                    device=device.key,
                    config=config,
                    need_gib=need / GIB,
                    usable_gib=usable,
                    free_gib=free,
                    fits=free >= 0,
                )
            )
    return pd.DataFrame(rows, columns=["device", "config", "need_gib", "usable_gib", "free_gib", "fits"])


def devices(path: str | Path | None = None) -> dict[str, Device]:
    """Return the device table by key: the rows of edgelib, and those of a file of your own, which win.

    path: a YAML file in the form of edgelib/devices/devices.yaml; ~ is the user's home.
    Raises EdgelibError naming row and fact for a file that cannot be read, a fact of an unknown name, a value of an
    implausible size or sign, and more usable than fitted memory.
    """
    shipped = yaml.safe_load(files("edgelib.devices").joinpath("devices.yaml").read_text(encoding="utf-8"))
    tables = [shipped] if path is None else [shipped, _read(Path(path).expanduser())]
    families: dict[str, dict] = {}
    found: dict[str, Device] = {}
    for table in tables:
        families |= table.get("families") or {}
        for key, row in (table.get("devices") or {}).items():
            found[key] = _device(str(key), row, families)
    return found


def family_reasons(family: str) -> dict[str, str]:
    """Return {unit: why hardware of this family lacks it} from the shipped table; empty for a family it has not."""
    shipped = yaml.safe_load(files("edgelib.devices").joinpath("devices.yaml").read_text(encoding="utf-8"))
    return dict(shipped["families"].get(family) or {})


def select(table: Mapping[str, Device], keys: Iterable[str]) -> list[Device]:
    """Return the devices of these keys, in order; raises EdgelibError naming the unknown one and the closest."""
    return [choose(table, key, "device") for key in keys]


def _read(path: Path) -> dict:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgelibError(f"cannot read the device table {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EdgelibError(f"the device table {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict) or not isinstance(table.get("devices"), dict):
        raise EdgelibError(f"the device table {path} needs a key 'devices' with one row per device")
    return table


def _device(key: str, row: object, families: Mapping[str, dict]) -> Device:
    known = [f.name for f in fields(Device) if f.name not in ("key", "lacks")]
    if not isinstance(row, dict):
        raise EdgelibError(
            f"device {key!r} must be a row of facts such as {{name: ..., bandwidth_gb_s: ...}}, got {row!r}"
        )
    for fact in row:
        if fact not in known:
            raise EdgelibError(
                f"device {key!r} has an unknown fact {fact!r}{did_you_mean(fact, known)}; facts are {', '.join(known)}"
            )
    for fact in ("name", "family", "rates"):
        if not row.get(fact):
            raise EdgelibError(f"device {key!r} has no fact {fact!r}; every row needs name, family and rates")
    for unit in row["rates"]:
        choose(dict.fromkeys(UNITS.values()), unit, f"arithmetic unit of device {key!r}:")
    rates = {unit: None if rate == UNPUBLISHED else rate for unit, rate in row["rates"].items()}
    values = {name: row[name] for name in ("memory_gib", "usable_gib", "bandwidth_gb_s") if row.get(name) is not None}
    for fact, value in [
        *values.items(),
        *(("rates", rate) for rate in rates.values() if rate is not None),
        *(("power_w", watts) for watts in row.get("power_w") or ()),
    ]:
        _check_magnitude(key, fact, value)
    if values.get("usable_gib", 0) > values.get("memory_gib", float("inf")):
        raise EdgelibError(f"device {key!r} has {values['usable_gib']} GiB usable of {values['memory_gib']} GiB fitted")
    texts = {name: tuple(map(str, row.get(name) or ())) for name in ("sources", "unverified")}
    lacks = MappingProxyType(dict(families.get(row["family"]) or {}))
    return Device(
        key=key,
        name=str(row["name"]),
        family=str(row["family"]),
        rates=MappingProxyType(rates),
        lacks=lacks,
        power_w=tuple(row.get("power_w") or ()),
        silicon=row.get("silicon"),
        **values,
        **texts,
    )


def _check_magnitude(key: str, fact: str, value: object) -> None:
    low, high = MAGNITUDES[fact]
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
        raise EdgelibError(f"device {key!r}: {fact} must be a number from {low:g} to {high:g}, got {value!r}")
