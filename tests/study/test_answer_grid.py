"""The study of answers: cells equal what one evaluation says, are stored once, and survive damage."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import vlm_folders

from edgelib import EdgelibError, calibration_set, dataset, load, quantize
from edgelib.corruptions.condition import Condition
from edgelib.infer.generate import generate
from edgelib.models.twins import planted
from edgelib.study.answer_grid import AnswerGrid, AnswerVariant, Place
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

BASE = AnswerVariant("plain", "bf16")
AWQ = AnswerVariant("plain", "w4a16-awq-g32", "text-only")
TWIN = AnswerVariant("weight:8", "w8a8-minmax-vision")
PLACES = (Place("vqa"), Place("mme"), Place("mme", Condition("fog", 3)))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    model = load(vlm_folders.qwen2_vl(tmp_path_factory.mktemp("model") / "tiny"))
    sets = {task: dataset(f"scenes-{task}", n=2) for task in ("vqa", "mme")}
    asked = tuple((variant, place) for variant in (BASE, AWQ, TWIN) for place in PLACES)
    calibrations = {"text-only": calibration_set("text-only", 4, source=sets["mme"])}
    return AnswerGrid(model, asked, sets, calibrations, max_new_tokens=3)


@pytest.fixture(scope="module")
def stored(grid, tmp_path_factory):
    store = CellStore(tmp_path_factory.mktemp("store"))
    return store, sweep(grid, store, progress=False)


def test_the_grid_is_complete_and_cells_are_what_generate_says(grid, stored):
    _, rows = stored
    assert len(rows) == 3 * sum(len(grid.sets[place.task]) for place in PLACES)
    made = quantize(planted(grid.model, TWIN.twin), TWIN.config)
    alone = generate(
        made, grid.sets["mme"], corruption="fog", severity=3, baseline=quantize(grid.model, "bf16"), max_new_tokens=3
    )
    cell = grid.score(rows).query("twin == 'weight:8' and corruption == 'fog'").reset_index(drop=True)
    pd.testing.assert_frame_equal(cell[alone.columns], alone, check_dtype=False, check_exact=False, atol=1e-4)
    assert (rows.loc[rows["config"] == "bf16", "kl"] == 0).all()


def test_a_second_run_computes_nothing_and_damage_counts_as_missing(grid, stored, monkeypatch):
    store, rows = stored
    files = sorted(store.folder.rglob("*.parquet"))
    files[0].write_bytes(files[0].read_bytes()[:50])
    with pytest.warns(UserWarning, match="1 stored cell.* damaged"):
        again = sweep(grid, store, progress=False)
    pd.testing.assert_frame_equal(again, rows, check_exact=False, atol=1e-5)
    monkeypatch.setattr(AnswerGrid, "build", None)  # any work would fail now
    pd.testing.assert_frame_equal(sweep(grid, store, progress=False), rows, check_exact=False, atol=1e-5)


def test_a_cell_is_named_by_all_that_can_change_it(grid):
    changes = [
        dict(seed=1),
        dict(instruction="Be brief."),
        dict(max_new_tokens=4),
        dict(table="imagenet-c"),
        dict(calibrations={"text-only": calibration_set("text-only", 3, source=grid.sets["mme"])}),
        dict(sets=grid.sets | {"mme": grid.sets["mme"].subset([0, 1])}),
        dict(asked=grid.asked[3:]),
    ]
    specs = [dataclasses.replace(grid, **change).spec(AWQ, PLACES[2]) for change in changes]
    assert all(spec != grid.spec(AWQ, PLACES[2]) for spec in specs)
    assert dataclasses.replace(grid, batch_size=3).spec(AWQ, PLACES[0]) == grid.spec(AWQ, PLACES[0])


MISTAKES = {
    "nothing": (dict(asked=()), "at least one variant"),
    "twice": (dict(asked=((BASE, PLACES[0]),) * 2), "asked twice"),
    "task": (dict(asked=((BASE, Place("pope")),)), "unknown task of the grid 'pope'"),
    "mix": (dict(asked=((AnswerVariant("plain", "w4a16-awq"), PLACES[0]),)), "unknown calibration mix of the grid"),
    "twin": (dict(asked=((AnswerVariant("odd:8", "bf16"), PLACES[0]),)), "unknown twin kind 'odd'"),
}


@pytest.mark.parametrize(("change", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_before_anything_runs(grid, change, text):
    with pytest.raises(EdgelibError, match=text):
        dataclasses.replace(grid, **change)
