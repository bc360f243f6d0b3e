"""What a reader needs to know about the machine that times were taken on, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from edgelib.ground.memory import total_bytes

BUSY = 0.05  # share of a machine that others may take before its times are to be doubted
_PACKAGES = ("torch", "transformers", "onnxruntime", "torchao")


def describe(name: str | None = None) -> dict:
    """Return what this machine is: name, processor, cores, threads of torch now, memory, family, versions."""
    processor, cores = _processor(), os.cpu_count() or 1
    return {
        "name": name or f"{processor}, {cores} cores",
        "processor": processor,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "family": _family(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


class Watch:
    """Sees how much of all cores other programs, and other guests of the same host, take from now on."""

    def __init__(self):
        self._start = _seconds()

    def seconds(self) -> tuple[float, float]:
        """Processor seconds since the watch began that others took, and that the machine had."""
        everyone, own, clock = (now - then for now, then in zip(_seconds(), self._start, strict=True))
        return max(0.0, everyone - own), clock * (psutil.cpu_count() or 1)


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container that it is measured in where that has less."""
    return total_bytes()


def _seconds() -> tuple[float, float, float]:
    """Seconds that processors worked for everyone, and for this process, and of the clock."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    fields = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, field, 0.0) for field in fields), own.user + own.system, time.perf_counter()


def _family() -> str:
    return {"x86_64": "x86", "amd64": "x86", "aarch64": "armv8", "arm64": "armv8"}.get(
        platform.machine().lower(), "cpu"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
