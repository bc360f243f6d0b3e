"""The study of caches on the embedded model: what names a cell, what a cell holds, and sentences made of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import edgelib
from edgelib.chapters.fp8_kv_ablation import games
from edgelib.errors import EdgelibError
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.scheme import kv_scheme
from edgelib.models.twins import PLAIN
from edgelib.report.claims.caches import attribution_claim, recovery_claim
from edgelib.stats.ladder import attribute, recoveries
from edgelib.study import kv_tables
from edgelib.study.kv_grid import EXACT, KVStudy, KVVariant, plans_of
from edgelib.study.kv_tables import cache_costs, state_rows, weights_digest
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep


@pytest.fixture(scope="module")
def world():
    data = edgelib.dataset("scenes-vqa", n=2)
    return edgelib.load("scenes-vlm"), data, edgelib.calibration_set("balanced", 4, 0, "scenes-vqa", exclude=data)


def study(world, *cells, **options):
    model, data, calibration = world
    asked = tuple((KVVariant(*variant), twin) for variant, twin in cells)
    return KVStudy(model, asked, data, calibration, max_new_tokens=2, **options)


def test_cells_are_computed_once_and_do_not_depend_on_what_is_asked_with_them(world, tmp_path):
    cells = [((EXACT,), PLAIN), (("e4m3-amax",), PLAIN), (("int4-amax", "fp8_e4m3"), PLAIN), ((EXACT,), "key:64")]
    whole = sweep(study(world, *cells), CellStore(tmp_path / "a"), progress=False)
    assert len(whole) == len(cells) * len(world[1])
    alone = sweep(study(world, cells[1], batch_size=3), CellStore(tmp_path / "b"), progress=False)
    own = whole[(whole.cache == "e4m3-amax") & (whole.twin == PLAIN)].reset_index(drop=True)
    assert (own.prediction == alone.prediction).all() and np.allclose(own.kl, alone.kl, atol=1e-5)
    exact = whole[(whole.cache == EXACT) & (whole.twin == PLAIN)]
    assert exact.kl.abs().max() < 1e-5 and whole[whole.attention != "float"].kl.isna().all()


def test_a_spec_names_what_can_change_an_answer(world):
    first = study(world, (("e4m3-amax",), PLAIN))
    spec = first.spec(KVVariant("e4m3-amax"), PLAIN)
    assert spec["calibration"] == world[2].fingerprint
    assert first.spec(KVVariant("int4-token"), PLAIN)["calibration"] is None
    assert spec == study(world, (("e4m3-amax",), PLAIN), batch_size=5).spec(KVVariant("e4m3-amax"), PLAIN)
    others = [KVVariant("e4m3-one"), KVVariant("e4m3-amax", "int8")]
    assert all(first.spec(variant, PLAIN) != spec for variant in others) and first.spec(others[0], "key:2") != spec


def test_cells_that_mean_nothing_are_refused(world):
    with pytest.raises(EdgelibError, match="every cell once"):
        study(world, ((EXACT,), PLAIN), ((EXACT,), PLAIN))
    with pytest.raises(EdgelibError, match="unknown part 'amx'"):
        study(world, (("e4m3-amx",), PLAIN))
    with pytest.raises(EdgelibError, match="unknown twin kind"):
        study(world, ((EXACT,), "keys:2"))


@pytest.mark.parametrize("format", ["e4m3", "e5m2", "int8", "int4"])
def test_the_games_hold_every_subset_of_their_factors(format):
    for cells in games(format).values():
        factors = max(cells, key=len)
        assert len(cells) == 2 ** len(factors) and len(set(cells.values())) == len(cells)
        assert all(cache == EXACT or kv_scheme(cache).label for cache in cells.values())


def test_costs_are_measured_on_a_filled_cache(world):
    model, _, calibration = world
    costs = cache_costs(model, [EXACT, "e4m3-amax", "int4-channel", "nvfp4-amax"], calibration).set_index("cache")
    assert costs.measured_ratio.to_numpy() == pytest.approx(1, abs=0.05)
    ratio = costs.bytes_per_token / costs.bytes_per_token[EXACT]
    assert ratio.to_list() == [1, 8 / 16, 4 / 16, 4.5 / 16]


def test_drift_is_drawn_by_images_whatever_the_order_of_their_questions(world, monkeypatch):
    model, data, _ = world
    mixed = data.subset(np.random.default_rng(0).permutation(len(data)))
    asked = np.concatenate([positions for positions, _, _ in mixed.batches()])
    second = mixed.rows["image"].to_numpy()[asked] == 1
    drift = pd.DataFrame({"item": np.arange(len(mixed)), "step": 0, "kl": second.astype(float), "flip": False})
    monkeypatch.setattr(kv_tables, "prompt_batches", lambda *_: None)
    monkeypatch.setattr(kv_tables, "kv_drifts", lambda model, plans, *_, **__: dict.fromkeys(plans, drift))
    row = kv_tables.drift_table(model, {"c": None}, mixed, 1, n_boot=200, level=0.95, seed=0).iloc[0]
    # One of the two images drifts, and half of the draws hold only one of them.
    assert (row.low, row.high, row.n) == (0, 1, len(data)) and row.kl == second.mean() and len(data) > 4


def test_states_have_a_row_per_layer_part_and_modality(world):
    model, _, calibration = world
    rows = state_rows(model, calibrate_kv(model, calibration))
    assert len(rows) == 4 * 2 * 2 and (rows.amplitude > rows.spread).all()
    assert rows[rows.part == "k"].bias_share.notna().all() and rows[rows.part == "v"].bias_share.isna().all()


def test_making_caches_leaves_the_weights_alone(world):
    model, _, calibration = world
    before = weights_digest(model)
    plans_of(model, [EXACT, "e4m3-amax", "int8-channel-mean"], calibration)
    assert weights_digest(model) == before


def test_sentences_say_what_the_tables_hold():
    rng = np.random.default_rng(0)
    right = (rng.random(800) < 0.8).astype(float)
    wrong = np.where(rng.random(800) < 0.3, 0, right)
    found = attribute(
        {(): right, ("range",): right, ("resolution",): wrong, ("range", "resolution"): wrong}, ["range", "resolution"]
    )
    text = attribution_claim(found)
    assert text.index("resolution") < text.index("range 0.0 points") and "points of accuracy lost" in text
    none = attribute({(): right, ("range",): right}, ["range"])
    assert attribution_claim(none).startswith("no loss of accuracy is shown")
    claims = {
        name: recovery_claim(r, name, "b") for name, r in recoveries({"same": right, "bad": wrong}, right, 0.01).items()
    }
    assert "same is shown to lose less than 1 point of" in claims["same"] and "bad is not shown" in claims["bad"]
