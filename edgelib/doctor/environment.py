"""This machine: Python, processor and memory with the limits of a container, devices, kernels, folders."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from edgelib.doctor.finding import Finding, guarded
from edgelib.doctor.packages import extras, required
from edgelib.ground.memory import free_bytes, in_units, total_bytes
from edgelib.ground.paths import find_root, from_home

ENOUGH_MEMORY = 4 * 2**30  # bytes; the chapters' defaults on the embedded models stay below
ENOUGH_DISK = 2 * 2**30  # bytes; outcomes of the published chapters and one packed model of two billion parameters


def environment(results: str = "results") -> dict[str, list[Finding]]:
    """Return what there is to say of this machine, by section, in the order in which a reader looks for a fault.

    results: the folder for outcomes, as chapters take it. Nothing is downloaded, and nothing is left behind.
    """
    looks = {
        "machine": _machine,
        "packages": required,
        "extras": extras,
        "devices": _devices,
        "kernels": _kernels,
        "folders": lambda: _folders(results),
    }
    return {section: guarded(section, look) for section, look in looks.items()}


def core_limit(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cores that the container of this process may use at a time, None where nothing limits them."""
    words = _text(root / "cpu.max").split()
    if len(words) != 2:
        words = [_first_word(root / "cpu" / f"cpu.cfs_{key}_us") for key in ("quota", "period")]
    return int(words[0]) / int(words[1]) if all(word.isdigit() and int(word) for word in words) else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _first_word(file: Path) -> str:
    return next(iter(_text(file).split()), "")


def _machine() -> Iterator[Finding]:
    import torch

    from edgelib.devices.machine import describe

    yield Finding("Python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("system", f"{platform.platform()}, {platform.machine()}")
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit, cores = core_limit(), float(own)
    cores = min(cores, limit) if limit is not None else cores
    text = f"{describe()['processor']}, {os.cpu_count()} cores, {own} for this process"
    yield Finding("processor", text + ("" if limit is None else f", limited to {limit:g} by its container"))
    threads = torch.get_num_threads()
    fix = f"set OMP_NUM_THREADS={max(1, int(cores))} before Python starts" if threads > max(1, cores) else ""
    yield Finding(
        "threads of torch", f"{threads}" + (f" on {cores:g} cores: they wait for each other" if fix else ""), fix
    )
    total, most, free = psutil.virtual_memory().total, total_bytes(), free_bytes()
    limited = f", limited to {in_units(most)} by its container" if most < total else ""
    fix = "close other programs, or take a smaller batch_size and n_images" if free < ENOUGH_MEMORY else ""
    yield Finding("memory", f"{in_units(total)}{limited}, {in_units(free)} free", fix)


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("cpu", f"torch {torch.__version__}")
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(i)
        yield Finding(
            f"cuda:{i}", f"{facts.name}, {in_units(facts.total_memory)}, capability {facts.major}.{facts.minor}"
        )
    if not torch.cuda.is_available():
        yield Finding("cuda", "no device that torch can use; not needed")
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple's graphics processor")


def _kernels() -> Iterator[Finding]:
    from edgelib.doctor.packages import install
    from edgelib.kernels.table import KERNELS, PACKAGES, why_not

    for kernel in KERNELS.values():
        reason = why_not(kernel)
        missing = "missing" in reason
        text = reason.split(":")[0] if missing else f"not on this machine: {reason}" if reason else kernel.arithmetic
        yield Finding(kernel.name, text, install(PACKAGES[kernel.runtime][1]) if missing else "")


def _folders(results: str) -> Iterator[Finding]:
    from huggingface_hub import constants

    root = find_root()
    yield Finding(
        "checkout", f"{root}" if (root / "notebooks").is_dir() else "none: chapters need one, the library does not"
    )
    hub = Path(constants.HF_HUB_CACHE)
    models = sum(1 for _ in hub.glob("models--*")) if hub.is_dir() else 0
    offline = ", not asked for more (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    yield _writable("hub cache", hub, f"{models} models{offline}", "set HF_HOME to a folder that may be written")
    yield _writable("results", root / from_home(results), "", "name another folder by the parameter results")


def _writable(topic: str, folder: Path, more: str, fix: str) -> Finding:
    """Whether files can be made in a folder, or in the nearest one above that exists, and how much room there is."""
    place = next((p for p in (folder, *folder.parents) if p.exists()), Path("."))
    new = "" if place == folder else ", not made yet"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(topic, f"{folder} cannot be written ({error.strerror or error})", fix)
    free = shutil.disk_usage(place).free
    short = "free some space, or " + fix if free < ENOUGH_DISK else ""
    return Finding(topic, ", ".join(filter(None, [f"{folder}{new}", more, f"{in_units(free)} free"])), short)
