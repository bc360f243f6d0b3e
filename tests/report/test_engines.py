"""What names of GGUF files hold and weigh, and what is said of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import edgelib
from edgelib import save_gguf
from edgelib.chapters.edge_engines import EdgeEngines
from edgelib.chapters.params import check
from edgelib.errors import EdgelibError
from edgelib.report.claims.engines import budget_claims, engines_opening, ladder_claims, speed_claims
from edgelib.report.engines import (
    budget_columns,
    budget_table,
    choice_table,
    commands,
    file_bytes,
    held_types,
    ladder_table,
)
from edgelib.stats.family import compare
from edgelib.stats.recommend import recommend

PAIRS = EdgeEngines(decoders=["f16", "q4_k_m"], visions=["F16"]).pairs


@pytest.fixture(scope="module")
def model():
    return edgelib.load("scenes-vlm")


def test_types_add_up_to_each_part(model):
    held = held_types(model, ["f16", "q8_0", "q4_k_m"])
    assert np.allclose(held.groupby(["mix", "part"])["share"].sum(), 1)
    assert set(held.loc[held["mix"] == "f16", "type"]) == {"f16"}
    # rows of 128 hold no block of 256, so what is called Q4_K_M is Q5_0 for the most part
    first = held[(held["mix"] == "q4_k_m") & (held["part"] == "decoder")].iloc[0]
    assert first["type"] == "q5_0" and "rows of 128" in first["why"]


def test_bytes_are_those_of_written_files(model, tmp_path):
    pytest.importorskip("gguf")
    sizes = file_bytes(model, PAIRS).set_index("config")
    assert sizes["exact"].all()
    for config, (decoder, vision) in PAIRS.items():
        written = save_gguf(model, tmp_path / "d.gguf", decoder).stat().st_size
        written += save_gguf(model, tmp_path / "v.gguf", vision, part="vision").stat().st_size
        assert sizes.loc[config, "bytes"] == written


def test_commands_make_what_is_not_there():
    assert commands("q4_k_m", "f16") == (
        "llama-quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M",
        "llama-mtmd-cli -m model-Q4_K_M.gguf --mmproj mmproj-F16.gguf",
    )
    assert commands("f16", "f16")[0].startswith("nothing to make")
    assert commands("q8_0", "q8_0")[0].count("llama-quantize") == 2


@pytest.mark.parametrize(
    ("lost", "said"), [(0, "is shown to stay within 5 points"), (150, "the only pair")], ids=["equal", "worse"]
)
def test_the_opening_names_the_smallest_pair_that_keeps_the_margin(model, lost, said):
    reference, narrow = PAIRS
    right = np.ones(400)
    wrong = np.where(np.arange(400) < lost, 0.0, 1.0)
    rows = pd.concat(
        pd.DataFrame(dict(config=c, bytes=b, item=range(400), score=s))
        for c, b, s in ((reference, 4, right), (narrow, 1, wrong))
    )
    choice = recommend(rows, {"bytes": None}, also="config", margin=0.05, response="score", run=None)
    tests = compare({PAIRS[narrow]: (wrong, right)}, ["decoder", "vision"])
    sizes = pd.DataFrame(dict(config=[reference, narrow], bytes=[4, 1]))
    opening = engines_opening(tests, choice, PAIRS, sizes)
    assert said in opening.answer and ("llama-quantize" in opening.advice) == (lost == 0)
    assert "Q4_K_M + F16: " in opening.number
    assert list(choice_table(choice.table, PAIRS)["verdict"]).count("shown") == (2 if lost == 0 else 1)


def test_ladders_say_agreement_with_its_bound():
    steps = ["preprocessing", "vision", "engine", "cache", "weights", "inputs", "files", "simulation", "all"]
    rows = pd.concat(
        pd.DataFrame(dict(mix=mix, step=steps, n=4, top1=1.0, top1_low=0.51, bound=0.001)) for mix in ("f16", "q8_0")
    ).reset_index(drop=True)
    claims = ladder_claims(rows)
    assert len(claims) == 2 and "100 % of 4 prompts" in claims[1] and "at most 0.1 points" in claims[1]
    shown = ladder_table(rows)
    assert (shown["mix"] == "any").sum() == 4 and len(shown) == 4 + 2 * 5


def test_speed_is_said_against_f16_of_the_same_engine():
    rows = pd.DataFrame(
        dict(mix=["f16", "q4_0"], cache="f16", file_bytes=[4.0, 1.0], decode_per_s=[10.0, 30.0], decode_low=[8.0, 24.0],
             decode_high=[10.0, 40.0])
    )  # fmt: skip
    (claim,) = speed_claims(rows)
    assert "3.00 times as fast" in claim and "2.40 to 5.00" in claim and "0.25 of its size" in claim
    assert speed_claims(rows[rows["mix"] == "q4_0"]) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"decoders": ["f16"]}, "at least 2"),
        ({"decoders": ["f16", "q4"]}, "q4"),
        ({"decoders": ["f16", "F16"]}, "named twice"),
        ({"image_tokens": [4, 4]}, "named twice"),
        ({"image_tokens": [0]}, "image_tokens"),
        ({"engine_times": "nowhere"}, "llama_cpp.csv"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_parameters_are_refused_by_name(given, said):
    with pytest.raises(EdgelibError, match=said):
        check(given, EdgeEngines)


def test_tokens_are_set_against_the_wait_that_was_measured():
    accuracy = pd.DataFrame(
        {
            "tokens": [4, 6, 9, 4, 9],
            "decoder": ["f16"] * 3 + ["q4_0"] * 2,
            "accuracy": [0.5, 0.6, 0.55, 0.4, 0.3],
            "accuracy_low": 0.1,
            "accuracy_high": 0.9,
        }
    )
    waits = pd.DataFrame(
        {"model": "m", "mix": "f16", "vision": "f16", "image_tokens": [8, 4], "first_ms": [20.0, 10.0]}
    )
    waits = waits.assign(first_low=waits.first_ms - 1, first_high=waits.first_ms + 1)
    table = budget_table(accuracy, waits, "f16", "m")
    assert table["wait_ms"].tolist()[:2] == [10, 15] and table["wait_ms"][2:].isna().all()
    assert table["best"].tolist() == [True, True, False, False, False]
    (claim,) = budget_claims(table)
    assert claim.endswith("the quickest first: 4 tokens with F16 (50.0 %, 10 ms); 6 tokens with F16 (60.0 %, 15 ms)")
    cells = {name: column for name, column in budget_columns().items() if not isinstance(column, str)}
    assert cells["First token, ms"].cells(table) == ["10 (9 to 11)", "15 (14 to 16)", "", "", ""]
    unmeasured = budget_table(accuracy, waits, "f16", "other")
    assert budget_claims(unmeasured) == [] and not unmeasured["best"].any()
