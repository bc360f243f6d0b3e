"""Memory that a process may use: the files of control groups, written out, and what psutil says without them."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from edgelib.errors import EdgelibError
from edgelib.ground import memory
from edgelib.ground.memory import free_bytes, in_units, require_free, total_bytes

MIB = 2**20


def group(folder, names, limit, used, stat=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip((*names, "memory.stat"), (limit, used, stat), strict=True):
        (folder / name).write_text(f"{value}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_version_2_counts_the_limits_of_every_group_above(tmp_path):
    told = tmp_path / "cgroup"
    told.write_text("0::/box/job\n")
    group(tmp_path / "box", V2, 64 * MIB, 60 * MIB, f"anon 5\ninactive_file {10 * MIB}")
    group(tmp_path / "box" / "job", V2, "max", 20 * MIB)
    assert total_bytes(tmp_path, told) == 64 * MIB
    assert free_bytes(tmp_path, told) == 14 * MIB  # files that are kept for speed can be dropped
    group(tmp_path / "box" / "job", V2, 24 * MIB, 20 * MIB)
    assert (total_bytes(tmp_path, told), free_bytes(tmp_path, told)) == (24 * MIB, 4 * MIB)


def test_version_1_has_a_folder_of_its_own(tmp_path):
    told = tmp_path / "cgroup"
    told.write_text("9:name=systemd:/\n4:memory:/docker/abc\n0::/\n")
    group(
        tmp_path / "memory", V1, 32 * MIB, 30 * MIB, f"inactive_file 1\ntotal_inactive_file {MIB}"
    )  # seen from inside
    assert (total_bytes(tmp_path, told), free_bytes(tmp_path, told)) == (32 * MIB, 3 * MIB)


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path):
    told = tmp_path / "cgroup"
    told.write_text("0::/\n")
    group(tmp_path, V2, 8 * MIB, 9 * MIB)
    assert free_bytes(tmp_path, told) == 0


@pytest.mark.parametrize("text", ["", "0::/x\n", "4:memory:/x\n", "strange\n", "1:cpu:/x\n"])
def test_without_limits_it_is_the_machine(text, tmp_path):
    told = tmp_path / "cgroup"
    told.write_text(text)
    group(tmp_path / "memory", V1, 9223372036854771712, 5)  # how version 1 writes that there is none
    assert total_bytes(tmp_path, told) == psutil.virtual_memory().total
    assert free_bytes(tmp_path, told) > 0
    assert total_bytes(tmp_path, tmp_path / "nowhere") == psutil.virtual_memory().total


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr("edgelib.ground.memory.free_bytes", lambda: 3 * MIB)
    require_free(3 * MIB, "a map", "shrink it")
    with pytest.raises(EdgelibError, match=r"a map takes 2\.0 GiB of memory, and 3\.0 MiB are free here; shrink it"):
        require_free(2**31, "a map", "shrink it")
    assert in_units(1023) == "1023 bytes" and in_units(5 * 2**40) == "5.0 TiB"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_was_freed_is_given_back_where_the_allocator_can(platform, monkeypatch):
    asked = []
    library = SimpleNamespace(malloc_trim=asked.append)
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    memory.give_back()
    assert asked == [0] * (platform == "linux")
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda name: object()))
    memory.give_back()
