"""What sweeps survive, each tried for real: nothing computed is lost or counted twice, and what went wrong is said."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import ROOT, group_is_alive
from toy_study import Toy

from edgelib.study.filling import out_of_memory
from edgelib.study.store import CellStore, StoreError
from edgelib.study.store.check import check_store
from edgelib.study.sweep import SweepError, sweep

PROCESS = pytest.param("process", marks=pytest.mark.slow)


def whole(store: CellStore, study: Toy) -> None:
    """Every cell is stored once and nothing else is there."""
    found = check_store(store)
    assert (found.cells, found.damaged, found.leftovers) == (len(list(study.cells())), {}, ())


@pytest.mark.parametrize("executor", ["serial", "thread", PROCESS])
def test_a_poisoned_cell_is_named_with_its_spec_and_the_others_finish(tmp_path, executor):
    study, store = Toy(trouble={1: "raise", 3: "raise"}), CellStore(tmp_path)
    with pytest.raises(SweepError) as caught:
        sweep(study, store, executor=executor, progress=False)
    text = str(caught.value)
    assert "2 of 8 cells failed each time they were tried, the others are stored" in text
    assert "the scores of 3 images are NaN" in text and "variant a, place 1" in text
    assert json.dumps(study.spec("a", 3), sort_keys=True) in text and "\n" not in text
    assert {(f.variant, f.place) for f in caught.value.failures} == {("a", 1), ("a", 3)}
    assert check_store(store).cells == 6  # b at places 1 and 3 was computed without a
    healed = Toy()
    pd.testing.assert_frame_equal(
        sweep(healed, store, progress=False), sweep(healed, CellStore(tmp_path / "new"), progress=False)
    )


@pytest.mark.parametrize("executor", ["serial", PROCESS])
def test_memory_that_runs_out_halves_the_batches(tmp_path, executor):
    study = Toy(trouble={2: "memory"}, batch_size=4)
    with pytest.warns(UserWarning, match="out of memory at 2: batches of 2 items from here on"):
        rows = sweep(study, CellStore(tmp_path / "short"), executor=executor, progress=False)
    pd.testing.assert_frame_equal(rows, sweep(Toy(), CellStore(tmp_path), progress=False))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=["python", "cpu", "cuda", "shapes", "a mistake"],
)
def test_only_memory_counts_as_memory(error, is_memory):
    assert out_of_memory(error) == is_memory


@pytest.mark.slow
def test_workers_killed_at_random_moments_lose_nothing(tmp_path):
    study = Toy(places=30, trouble=dict.fromkeys(range(30), "slow"))
    expected = sweep(Toy(places=30), CellStore(tmp_path / "calm"), progress=False)
    draw, killed, done = random.Random(0), [], threading.Event()

    def kill() -> None:
        while len(killed) < 4 and not done.wait(draw.uniform(0.5, 2.5)):
            if workers := multiprocessing.active_children():
                victim = draw.choice(workers)
                os.kill(victim.pid, signal.SIGKILL)
                killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with CellStoreWhenFirstWritten(tmp_path / "store", killer) as store:
            rows = sweep(study, store, executor="process", workers=2, progress=False)
    done.set()
    killer.join()
    assert killed
    pd.testing.assert_frame_equal(rows, expected)
    whole(CellStore(tmp_path / "store"), study)


class CellStoreWhenFirstWritten:
    """A store, and a thread that starts once its first cell is there."""

    def __init__(self, folder: Path, thread: threading.Thread):
        self.store, self.thread = CellStore(folder), thread

    def __enter__(self) -> CellStore:
        def wait() -> None:
            while not any(self.store.folder.rglob("*.parquet")):
                time.sleep(0.05)
            self.thread.start()

        self.waiter = threading.Thread(target=wait)
        self.waiter.start()
        return self.store

    def __exit__(self, *_) -> None:
        self.waiter.join()


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk of 64 kB")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_sweep_and_keeps_what_was_stored(tiny_disk):
    study, store = Toy(places=30), CellStore(tiny_disk)
    with pytest.raises(StoreError, match="No space left on device.*cells written before are kept"):
        sweep(study, store, progress=False)
    found = check_store(store)
    assert found.cells > 3 and not found.damaged and not found.leftovers


def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is(tmp_path):
    store = CellStore(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large.*cells written before are kept"):
            sweep(Toy(), store, executor="thread", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not check_store(store).damaged and not check_store(store).leftovers
    sweep(Toy(), store, progress=False)


@pytest.mark.slow
def test_two_sweeps_on_one_store_finish_and_agree(tmp_path):
    command = [sys.executable, ROOT / "tests" / "toy_study.py", tmp_path, "serial", "slow"]
    runs = [subprocess.Popen(command, cwd=tmp_path) for _ in range(2)]
    assert [run.wait(timeout=170) for run in runs] == [0, 0]
    whole(CellStore(tmp_path), Toy(places=40))


PARAMETERS = dict(
    n_images=6,
    configs=["fp32", "w8a8-minmax"],
    baseline_model=None,
    corruptions=["fog"],
    severities=[1, 2, 3, 4, 5],
    twins=[],
    n_calibration=4,
    executor="process",
    workers=2,
)

LONG = ["fog", "gaussian_noise", "shot_noise", "contrast", "pixelate", "snow"]  # a sweep that a signal finds at work


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's process table")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_the_command_with_a_word_and_without_children(tmp_path, number):
    own = PARAMETERS | {"corruptions": LONG, "n_images": 48, "results": str(tmp_path / "results")}
    (tmp_path / "robustness_gap.yaml").write_text(yaml.safe_dump(own))
    command = [sys.executable, "-c", "from edgelib.cli import main; main()", "sweep", "robustness_gap.yaml"]
    # Under nohup, signals to ignore are inherited, and edgelib then goes on as it was asked to.
    usual = functools.partial(signal.signal, number, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=usual, **pipes) as run:
        while not any((tmp_path / "results").rglob("*.parquet")):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.02)
        os.kill(run.pid, number)
        text = run.stderr.read()
        assert run.wait(timeout=60) == 1
    assert "edgelib: interrupted; run the same command again to go on" in text and "Traceback" not in text
    assert not group_is_alive(run.pid)
    found = check_store(CellStore(tmp_path / "results"))
    assert found.cells and not found.damaged
