"""The grid and its store: same rows whatever the executor, nothing lost, nothing computed twice."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import ROOT, group_is_alive
from killed_sweep import small_grid

import edgelib
from edgelib.corruptions.condition import Condition
from edgelib.errors import EdgelibError
from edgelib.models.twins import planted
from edgelib.study import sweep as module
from edgelib.study.classifier_grid import ClassifierGrid, Variant, variants_of
from edgelib.study.plan import groups
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep


@pytest.fixture(scope="module")
def grid():
    return small_grid()


@pytest.fixture(scope="module")
def one_thread():
    """Workers have one thread of torch each, so what is compared with them has one, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return CellStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def rows(grid, store, one_thread):
    return sweep(grid, store, progress=False)


def test_the_grid_is_complete_and_in_order(grid, rows):
    assert len(rows) == len(grid.variants) * len(grid.conditions) * len(grid.data)
    assert rows[["twin", "config"]].drop_duplicates().values.tolist() == [[v.twin, v.config] for v in grid.variants]


def test_cells_are_what_evaluate_says(grid, rows):
    base = planted(grid.models["m"], "weight:8")
    alone = edgelib.evaluate(edgelib.quantize(base, "w4a8-minmax"), grid.data, corruption="shot_noise", severity=4)
    cell = rows[(rows.twin == "weight:8") & (rows.config == "w4a8-minmax") & (rows.corruption == "shot_noise")]
    cell = cell[cell.severity == 4]
    assert (cell.prediction.to_numpy() == alone.prediction.to_numpy()).all()
    assert cell.margin.to_numpy() == pytest.approx(alone.margin.to_numpy(), abs=1e-6)


@pytest.mark.parametrize("executor", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_several_workers_store_the_same_bytes_as_one(grid, store, rows, tmp_path, executor):
    """Those of Ray are compared on a cluster."""
    spread = CellStore(tmp_path)
    pd.testing.assert_frame_equal(sweep(grid, spread, executor=executor, workers=2, progress=False), rows)
    names = [store.name(grid.spec(*cell)) for cell in grid.cells()]
    assert sorted(names) == list(spread.files.names(".parquet"))
    assert all(spread.files.read(name) == store.files.read(name) for name in names)


def test_a_second_run_computes_nothing(grid, rows, tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    sweep(grid, store, progress=False)
    monkeypatch.setattr(ClassifierGrid, "build", None)  # any work would fail now
    pd.testing.assert_frame_equal(sweep(grid, store, progress=False), rows)


def test_only_what_is_missing_is_computed_and_damage_counts_as_missing(grid, rows, tmp_path):
    store = CellStore(tmp_path)
    sweep(grid, store, progress=False)
    files = sorted(store.folder.rglob("*.parquet"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:50])
    stamps = {f: f.stat().st_mtime_ns for f in files[2:]}
    with pytest.warns(UserWarning, match="1 stored cell.s. damaged.*it is no whole Parquet file"):
        pd.testing.assert_frame_equal(sweep(grid, store, progress=False), rows)
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in stamps.items())


@pytest.mark.parametrize(("variants", "copies"), [(4, 1), (2, 2), (1, 4), (1, 100)])
def test_groups_fit_half_of_the_memory_of_this_process(grid, monkeypatch, variants, copies):
    """A container's limit counts, which the memory of the machine does not show."""
    one = sum(p.numel() * p.element_size() for p in grid.module(grid.variants[0]).parameters())
    monkeypatch.setattr(groups, "free_bytes", lambda: 8 * one)
    found = list(groups.grouped(grid, grid.variants, copies=copies))
    assert [v for group in found for v in group] == list(grid.variants)
    assert max(map(len, found)) == min(variants, len(grid.variants))


def test_groups_of_classifiers_stay_small_however_much_memory_is_free(grid, monkeypatch):
    one = sum(p.numel() * p.element_size() for p in grid.module(grid.variants[0]).parameters())
    monkeypatch.setattr(groups, "free_bytes", lambda: 100 * one)
    monkeypatch.setattr(ClassifierGrid, "most_kept", 2.5 * one)
    assert {len(group) for group in groups.grouped(grid, grid.variants[:4], copies=3)} == {2}


def test_groups_of_variants_do_not_change_the_rows(grid, rows, tmp_path, monkeypatch):
    one_at_a_time = lambda grid, wanted, copies=1: ([v] for v in wanted)  # noqa: E731 (as if memory held one copy)
    monkeypatch.setattr(module, "grouped", one_at_a_time)
    pd.testing.assert_frame_equal(sweep(grid, CellStore(tmp_path), progress=False), rows)


def test_the_cell_of_a_spec_does_not_depend_on_the_rest_of_the_grid(grid):
    smaller = ClassifierGrid(grid.models, grid.variants[:1], grid.conditions[:1], grid.data, grid.calibrations)
    assert smaller.spec(grid.variants[0], Condition()) == grid.spec(grid.variants[0], Condition())


@pytest.mark.parametrize(("reference", "same"), [("fp32", True), ("w8a8-smoothquant", False)])
def test_drift_from_a_calibrated_reference_names_its_set(grid, reference, same):
    variants = variants_of(grid.variants[0].model, [], [reference, "w4a8-minmax"])
    sets = [edgelib.calibration_set("balanced", 4, seed, exclude=grid.data) for seed in (0, 1)]
    first, second = (
        ClassifierGrid(grid.models, variants, grid.conditions[:1], grid.data, (s,)).spec(variants[1], Condition())
        for s in sets
    )
    assert (first == second) == same


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, int]:
    """The folder of a run by processes that was killed in its midst, and its process group."""
    folder = tmp_path_factory.mktemp("killed")
    script = ROOT / "tests" / "killed_sweep.py"
    run = subprocess.Popen([sys.executable, script, folder], cwd=folder, start_new_session=True)
    assert run.wait() == -signal.SIGKILL
    return folder, run.pid


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's process table")
def test_workers_do_not_outlive_a_killed_parent(killed):
    started = time.monotonic()
    while group_is_alive(killed[1]):
        assert time.monotonic() - started < 1200, "a worker waits for a parent that is dead"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(grid, rows, killed):
    kept = {f: f.stat().st_mtime_ns for f in killed[0].rglob("*.parquet")}
    assert kept
    found = sweep(grid, CellStore(killed[0]), progress=False)
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in kept.items())
    assert len(list(killed[0].rglob("*.parquet"))) == len(grid.variants) * len(grid.conditions)
    pd.testing.assert_frame_equal(found, rows, check_exact=False, atol=1e-6)
    assert (found.prediction == rows.prediction).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EdgelibError, match="results cannot be written"):
        CellStore(tmp_path / "store")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgelibError, match="results cannot be written to .*choose another folder"):
        CellStore(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"variants": ()}, "at least one variant"),
        ({"variants": (Variant("m", "plain", "fp32"),) * 2}, "named twice"),
        ({"variants": (Variant("n", "plain", "fp32"),)}, "unknown model of the grid 'n'"),
        ({"variants": (Variant("m", "plain", "w8a8-smothquant"),)}, "did you mean 'smoothquant'"),
        ({"calibrations": ()}, "needs calibration set 0"),
    ],
    ids=["empty", "repeated", "model", "scheme", "calibration"],
)
def test_a_bad_grid_is_refused(grid, change, text):
    parts = {"models": grid.models, "variants": grid.variants, "conditions": grid.conditions, "data": grid.data}
    with pytest.raises(EdgelibError, match=text):
        ClassifierGrid(**(parts | {"calibrations": grid.calibrations} | change))


