"""The device table, read from files: edgelib/devices/known/<key>.yaml is one device, with its facts and sources.

A file of one's own holds one device in the same form, or several under `devices`, each by its key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgelib.devices.device import UNITS, Device
from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.ground.paths import from_home
from edgelib.ground.records import Record, Text, between, checked, read_yaml, shown

FOLDER = Path(__file__).parent
UNPUBLISHED = "unpublished"
_FACTS = ("memory_gib", "usable_gib", "bandwidth_gb_s", "rates", "power_w")


def _known_unit(unit: str) -> str:
    choose(dict.fromkeys(UNITS.values()), unit, "arithmetic unit")
    return unit


def _known_fact(fact: str) -> str:
    choose(dict.fromkeys(_FACTS), fact, "fact")
    return fact


Unit = Annotated[str, AfterValidator(_known_unit)]
# None in the place of a rate: not published.
Rate = Annotated[float, between(0.01, 50_000)] | None
Published = BeforeValidator(lambda rate: None if rate == UNPUBLISHED else rate)


class DeviceFacts(Record):
    """One device as a file holds it; a fact that is left out is not known, and what needs it says so.

    Magnitudes are plausible ones: a slipped unit (1792 for 1.792 TB/s, bytes for gigabytes) is caught here.

    order: place in tables; devices without one come last.
    family: a key of families.yaml, or any other word for hardware that is not listed there.
    memory_gib, usable_gib: fitted memory, and what an operating system and its desktop leave of it.
    bandwidth_gb_s: peak of the memory, 1e9 bytes per second.
    rates: dense peak per unit in 1e12 operations per second, of the unit that a model would run on. A unit that is not
    listed does not run there; `unpublished` runs, but no rate is known. Sparsity does not count.
    lacks: {unit: why it does not run there}, beside what the family says.
    power_w: selectable power modes in watts. silicon: what devices of one chip in several power modes share.
    sources: where the numbers are from. unverified: facts that no source of the vendor was seen for.
    """

    order: Annotated[int, Field(ge=1)] | None = None
    name: Text
    family: Text
    silicon: Text | None = None
    memory_gib: Annotated[float, between(0.25, 1024)] | None = None
    usable_gib: Annotated[float, between(0.1, 1024)] | None = None
    bandwidth_gb_s: Annotated[float, between(1, 20_000)] | None = None
    rates: Annotated[dict[Unit, Annotated[Rate, Published]], Field(min_length=1)]
    lacks: dict[Unit, Text] = {}
    power_w: list[Annotated[float, between(0.5, 2000)]] = []
    sources: list[Text] = []
    unverified: list[Annotated[str, AfterValidator(_known_fact)]] = []

    @model_validator(mode="after")
    def _possible(self) -> DeviceFacts:
        if self.memory_gib and self.usable_gib and self.usable_gib > self.memory_gib:
            raise ValueError(f"usable_gib = {self.usable_gib:g} is above memory_gib = {self.memory_gib:g}")
        if both := set(self.rates) & set(self.lacks):
            raise ValueError(f"{min(both)} stands in rates and in lacks; it runs or it does not")
        return self


class _Several(Record):
    """A file of several devices."""

    devices: Annotated[dict[Text, Any], Field(min_length=1)]
    families: dict[Text, dict[Unit, Text]] = {}


class _Families(Record):
    families: dict[Text, dict[Unit, Text]]


def devices(path: str | Path | None = None) -> dict[str, Device]:
    """Return the device table by key: the devices of edgelib, and those of one's own, which win.

    path: a YAML file of one device (its name is the key) or of several, or a folder of such files; ~ is one's home.
    Raises EdgelibError naming file, fact, value and rule for a file that cannot be read, a fact of an unknown name or
    an implausible value, more usable than fitted memory, and a device that two files hold.
    """
    known = dict(_shipped())
    if path is not None:
        rows, families = _read(from_home(path))
        known |= {key: _device(key, facts, _families() | families) for key, facts in rows.items()}
    return known


def select(table: Mapping[str, Device], keys: Iterable[str]) -> list[Device]:
    """Return the devices of these keys, in order; raises EdgelibError naming the unknown one and the closest."""
    return [choose(table, key, "device") for key in keys]


def family_reasons(family: str) -> dict[str, str]:
    """Return {unit: why hardware of this family lacks it} from families.yaml; empty for a family it has not."""
    return dict(_families().get(family, {}))


@cache
def _families() -> dict[str, dict[str, str]]:
    path = FOLDER / "families.yaml"
    return checked(_Families, {"families": read_yaml(path, "table of families")}, str(path)).families


@cache
def _shipped() -> dict[str, Device]:
    rows, families = _read(FOLDER / "known")
    return {key: _device(key, facts, _families() | families) for key, facts in rows.items()}


def _read(path: Path) -> tuple[dict[str, DeviceFacts], dict[str, dict[str, str]]]:
    """The devices of a file or folder in their order, and the families that they bring along."""
    files = [path]
    if os.path.isdir(path):  # unlike Path.is_dir, it takes any name
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".yaml", ".yml")]
        if not files:
            raise EdgelibError(f"no device table in the folder {path}: it holds no .yaml file")
    rows, families, homes = {}, {}, {}
    for file in files:
        content = _content(file)
        families |= content.families
        for key, facts in content.devices.items():
            if key in homes:
                raise EdgelibError(f"device {key!r} stands in {homes[key]} and in {file}; keep one of them")
            homes[key] = file
            rows[key] = checked(DeviceFacts, facts, f"device {key!r} in {file}")
    return dict(sorted(rows.items(), key=lambda row: row[1].order or float("inf"))), families


def _content(file: Path) -> _Several:
    """What a file holds; that of one device is a table of one."""
    what = "device table"
    content = read_yaml(file, what)
    names = content if isinstance(content, dict) else {}
    if "devices" in names or "families" in names:
        return checked(_Several, content, f"the {what} {file}")
    if names and any(name in DeviceFacts.model_fields for name in names):
        return _Several(devices={file.stem: content})
    close = next(filter(None, (did_you_mean(name, ["devices"]) for name in names)), "")
    raise EdgelibError(
        f"the {what} {file} holds {shown(content)}{close}; it needs the facts of one device (name, family, rates ...), "
        "or a key 'devices' with one row per device"
    )


def _device(key: str, facts: DeviceFacts, families: Mapping[str, Mapping[str, str]]) -> Device:
    return Device(
        key=key,
        name=facts.name,
        family=facts.family,
        memory_gib=facts.memory_gib,
        usable_gib=facts.usable_gib,
        bandwidth_gb_s=facts.bandwidth_gb_s,
        rates=MappingProxyType(facts.rates),
        power_w=tuple(facts.power_w),
        silicon=facts.silicon,
        sources=tuple(facts.sources),
        unverified=tuple(facts.unverified),
        lacks=MappingProxyType({**families.get(facts.family, {}), **facts.lacks}),
    )
