"""Grids that stop early: verdicts of complete grids, wrong as seldom as they say, and nothing mixed in the store."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from killed_sweep import small_grid
from scipy import stats
from typer.testing import CliRunner

from edgelib.chapters.robustness_gap import RobustnessGap
from edgelib.cli import app
from edgelib.errors import EdgelibError
from edgelib.study.classifier_grid import ClassifierGrid, conditions_of
from edgelib.study.early import settle
from edgelib.study.early.settle import sweep_until_settled
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

MARKS = ["twin", "config", "corruption", "severity", "item"]


@pytest.fixture(scope="module")
def grid():
    """Three variants under four conditions of 24 images, the reference first."""
    grid = small_grid()
    return dataclasses.replace(grid, variants=(grid.variants[0], grid.variants[2], grid.variants[5]), calibrations=())


def test_outcomes_are_those_of_the_grid_under_names_of_their_own(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "FIRST", 0.3)
    store = CellStore(tmp_path)
    table, rows = sweep_until_settled(grid, store, 0.3, progress=False)
    drawn = set(store.files.names(".parquet"))
    assert not drawn & {store.name(grid.spec(*cell)) for cell in grid.cells()}
    whole = sweep(grid, store, progress=False)
    both = rows.merge(whole, on=MARKS, suffixes=("", " whole"))
    assert len(both) == len(rows) > 0 and not rows.duplicated(MARKS).any() and (rows["severity"] > 0).all()
    assert (both["prediction"] == both["prediction whole"]).all()
    means = whole[whole.severity > 0].groupby(["twin", "config"])["correct"].mean()
    assert table[["twin", "config"]].values.tolist() == [[v.twin, v.config] for v in grid.variants[1:]]
    for one in table.itertuples():
        loss = means["plain", "fp32"] - means[one.twin, one.config]
        assert one.verdict == ("keeps" if loss <= 0.3 else "breaks") and one.low <= loss <= one.high
        assert one.n == len(rows[(rows.twin == one.twin) & (rows.config == one.config)]) <= one.of == 96
        assert one.stopped == (one.n < one.of) and one.decided_at <= one.n and one.share == one.n / one.of
    assert table["stopped"].any()
    monkeypatch.setattr(ClassifierGrid, "build", None)  # any work would fail now
    pd.testing.assert_frame_equal(sweep_until_settled(grid, store, 0.3, progress=False)[0], table)
    sweep_until_settled(grid, store, 0.5, level=0.9, progress=False)  # another margin takes what is there


def known(grid: ClassifierGrid, correct: dict):
    """A sweep that looks outcomes up: correct [conditions, images] of each variant."""
    places = [c for c in grid.conditions if c.severity]

    def looked_up(drawn, _store, **_how):
        parts = [correct[v][places.index(c)][drawn.positions[c]] for v, c in drawn.cells()]
        return pd.DataFrame({"correct": np.concatenate(parts)})

    return looked_up


def most(error: float, runs: int) -> int:
    """As many errors as a rate of `error` makes in all but one of a thousand simulations."""
    return int(stats.binom.ppf(0.999, runs, error))


@pytest.mark.parametrize("lost", [9, 10], ids=["just within", "just beyond"])
def test_any_verdict_of_a_grid_is_wrong_as_seldom_as_it_says(grid, monkeypatch, lost):
    """The hardest grids: every variant one outcome to the same side of a margin of 9.5 of 96."""
    monkeypatch.setattr(settle, "interval_after", lambda *_, **__: (0, 0))
    monkeypatch.setattr(settle, "FIRST", 0.1)
    monkeypatch.setattr(settle, "GROWTH", 1.4)
    wrong, runs, rng = 0, 60, np.random.default_rng(0)
    for seed in range(runs):
        right = np.repeat([0.0, 1.0], [lost, 96 - lost])
        correct = {v: rng.permutation(right).reshape(4, 24) for v in grid.variants}
        correct[grid.variants[0]] = np.ones((4, 24))
        monkeypatch.setattr(settle, "sweep", known(grid, correct))
        table, _ = sweep_until_settled(dataclasses.replace(grid, seed=seed), None, 9.5 / 96, level=0.8)
        wrong += (table["verdict"] != ("keeps" if lost == 9 else "breaks")).any()
    assert wrong <= most(0.2, runs)


def test_what_is_clear_takes_a_small_part_of_the_grid(grid, monkeypatch):
    clear = dataclasses.replace(grid, data=grid.data, conditions=conditions_of(["fog", "contrast"], [1, 2, 3, 4, 5]))
    rng, n = np.random.default_rng(0), len(grid.data)
    correct = {v: np.ones((10, n)) if "w4a8" not in v.config else rng.random((10, n)) < 0.4 for v in grid.variants}
    monkeypatch.setattr(settle, "sweep", known(clear, correct))
    table = sweep_until_settled(clear, None, 0.2)[0].set_index(["twin", "config"])
    assert (table["verdict"] == np.where(table.index.get_level_values(1) == "w4a8-minmax", "breaks", "keeps")).all()
    assert (table["share"] < 0.4).all() and (table["low"] <= table["loss"]).all()


def test_the_command_tells_what_was_stopped_and_keeps_it_apart(grid, tmp_path, monkeypatch):
    correct = {v: np.ones((4, 24)) if v == grid.variants[0] else np.zeros((4, 24)) for v in grid.variants}
    monkeypatch.setattr(settle, "sweep", known(grid, correct))
    monkeypatch.setattr(RobustnessGap, "study", lambda _: grid)
    (tmp_path / "robustness_gap.yaml").write_text("{}")
    command = ["sweep", str(tmp_path / "robustness_gap.yaml"), "--store", str(tmp_path), "--stop-early", "0.1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2 of 2 configurations were stopped early" in done.output and "no complete cells" in done.output
    assert not (tmp_path / "sweeps" / "robustness_gap.parquet").exists()
    told = json.loads((tmp_path / "sweeps" / "robustness_gap.stopped.summary.json").read_text())
    assert told["stop_early"] == {"margin": 0.1, "level": 0.95} and told["kind"] == "simulated"
    assert [(v["verdict"], v["stopped"], v["n"] < v["of"]) for v in told["verdicts"]] == [("breaks", True, True)] * 2
    assert told["outcomes"] == len(pd.read_parquet(tmp_path / "sweeps" / "robustness_gap.stopped.parquet"))


@pytest.mark.parametrize(
    ("change", "margin", "text"),
    [
        ({}, 1.5, "margin must lie from 0 to below 1"),
        ({"conditions": conditions_of([], [])}, 0.1, "name a corruption"),
    ],
    ids=["margin", "clean alone"],
)
def test_what_cannot_stop_is_refused(grid, change, margin, text):
    with pytest.raises(EdgelibError, match=text):
        sweep_until_settled(dataclasses.replace(grid, **change), None, margin)
