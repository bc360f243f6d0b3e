"""Sweeps over calibration draws, and mixed models scored as the others are."""

from __future__ import annotations

import pandas as pd
import pytest

from edgelib.chapters.params import check
from edgelib.chapters.pareto import Pareto
from edgelib.errors import EdgelibError
from edgelib.quant.quantize import target_layers
from edgelib.quant.scheme import scheme
from edgelib.study.draws import mixed_outcomes, outcome_tables, with_runs
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    p = Pareto(
        n_images=6, configs=["fp32", "w4a8-minmax", "w8a8-smoothquant"], corruptions=["fog"], n_calibration=3, seeds=2
    )
    grid = p.study()
    return p, grid, with_runs(sweep(grid, CellStore(tmp_path_factory.mktemp("store"))))


def test_what_needs_calibration_is_run_once_per_draw(swept):
    _, grid, rows = swept
    runs = rows.groupby("config")["run"].unique().map(sorted).to_dict()
    assert runs == {"fp32": ["once"], "w4a8-minmax": ["once"], "w8a8-smoothquant": ["0", "1"]}
    assert rows.groupby(["config", "run", "severity"])["item"].nunique().eq(len(grid.data)).all()
    first, second = (rows[(rows.run == run)]["margin"].to_numpy() for run in "01")
    assert (first != second).any(), "another draw is another model"


def test_tables_have_an_item_per_row_and_a_config_and_run_per_column(swept):
    tables = outcome_tables(swept[2])
    assert list(tables) == ["accuracy", "corrupted"]
    for table in tables.values():
        assert table.shape == (6, 4) and table.columns.nlevels == 2 and table.isin([0, 1]).all(axis=None)


def test_a_mix_of_one_format_answers_as_the_scheme(swept):
    _, grid, rows = swept
    model = next(iter(grid.models.values()))
    layers = target_layers(model.module, scheme("w4a8-minmax"))
    mixed = mixed_outcomes(grid, model, {"all": dict.fromkeys(layers, "w4a8-minmax")})
    alone = rows[rows.config == "w4a8-minmax"]
    keys = ["corruption", "severity", "item"]
    pd.testing.assert_series_equal(
        mixed.sort_values(keys)["margin"], alone.sort_values(keys)["margin"], check_index=False, rtol=1e-4
    )


@pytest.mark.parametrize("severity", [0, 3], ids=["no corrupted", "no clean"])
def test_choices_need_clean_and_corrupted_images(severity):
    rows = pd.DataFrame(dict(item=[0], config=["a"], run=["once"], severity=[severity], correct=[1]))
    with pytest.raises(EdgelibError, match="clean images .severity 0. and at least one corruption"):
        outcome_tables(rows)


def test_bad_parameters_are_named():
    for bad, words in (
        (dict(tiers={"embeded": "jetson-nano"}), "did you mean 'embedded'"),
        (dict(tiers={"embedded": "jetson-nan"}), "did you mean 'jetson-nano'"),
        (dict(budgets={"bytes": -1.0}), "must be above 0"),
        (dict(budgets={"size": 1.0}), "unknown budget"),
        (dict(mix=["w4a8-minmax"]), "at least 2"),
        (dict(configs=["w4a8-minmaxx", "fp32"]), "unknown"),
    ):
        with pytest.raises(EdgelibError, match=words):
            check(bad, Pareto)