def test_an_unknown_executor_is_refused(grid, tmp_path):
    with pytest.raises(EdgelibError, match="unknown executor 'threads'.*process, ray, serial, thread"):
        sweep(grid, CellStore(tmp_path), executor="threads")


def test_an_error_in_a_worker_arrives_as_itself(grid, tmp_path):
    names = (*grid.data.class_names[:-1], "a " + "very " * 60 + "long name")
    data = dataclasses.replace(grid.data, class_names=names)
    long_winded = ClassifierGrid(grid.models, grid.variants[:1], grid.conditions[:1], data)
    with pytest.raises(EdgelibError, match="is longer than the 32 tokens"):
        sweep(long_winded, CellStore(tmp_path), executor="thread", workers=1, progress=False)


def test_models_that_differ_in_more_than_weights_have_their_own_cells(grid):
    model = grid.models["m"]
    module = copy.deepcopy(model.module)
    module.vision_model.encoder.layers[0].mlp.activation_fn = torch.nn.ReLU()
    assert model.with_module(module).fingerprint != model.fingerprint
    assert model.with_module(copy.deepcopy(model.module)).fingerprint == model.fingerprint


def test_scores_that_are_not_numbers_are_not_predictions(grid):
    module = copy.deepcopy(grid.models["m"].module)
    module.visual_projection.weight.data[0, 0] = float("nan")
    with pytest.raises(EdgelibError, match="class scores of 24 images are NaN"):
        edgelib.evaluate(grid.models["m"].with_module(module), grid.data)


def test_a_cell_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    store.write({"a": 1}, pd.DataFrame({"x": [1]}))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, pytest.raises(EdgelibError, match="cannot be read .Permission denied"):
        patched.setattr("edgelib.study.store.folders.os.open", refuse)
        store.read({"a": 1})
    assert {"a": 1} in store
