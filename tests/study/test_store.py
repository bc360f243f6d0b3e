"""A store that cannot lie: whatever happens to its files, a reader gets what was written or nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_study import Toy

from edgelib.study.store import CellStore, StoreError
from edgelib.study.store.check import check_store, recompute
from edgelib.study.store.sealed import Damaged, read_spec, seal, spec_text, unseal
from edgelib.study.sweep import sweep

SPEC = {"code": "c", "variant": ["plain", {"bits": 8}, None], "severity": 3}
ROWS = pd.DataFrame(
    {
        "item": [f"image {i}" for i in range(20)],
        "label": np.arange(20) % 7,
        "correct": np.arange(20) % 3 == 0,
        "margin": np.linspace(-1, 1, 20).astype(np.float32),
        "kl": [np.nan, *np.linspace(0, 1, 19)],
        "answers": [["yes", "no"][: i % 3] for i in range(20)],
    }
)


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path)


def test_rows_come_back_as_they_were(store):
    assert store.read(SPEC) is None and SPEC not in store
    store.write(SPEC, ROWS)
    found = store.read(SPEC)
    assert [list(a) for a in found.pop("answers")] == ROWS["answers"].tolist()
    pd.testing.assert_frame_equal(found, ROWS.drop(columns="answers"))
    assert SPEC in store and {**SPEC, "severity": 4} not in store


def test_equal_rows_are_equal_bytes_and_the_digest_is_of_all_of_them():
    data = seal(SPEC, ROWS)
    assert data == seal(dict(reversed(SPEC.items())), ROWS.copy())
    assert json.loads(read_spec(data)) == SPEC
    assert unseal(data, spec_text(SPEC)).num_rows == 20


def test_no_flipped_bit_is_read_as_something_else():
    data, text, rng = seal(SPEC, ROWS), spec_text(SPEC), np.random.default_rng(0)
    places = {*rng.integers(0, 8 * len(data), 600).tolist(), *range(64), *range(8 * len(data) - 64, 8 * len(data))}
    for place in places:
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(Damaged):
            unseal(bytes(bad), text)


def test_no_part_of_a_file_is_read_as_the_whole():
    data, text = seal(SPEC, ROWS), spec_text(SPEC)
    for length in {0, 1, 4, 63, *range(0, len(data), 97), len(data) - 1}:
        with pytest.raises(Damaged):
            unseal(data[:length], text)
    for longer in (data + b"\0", data + data, b"\0" + data):
        with pytest.raises(Damaged):
            unseal(longer, text)


def other_schema(path, rows):
    rows.assign(extra=1).to_parquet(path)


def half(path, rows):
    rows.head(10).to_parquet(path)


def twice(path, rows):
    pd.concat([rows, rows]).to_parquet(path)


def of_old_format(path, rows):
    rows.to_parquet(path)


def folder(path, rows):
    path.mkdir()
    (path / "inside").write_text("mine")


def pipe(path, rows):
    os.mkfifo(path)


def dangling(path, rows):
    path.symlink_to(path.with_name("nowhere"))


def empty(path, rows):
    path.touch()


def pickled(path, rows):
    rows.to_pickle(path)


def another_cell(path, rows):
    path.write_bytes(seal({**SPEC, "severity": 4}, rows))


DAMAGE = [other_schema, half, twice, of_old_format, folder, pipe, dangling, empty, pickled, another_cell]


@pytest.mark.parametrize("harm", DAMAGE, ids=lambda harm: harm.__name__)
def test_what_is_no_cell_counts_as_missing_is_said_once_and_replaced(store, harm):
    store.write(SPEC, ROWS)
    path = store.path(SPEC)
    path.unlink()
    harm(path, ROWS)
    with pytest.warns(UserWarning, match="1 stored cell.s. damaged.*computed again"):
        assert store.read(SPEC) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.read(SPEC) is None and SPEC not in store
    assert list(check_store(store).damaged) == [str(path)]
    store.write(SPEC, ROWS)
    assert len(store.read(SPEC)) == 20 and stat.S_ISREG(path.lstat().st_mode)
    assert check_store(store).cells == 1 and not check_store(store).damaged
    assert len(check_store(store).leftovers) == (harm is folder)  # somebody's folder is put aside, not removed


def test_a_cell_copied_over_another_is_found(store):
    study = Toy()
    rows = sweep(study, store, progress=False)
    cells = [store.path(study.spec(*cell)) for cell in study.cells()]
    shutil.copy(cells[0], cells[5])
    cells[2].write_bytes(cells[2].read_bytes()[:-1])
    with pytest.warns(UserWarning, match="2 stored cell.s. damaged"):
        pd.testing.assert_frame_equal(sweep(study, store, progress=False), rows)
    assert check_store(store).cells == len(cells) and not check_store(store).damaged


def test_threads_that_write_one_cell_do_not_collide(store):
    def write():
        for _ in range(10):
            store.write(SPEC, ROWS)

    failed = []
    before, threading.excepthook = threading.excepthook, lambda given: failed.append(given.exc_value)
    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = before
    assert not failed and check_store(store).cells == 1 and not check_store(store).leftovers


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(store, monkeypatch):
    store.write(SPEC, ROWS)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="No space left on device.*are kept"):
        patched.setattr("edgelib.study.store.folders.os.fsync", full)
        store.write(SPEC, ROWS.head(3))
    assert len(store.read(SPEC)) == 20 and not check_store(store).leftovers


@pytest.fixture
def read_only():
    """A folder that other users may read; this process is another user while it is used."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    os.seteuid(os.getuid())
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user for a while")
def test_a_complete_store_that_can_only_be_read_serves(read_only):
    study = Toy()
    rows = sweep(study, CellStore(read_only), progress=False)
    for path in read_only.rglob("*"):
        path.chmod(0o755)
    os.seteuid(65534)
    pd.testing.assert_frame_equal(sweep(study, CellStore(read_only), progress=False), rows)
    with pytest.raises(StoreError, match="results cannot be written to .*Permission denied"):
        sweep(Toy(places=5), CellStore(read_only), progress=False)


