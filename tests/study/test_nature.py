"""Twins against nature on tiny decoders: references that are remembered, states, caches, and a run that goes on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import kv_models
import pandas as pd
import pytest
import torch

from edgelib.errors import EdgelibError
from edgelib.report.nature.page import page
from edgelib.study.nature import run
from edgelib.study.nature.caches import cache_cell, grown
from edgelib.study.nature.decoder import Remembered, TextDecoder, batches
from edgelib.study.nature.grid import LINES, SCHEMES, DecoderGrid, line_of, twin_named
from edgelib.study.nature.states import PARTS, distances, shape_table, state_table

LENGTH = 24


def by_word(text: str, add_special_tokens: bool):
    return SimpleNamespace(input_ids=[1 + sum(map(ord, word)) % 49 for word in text.split()])


@pytest.fixture(scope="module")
def decoder():
    return TextDecoder("tiny", kv_models.llama(), by_word)


@pytest.fixture
def grid(decoder, tmp_path):
    return DecoderGrid(decoder, *(decoder.passages(split, 3, LENGTH) for split in ("test", "calibration")), tmp_path)


def states(module, ids):
    return state_table(module, [lambda batch=batch: module(input_ids=batch, use_cache=False) for batch in batches(ids)])


def test_what_a_decoder_said_is_remembered_and_nothing_else(decoder, grid):
    kept = Remembered(decoder.module, grid.test)
    batch = torch.stack(grid.test[:2])
    assert torch.allclose(kept(batch).logits, decoder.module(batch).logits, atol=1e-4)
    with pytest.raises(EdgelibError, match="other passages"):
        kept(batch + 1)


def test_schemes_cost_more_the_fewer_their_bits(grid):
    costs = [grid.cell(name)["kl"].mean() for name in ("w8a16", "w4a16-minmax-g64", "w3a16-minmax-g64")]
    assert 0 <= costs[0] < costs[1] < costs[2]
    rows = grid.cell("w4a16-gptq-g64-sequential")
    assert list(rows["tokens"]) == [LENGTH - 1] * 3 and (rows["kl"] > 0).all()


def test_a_cache_that_keeps_floats_costs_nothing_and_range_is_a_cause_where_it_is_one(grid):
    assert cache_cell(grid, "plain", "fp32")["kl"].abs().max() < 1e-5
    alone = {name: cache_cell(grid, "key-all:4096", name)["kl"].mean() for name in ("e4m3-one-rangeonly", "e4m3-amax")}
    assert alone["e4m3-one-rangeonly"] > 10 * alone["e4m3-amax"]
    with pytest.raises(EdgelibError, match="key-all"):
        grown(grid.decoder.module, "activation:8")


def test_states_tell_layers_and_places_apart(decoder, grid):
    table = states(decoder.module, grid.test)
    assert set(table.part) == {*PARTS, "residual", "attention"} and set(table.layer) == {0, 1}
    sinks = table[table.part == "attention"]
    assert sinks.sink_mass.between(0, 1).all() and sinks.sink_heads.between(0, 1).all()
    assert set(table[table.part == "activation"].place) == {"attention in", "attention out", "mlp in", "mlp out"}


def test_distance_is_nothing_to_itself_and_lies_where_outliers_were_planted(decoder, grid):
    nature, other = (states(grown(decoder.module, twin), grid.test) for twin in ("plain", "key:64"))
    found = distances(nature, {"plain": nature, "key:64": other}).set_index("twin")
    assert (found.loc["plain"] == 0).all()
    assert found.loc["key:64", "key"] > 1 and found.loc["key:64", ["activation", "value"]].max() < 0.01
    assert len(shape_table({"nature": nature})) == 6


def test_every_scheme_competes_in_one_line():
    assert len(set(SCHEMES)) == len(SCHEMES) == sum(map(len, LINES.values()))
    assert line_of("w4a16-gptq-g64-sequential") == line_of("w4a16-awq-g64") == "W4A16"


def test_a_run_goes_on_where_it_was_and_its_page_reads_its_tables(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_decoder", lambda name: decoder)
    asked = run.Nature(
        "tiny",
        twins=("plain", "activation:32"),
        schemes=("w8a8-minmax", "w8a8-smoothquant", "w4a16-minmax-g64", "w4a16-imatrix-g64"),
        caches=("e4m3-one",),
        passages=2,
        calibration=2,
        length=LENGTH,
        images=2,
    )
    told: list[str] = []
    folder = run.measure(asked, tmp_path, progress=False, report=told.append)
    first = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    assert len(told) == 2 + 2 + 4 + 2 + 2
    run.measure(asked, tmp_path, progress=False, report=told.append)
    assert len(told) == 12 and {path.name: path.read_bytes() for path in folder.glob("*.*")} == first
    assert "--passages 2" in (folder / "provenance.yaml").read_text()
    text = page(folder)
    assert text.startswith("# Twins against nature") and "activation:32" in text and "nan" not in text
    kl = pd.read_csv(folder / "kl.csv")
    assert (kl["w8a8-minmax"] < kl["w4a16-minmax-g64"]).all()
    with pytest.raises(EdgelibError, match="unknown method"):
        run.measure(replace(asked, schemes=("w4a16-magic",)), tmp_path)


def test_twins_are_joined(monkeypatch):
    planted: list[str] = []
    monkeypatch.setattr("edgelib.study.nature.grid.planted", lambda model, twin, seed: planted.append(twin) or model)
    twin_named(None, "activation:8+spike:16")
    assert planted == ["activation:8", "spike:16"]
