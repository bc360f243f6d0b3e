"""A device: its facts, what runs on it and why not, and what fits into its memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real

import pandas as pd

from edgelib.errors import EdgelibError, choose

GIB = 2**30
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
# GGUF's blocks are weights only
GGUF_TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
UNITS |= dict.fromkeys(GGUF_TYPES, "fp16")
UNITS |= {unit: unit for unit in UNITS.values()}  # a format that has no line here says its unit itself
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
        rate = self.rates[unit]
        if rate is None:
            raise EdgelibError(
                f"device {self.key!r} has no published rate of {unit!r}; add it to its row, or measure it"
            )
        return rate


def unit_of(weight: str, activation: str) -> str:
    """Return the arithmetic unit that computes with such weights and activations: that of the wider of the two.

    Narrow weights beside wide activations are decoded first, so they compute as the activations do. Formats go by their
    names or by their units (`Setting.units` of a scheme). Raises EdgelibError for an unknown format.
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


def legality(devices: Iterable[Device], numbers: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return one row per device and configuration: device, config, legal, reason (empty where legal).

    numbers: {configuration: (weight format, activation format)}.
    """
    rows = []
    for device in devices:
        for config, (weight, activation) in numbers.items():
            reason = reason_against(device, weight, activation)
            rows.append(dict(device=device.key, config=config, legal=reason is None, reason=reason or ""))
    return pd.DataFrame(rows, columns=["device", "config", "legal", "reason"])


def memory_table(devices: Iterable[Device], needed: Mapping[str, float]) -> pd.DataFrame:
    """Return one row per device and configuration: need_gib, usable_gib, free_gib (negative: short by that), fits.

    needed: {configuration: bytes of weights, keys and values, activations and workspace together}.
    Raises EdgelibError for a device whose usable memory is not known and for a need that is not above 0.
    """
    rows = []
    for device in devices:
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