def test_memory_is_a_store_like_any_other():
    store = CellStore("memory://test_store/run")
    study = Toy()
    rows = sweep(study, store, progress=False)
    pd.testing.assert_frame_equal(sweep(study, CellStore("memory://test_store/run"), progress=False), rows)
    name = store.name(study.spec("a", 2))
    data = store.files.read(name)
    store.files.write(name, data[:-9] + b"\1" + data[-8:])
    assert check_store(store).cells == 7 and len(check_store(store).damaged) == 1
    with pytest.warns(UserWarning, match="damaged.*memory://test_store/run"):
        pd.testing.assert_frame_equal(sweep(study, store, executor="thread", progress=False), rows)
    with pytest.raises(StoreError, match="seen by this process alone"):
        sweep(Toy(places=9), store, executor="process", progress=False)


@pytest.mark.parametrize(
    ("place", "text"), [("nonsense://x", "nonsense"), ("\0", "cannot be written")], ids=["scheme", "name"]
)
def test_a_place_that_is_none_is_refused(place, text):
    with pytest.raises(StoreError, match=text):
        CellStore(place)


def test_recomputing_tells_equal_from_different(store):
    study = Toy()
    rows = sweep(study, store, progress=False)
    found = recompute(study, store, 100)
    assert len(found) == 8 and set(found["verdict"]) == {"same bytes"}
    own = {
        v: g.drop(columns=["variant", "place"]).reset_index(drop=True) for v, g in rows.groupby(["variant", "place"])
    }
    close, wrong = own["a", 0], own["b", 3]
    store.write(study.spec("a", 0), close.assign(score=close["score"] + np.float32(1e-6)))
    store.write(study.spec("b", 3), wrong.assign(correct=~wrong["correct"]))
    verdicts = recompute(study, store, 100).set_index(["variant", "place"])["verdict"]
    assert verdicts["a", 0] == "last bits differ" and verdicts["b", 3] == "different"
    assert (verdicts == "same bytes").sum() == 6
    assert recompute(study, store, 3, seed=1).equals(recompute(study, store, 3, seed=1))


def test_long_cells_are_cut_and_hold_the_same_bytes(tmp_path):
    whole, cut = CellStore(tmp_path / "whole"), CellStore(tmp_path / "cut")
    study = Toy(n=10)
    rows = sweep(study, whole, progress=False)
    shards = Toy(n=10, cut=3)
    assert shards.shards(0) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    for executor in ("serial", "thread"):
        pd.testing.assert_frame_equal(sweep(shards, cut, executor=executor, progress=False), rows)
    files = [sorted(p.relative_to(s.folder) for p in s.folder.rglob("*.parquet")) for s in (whole, cut)]
    assert files[0] == files[1]  # shards are gone
    assert all((whole.folder / f).read_bytes() == (cut.folder / f).read_bytes() for f in files[0])


@pytest.mark.parametrize("mixed", [False, True], ids=["one schema", "another in one cell"])
def test_rows_of_cells_are_joined_as_pandas_joins_them(store, mixed):
    from edgelib.study.sweep import _joined

    frames = [ROWS.drop(columns="answers").assign(label=n + 0.5 if mixed and n == 1 else n) for n in range(3)]
    marks = [{"config": f"w{n}", "severity": n, "on": n > 0} for n in range(3)]
    specs = [{**SPEC, "n": n} for n in range(3)]
    for spec, frame in zip(specs, frames, strict=True):
        store.write(spec, frame)
    parts = [f.assign(**m)[[*m, *f.columns]] for f, m in zip(frames, marks, strict=True)]
    expected = pd.concat(parts, ignore_index=True)
    pd.testing.assert_frame_equal(_joined(marks, list(store.load(specs))), expected)


def test_names_of_cells_are_their_whole_spec():
    store = CellStore("memory://names")
    specs = [{"code": c, "a": a} for c, a in itertools.product("xy", (1, "1", None, [1]))]
    assert len({store.name(spec) for spec in specs}) == len(specs)
    assert store.name({"a": 1, "code": "x"}) == store.name({"code": "x", "a": 1})
