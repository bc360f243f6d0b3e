"""How much memory this process may use: what the machine has, and what the limits of its container leave of it.

Linux says the limits of a container in the files of its control groups, version 1 or 2, and those of every group above
it count as well; /proc/meminfo, which `psutil` reads, is that of the whole machine.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

from edgelib.errors import EdgelibError

_MOUNT, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# of version 2 and 1: the limit, what is used, and the entry of memory.stat that can be dropped when it gets tight
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def total_bytes(mount: Path = _MOUNT, groups: Path = _GROUPS) -> int:
    """Bytes of memory of this machine, or of this process's container where that has less."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(mount, groups))])


def free_bytes(mount: Path = _MOUNT, groups: Path = _GROUPS) -> int:
    """Bytes that this process can still take without swapping, or being killed for the limit of its container."""
    left = [max(0, limit - used) for limit, used in _limits(mount, groups)]
    return min([psutil.virtual_memory().available, *left])


def give_back() -> None:
    """Return what was freed to the system: glibc keeps blocks of up to 32 MiB, such as the weights of a layer, in its
    heap, so that each further copy of a network would add to those before it. Nothing happens with another allocator.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def require_free(needed: int, what: str, fix: str) -> None:
    """Raise EdgelibError, before anything is allocated, if `what` needs more bytes than are free; `fix` says what to
    do."""
    free = free_bytes()
    if needed > free:
        raise EdgelibError(f"{what} takes {in_units(needed)} of memory, and {in_units(free)} are free here; {fix}")


def in_units(count: int) -> str:
    """Bytes as a person reads them: "138.2 MiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _limits(mount: Path, groups: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of every control group that this process is in."""
    for folder in _folders(mount, groups):
        for limit_file, used_file, spare in _FILES:
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                yield limit, max(0, used - _stat(folder / "memory.stat", spare))


def _folders(mount: Path, groups: Path) -> Iterator[Path]:
    """Where the files of this process's groups may lie; inside a container its own is often the mount itself."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    found = {}
    for line in lines:
        _, kinds, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "/")
        if kinds and "memory" not in kinds.split(","):
            continue
        root = mount / "memory" if kinds else mount
        own = PurePosixPath(path)
        for group in (own, *own.parents):
            found[root / str(group).lstrip("/")] = None
    yield from found


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file, or it says "max"."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _stat(file: Path, entry: str) -> int:
    try:
        entries = dict(line.split() for line in file.read_text(encoding="utf-8").splitlines())
        return int(entries.get(entry, 0))
    except (OSError, ValueError):
        return 0
