"""Calibration experiments: complete, resumable, and the same outcomes as one call after the other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import edgelib
from edgelib.chapters.calibration_sensitivity import CalibrationSensitivity
from edgelib.corruptions.condition import Condition, condition
from edgelib.data.calibration import calibration_set
from edgelib.errors import EdgelibError
from edgelib.models.twins import PLAIN
from edgelib.observe.calibrate import calibrate
from edgelib.observe.distance import DISTANCES, activation_distance
from edgelib.study.calibration_runs import (
    CalibrationStudy,
    Draw,
    TwinConfig,
    distances_of,
    fraction_of,
    layer_report,
)
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

DRAWS = (Draw("balanced", 4, 0), Draw("noise", 4, 1))


@pytest.fixture(scope="module")
def study() -> CalibrationStudy:
    data = edgelib.dataset("scenes", n=8)
    runs = [(TwinConfig(PLAIN, "fp32"), None)]
    runs += [(TwinConfig(PLAIN, c), d) for d in DRAWS for c in ("w8a8-minmax-static", "w4a8-gptq")]
    runs.append((TwinConfig("activation:64", "w8a8-minmax-static"), DRAWS[0]))
    return CalibrationStudy(edgelib.load("scenes-clip"), tuple(runs), data, partial(calibration_set, exclude=data))


@pytest.fixture(scope="module")
def rows(study, tmp_path_factory) -> pd.DataFrame:
    return sweep(study, CellStore(tmp_path_factory.mktemp("runs")), progress=False)


def test_every_run_scores_every_image_in_order(study, rows):
    assert len(rows) == len(study.runs) * len(study.data)
    names = rows.drop_duplicates(["twin", "config", "mix", "size", "seed"])[["twin", "config", "mix"]]
    expected = [(v.twin, v.config, draw.mix if draw else "none") for v, draw in study.runs]
    assert [*names.itertuples(index=False, name=None)] == expected


def test_every_draw_has_its_distance_to_deployment_once_per_twin(study, rows):
    distances = distances_of(rows)
    assert [*distances[["twin", "mix"]].itertuples(index=False, name=None)] == [
        (PLAIN, "balanced"),
        (PLAIN, "noise"),
        ("activation:64", "balanced"),
    ]
    statistics = calibrate(study.model, study.draw(DRAWS[1]), seed=1), calibrate(study.model, study.data)
    noise = distances.query("mix == 'noise'").iloc[0]
    assert activation_distance(*statistics) == pytest.approx(noise[list(DISTANCES)].to_dict(), rel=1e-6)


def test_without_draws_there_is_no_distance(study, tmp_path):
    rows = sweep(replace(study, runs=study.runs[:1]), CellStore(tmp_path), progress=False)
    assert distances_of(rows).empty and list(distances_of(rows)) == ["twin", "mix", "size", "seed", *DISTANCES]


def test_a_run_equals_calibrating_quantizing_and_evaluating(study, rows):
    images = edgelib.calibration_set("noise", 4, 1, "scenes", exclude=study.data)
    model = edgelib.quantize(study.model, "w4a8-gptq", images)
    alone = edgelib.evaluate(model, study.data, baseline=study.model)
    cell = rows.query("config == 'w4a8-gptq' and mix == 'noise'").reset_index(drop=True)
    assert (cell.prediction == alone.prediction).all()
    assert torch.allclose(torch.tensor(cell.drift), torch.tensor(alone.drift), atol=1e-5)


def test_a_cell_holds_every_condition_of_deployment(study, tmp_path):
    foggy = replace(study, runs=study.runs[1:2], deployment=(Condition(), Condition("fog", 3)))
    rows = sweep(foggy, CellStore(tmp_path), progress=False)
    assert rows[["corruption", "severity"]].value_counts(sort=False).to_dict() == {("clean", 0): 8, ("fog", 3): 8}
    model = edgelib.quantize(study.model, "w8a8-minmax-static", study.draw(DRAWS[0]))
    alone = edgelib.evaluate(model, study.data, corruption="fog", severity=3)
    assert rows[rows.severity == 3].prediction.tolist() == alone.prediction.tolist()


def test_another_calibration_image_makes_another_cell(study, tmp_path):
    pool, specs = edgelib.dataset("scenes", n=30, seed=5), {}
    images = next(pool.batches(30))[1].permute(0, 2, 3, 1).numpy()
    for name in ("same", "again", "other"):
        changed = images.copy()
        if name == "other":
            changed[:] = 255 - changed
        labels = pool.rows["label"].to_numpy()
        np.savez(tmp_path / f"{name}.npz", images=changed, labels=labels, class_names=np.array(pool.class_names))
        draw = partial(calibration_set, source=str(tmp_path / f"{name}.npz"), exclude=study.data)
        again = replace(study, calibration_set=draw)
        specs[name] = again.spec(*study.runs[1])["draw"]
        assert again.spec(*study.runs[0])["draw"] is None
    assert specs["same"][:2] == ["balanced", 0] and specs["same"] == specs["again"] != specs["other"]


def test_the_reference_does_not_drift(rows):
    assert (rows.query("config == 'fp32'").drift < 1e-6).all()


def test_a_second_start_computes_nothing(study, tmp_path, monkeypatch):
    small = replace(study, runs=study.runs[:2])
    first = sweep(small, CellStore(tmp_path), progress=False)
    monkeypatch.setattr(CalibrationStudy, "evaluate", None)
    pd.testing.assert_frame_equal(first, sweep(small, CellStore(tmp_path), progress=False))


def test_threads_that_calibrate_at_once_do_not_meet(study, rows, tmp_path):
    spread = sweep(study, CellStore(tmp_path), executor="thread", workers=3, progress=False)
    assert (spread.prediction == rows.prediction).all()
    pd.testing.assert_frame_equal(spread, rows, check_exact=False, atol=1e-6, rtol=1e-5)


def test_a_damaged_cell_is_computed_again(study, tmp_path):
    small, store = replace(study, runs=study.runs[:2]), CellStore(tmp_path)
    first = sweep(small, store, progress=False)
    store.path(small.spec(*small.runs[1])).write_bytes(b"half a file")
    with pytest.warns(UserWarning, match="1 stored cell.* damaged"):
        again = sweep(small, store, progress=False)
    pd.testing.assert_frame_equal(first, again)


def test_a_run_that_needs_a_set_must_name_one(study):
    with pytest.raises(EdgelibError, match="w4a8-gptq needs a calibration set"):
        replace(study, runs=((TwinConfig(PLAIN, "w4a8-gptq"), None),))


def test_the_layer_report_names_towers_and_depths(study):
    table = layer_report(study, [PLAIN], "w4a8-awq", DRAWS[0])
    assert set(table.tower) >= {"vision_model", "text_model"} and table.depth.max() >= 1
    assert table.relative_loss.notna().any() and table.relative_loss.mean() < 1


@pytest.mark.parametrize("fraction", [1, 2, 3])
def test_a_fraction_keeps_pairs_of_levels_balanced(fraction):
    draws = fraction_of(["a", "b", "c"], [1, 2, 3, 4], range(6), fraction)
    table = pd.DataFrame(map(vars, draws))
    assert len(table) == 72 // fraction and not table.duplicated().any()
    for pair in (["mix", "size"], ["mix", "seed"], ["size", "seed"]):
        counts = table.groupby(pair).size()
        assert len(counts) == table[pair[0]].nunique() * table[pair[1]].nunique()
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("fraction", [0, 7])
def test_a_fraction_that_leaves_a_level_out_is_refused(fraction):
    with pytest.raises(EdgelibError, match="1 to 6"):
        fraction_of(["a", "b"], [1, 2], range(6), fraction)


@pytest.mark.parametrize(
    ("name", "wrong"), [("fogg:3", "fog"), ("fog", "no severity"), ("fog:6", "no severity"), ("fog:x", "no severity")]
)
def test_a_condition_that_does_not_exist_is_refused(name, wrong):
    with pytest.raises(EdgelibError, match=wrong):
        condition(name)


def test_conditions_are_read_by_name():
    assert condition("clean") == Condition() and condition("fog:3") == Condition("fog", 3)


def test_the_ladder_has_draws_of_its_own():
    sizes = {"n_images": 8, "sizes": [4, 8], "ladder_size": 16, "seeds": 3, "ladder_seeds": 2}
    asked = CalibrationSensitivity(**sizes, twins=["weight:8"])
    draws = [draw for _, draw in asked.study().runs if draw is not None]
    assert {draw.seed for draw in draws if draw.size == 16} == {0, 1}
    assert {draw.seed for draw in draws if draw.size != 16} == {0, 1, 2}
