"""Rooflines: the least time that a step can take on a device, and what binds it.

t >= max(bytes / bandwidth, operations / rate), the roofline of Williams, Waterman and Patterson (2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgelib.devices.device import Device, unit_of
from edgelib.devices.workload import Work
from edgelib.errors import EdgelibError


@dataclass(frozen=True)
class Bound:
    """Least times of a step in ms, by memory and by arithmetic; compute_ms is NaN where the rate is not published."""

    memory_ms: float
    compute_ms: float
    unit: str

    @property
    def ms(self) -> float:
        """The larger of the two that are known."""
        return self.compute_ms if self.compute_ms > self.memory_ms else self.memory_ms

    @property
    def binds(self) -> str:
        """What sets the least time: "memory" or "compute"."""
        return "compute" if self.compute_ms > self.memory_ms else "memory"


def roofline(work: Work, device: Device, weight: str, activation: str, *, strict: bool = True) -> Bound:
    """Return the least times of a step with such weights and activations, at the device's peak rates.

    strict: False takes a rate that is not published for infinite, which is right where memory binds anyway.
    Raises EdgelibError for formats that do not run on the device, and for facts that its row lacks.
    """
    unit = unit_of(weight, activation)
    if unit in device.rates and device.rates[unit] is None and not strict:
        compute = float("nan")
    else:
        compute = work.operations / device.rate(unit) / 1e9
    return Bound(work.bytes / device.fact("bandwidth_gb_s") / 1e6, compute, unit)


def attainable(intensity, bandwidth_gb_s: float, rate: float):
    """Return the roof over an arithmetic intensity (operations per byte): 1e12 operations/s, number or array."""
    if not bandwidth_gb_s > 0 or not rate > 0:
        raise EdgelibError(f"a roof needs a bandwidth and a rate above 0, got {bandwidth_gb_s!r} and {rate!r}")
    return np.minimum(np.asarray(intensity, dtype=float) * bandwidth_gb_s / 1e3, rate)
