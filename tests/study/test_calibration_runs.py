"""Calibration experiments: complete, resumable, and the same outcomes as one call after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import edgelib
from edgelib.chapters import CalibrationSensitivity
from edgelib.chapters.plan import experiment_of
from edgelib.corruptions.condition import Condition, condition
from edgelib.errors import EdgelibError
from edgelib.models.twins import PLAIN
from edgelib.study import calibration_runs
from edgelib.study.calibration_runs import Draw, Experiment, Run, fraction_of, layer_report, run_experiment
from edgelib.study.store import CellStore

DRAWS = (Draw("balanced", 4, 0), Draw("noise", 4, 1))


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    runs = [Run(PLAIN, "fp32", None), *(Run(PLAIN, c, d) for d in DRAWS for c in ("w8a8-minmax-static", "w4a8-gptq"))]
    runs.append(Run("activation:64", "w8a8-minmax-static", DRAWS[0]))
    return Experiment(edgelib.load("scenes-clip"), tuple(runs), edgelib.dataset("scenes", n=8), "scenes")


@pytest.fixture(scope="module")
def found(experiment, tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    return run_experiment(experiment, CellStore(tmp_path_factory.mktemp("runs")), progress=False)


def test_every_run_scores_every_image_in_order(experiment, found):
    rows, distances = found
    assert len(rows) == len(experiment.runs) * len(experiment.data)
    names = rows.drop_duplicates(["twin", "config", "mix", "size", "seed"])[["twin", "config", "mix"]]
    expected = [(r.twin, r.config, r.draw.mix if r.draw else "none") for r in experiment.runs]
    assert [*names.itertuples(index=False, name=None)] == expected
    assert len(distances) == 3 and (distances["peak"] > 0).all()


def test_a_run_equals_calibrating_quantizing_and_evaluating(experiment, found):
    images = edgelib.calibration_set("noise", 4, 1, "scenes", exclude=experiment.data)
    model = edgelib.quantize(experiment.model, "w4a8-gptq", images)
    alone = edgelib.evaluate(model, experiment.data, baseline=experiment.model)
    rows = found[0].query("config == 'w4a8-gptq' and mix == 'noise'").reset_index(drop=True)
    assert (rows.prediction == alone.prediction).all()
    assert torch.allclose(torch.tensor(rows.drift), torch.tensor(alone.drift), atol=1e-5)


def test_another_calibration_image_makes_another_cell(experiment, tmp_path):
    pool, specs = edgelib.dataset("scenes", n=30, seed=5), {}
    images = next(pool.batches(30))[1].permute(0, 2, 3, 1).numpy()
    for name in ("same", "again", "other"):
        changed = images.copy()
        if name == "other":
            changed[:] = 255 - changed
        labels = pool.rows["label"].to_numpy()
        np.savez(tmp_path / f"{name}.npz", images=changed, labels=labels, class_names=np.array(pool.class_names))
        own = replace(experiment, source=str(tmp_path / f"{name}.npz"))
        run = next(run for run in own.runs if run.draw == DRAWS[0])
        specs[name] = [own.spec(run, Condition())["draw"], own.distance_spec(PLAIN, DRAWS[0])["distance"]]
        assert own.spec(own.runs[0], Condition())["draw"] is None
    assert specs["same"][0][:2] == ["balanced", 0] and specs["same"] == specs["again"] != specs["other"]


def test_the_reference_does_not_drift(found):
    assert (found[0].query("config == 'fp32'").drift < 1e-6).all()


def test_a_second_start_computes_nothing(experiment, tmp_path, monkeypatch):
    small = replace(experiment, runs=experiment.runs[:2])
    first = run_experiment(small, CellStore(tmp_path), progress=False)
    monkeypatch.setattr(calibration_runs, "_score", None)
    again = run_experiment(small, CellStore(tmp_path), progress=False)
    pd.testing.assert_frame_equal(first[0], again[0])
    pd.testing.assert_frame_equal(first[1], again[1])


def test_threads_that_calibrate_at_once_do_not_meet(experiment, found, tmp_path):
    rows, distances = run_experiment(experiment, CellStore(tmp_path), executor="thread", workers=3, progress=False)
    assert (rows.prediction == found[0].prediction).all()
    pd.testing.assert_frame_equal(rows, found[0], check_exact=False, atol=1e-6)
    pd.testing.assert_frame_equal(distances, found[1], check_exact=False, rtol=1e-5)


def test_a_damaged_cell_is_computed_again(experiment, tmp_path):
    small, store = replace(experiment, runs=experiment.runs[:2]), CellStore(tmp_path)
    first, _ = run_experiment(small, store, progress=False)
    store.path(small.spec(small.runs[1], Condition())).write_bytes(b"half a file")
    again, _ = run_experiment(small, store, progress=False)
    pd.testing.assert_frame_equal(first, again)


def test_a_run_that_needs_a_set_must_name_one(experiment):
    with pytest.raises(EdgelibError, match="w4a8-gptq needs a calibration set"):
        replace(experiment, runs=(Run(PLAIN, "w4a8-gptq", None),))


def test_the_layer_report_names_towers_and_depths(experiment):
    table = layer_report(experiment, [PLAIN], "w4a8-awq", DRAWS[0])
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
    asked = CalibrationSensitivity(n_images=8, sizes=[4, 8], ladder_size=16, seeds=3, ladder_seeds=2, twins=[])
    runs = [run for run in experiment_of(asked).runs if run.draw is not None]
    assert {run.draw.seed for run in runs if run.draw.size == 16} == {0, 1}
    assert {run.draw.seed for run in runs if run.draw.size != 16} == {0, 1, 2}
