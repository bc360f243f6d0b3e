"""Pairs of files matched question by question, and the table of the engine's times."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest

from edgelib import EdgelibError, dataset, load
from edgelib.kernels.llama_cpp.speed import decoder_shape, first_picture
from edgelib.models.token_budget import image_tokens
from edgelib.study.engine import agreement
from edgelib.study.engine.agreement import engine_ladders, prompts_of
from edgelib.study.engine.measure import measure_engine
from edgelib.study.engine.pairs import by_config, by_place, matched, placed, trades, with_tokens
from edgelib.study.engine.times import FILE, FIRST_FILE, engine_times, first_times
from edgelib.study.store import CellStore

needs_engine = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf")), reason="no llama.cpp: edgelib[llama-cpp]"
)

GOOD = """machine,model,mix,cache,threads,file_bytes,prompt_tokens,repeats,others,prompt_per_s,prompt_low,prompt_high,\
decode_per_s,decode_low,decode_high
M,m,f16,f16,2,100,64,3,0.01,100,90,110,10,9,11
""".replace("\\\n", "")


def answers(config: str, shift: float, seed: int = 0) -> pd.DataFrame:
    """Scores that name their item and place, in an order of their own."""
    made = [
        dict(config=config, item=item, image_id=item // 2, corruption=c, severity=s, score=item / 10 + s / 100 + shift)
        for c, s in (("clean", 0), ("fog", 3))
        for item in range(4)
    ]
    return placed(pd.DataFrame(made).sample(frac=1, random_state=seed).reset_index(drop=True))


def test_scores_are_matched_by_item_and_place_whatever_the_order():
    first, second, images = matched(answers("a", 0.5, seed=1), answers("b", 0.0, seed=2))
    assert np.allclose(first - second, 0.5) and list(images) == [0, 0, 1, 1] * 2


def test_places_and_configurations_are_kept_apart():
    rows = pd.concat([answers("r", 0.0), answers("a", 0.2), answers("b", 0.4)])
    assert set(rows["place"]) == {"clean", "fog 3"}
    assert set(by_place(rows, ["a", "b"], "r")) == {(place, c) for place in ("clean", "fog 3") for c in "ab"}
    for config, shift in (("a", 0.2), ("b", 0.4)):
        one, two, _ = by_config(rows, ["a", "b"], "r")[config]
        assert len(one) == 8 and np.allclose(one - two, shift)


def test_fewer_tokens_meet_more_tokens_once():
    parts = {t: pd.concat([answers("w", t), answers("n", -t)]) for t in (9, 4, 16)}
    found = trades(with_tokens(parts), "w", "n")
    assert list(found) == [("4", "9"), ("4", "16"), ("9", "16")]
    for (few, more), (one, two, _) in found.items():
        assert np.allclose(one - two, int(few) + int(more))
    assert trades(with_tokens({}), "w", "n") == {}


def test_prompts_are_the_first_questions_of_distinct_images():
    asked = dataset("scenes-vqa", n=3)
    images, questions = prompts_of(asked, 3)
    assert len(images) == len(questions) == 3
    assert questions == list(asked.rows.groupby("image", sort=False)["question"].first())


def test_a_missing_engine_is_a_reason_and_no_failure(monkeypatch):
    monkeypatch.setattr(agreement, "why_no_engine", lambda: "xllamacpp missing: install it")
    rows, reason = engine_ladders(None, None, ["f16"], "f16", 2)
    assert not len(rows) and reason == "xllamacpp missing: install it"


def test_a_table_of_times_is_read_or_refused(tmp_path):
    with pytest.raises(EdgelibError, match=f"holds no {FILE}"):
        engine_times(tmp_path)
    for text, said in (
        (GOOD, None),
        (GOOD.replace("decode_low", "x"), "lacks decode_low"),
        (GOOD.replace(",9,11", ",nothing,11"), r"line 2, decode_\w+ = .* must be a number"),
        (GOOD.replace(",9,11", ",-9,11"), r"line 2, decode_\w+ = .* must be a number"),
        (GOOD.splitlines()[0], "holds no rows"),
        ("", "holds no rows"),
        (GOOD.replace(",9,11", ",10.5,11"), "decode_low = 10.5 is above decode_per_s = 10"),
        (GOOD + GOOD.splitlines()[1] + "\n", "line 3 is a case again"),
    ):
        (tmp_path / FILE).write_text(text)
        if said is None:
            assert engine_times(tmp_path)["decode_per_s"].tolist() == [10]
        else:
            with pytest.raises(EdgelibError, match=said):
                engine_times(tmp_path)


def test_waits_for_a_first_token_are_read_refused_or_absent(tmp_path):
    assert first_times(tmp_path).empty
    text = """machine,model,mix,vision,threads,image_tokens,prompt_tokens,repeats,others,first_ms,first_low,first_high
M,m,f16,f16,2,4,17,3,0.01,30,29,31
"""
    (tmp_path / FIRST_FILE).write_text(text)
    assert first_times(tmp_path)["first_ms"].tolist() == [30]
    (tmp_path / FIRST_FILE).write_text(text.replace("first_low", "low"))
    with pytest.raises(EdgelibError, match=f"{FIRST_FILE} lacks first_low"):
        first_times(tmp_path)


@needs_engine
def test_times_are_measured_into_a_table_that_is_read(tmp_path):
    model = decoder_shape(hidden=64, layers=1, heads=2, kv_heads=1, inner=64, words=96)
    measure_engine(tmp_path, model, name="M", mixes=["f16", "q8_0"], caches=["f16"], prompt=4, tokens=3, repeats=2)
    rows = engine_times(tmp_path)
    assert list(rows["mix"]) == ["f16", "q8_0"] and (rows["repeats"] == 2).all() and (rows["machine"] == "M").all()
    assert first_times(tmp_path).empty  # it sees no pictures
    assert (rows["decode_low"] <= rows["decode_per_s"]).all() and (rows["decode_per_s"] <= rows["decode_high"]).all()


@needs_engine
def test_a_measurement_goes_on_where_it_was_stopped_and_waits_for_the_first_token(tmp_path):
    model, store, begun = load("scenes-vlm"), CellStore(tmp_path / "kept"), []
    options = {
        "name": "M",
        "files": tmp_path,
        "store": store,
        "caches": ["f16"],
        "prompt": 4,
        "tokens": 2,
        "repeats": 1,
    }
    for mixes in (["q8_0"], ["q8_0", "f16"]):
        measure_engine(tmp_path, model, mixes=mixes, report=begun.append, **options)
    whole = image_tokens(model, first_picture())
    assert whole == 9 and begun[0] == "q8_0, cache f16" and len(begun) == len(set(begun)) == 2 * (1 + 4)
    waits = first_times(tmp_path)
    assert set(waits["image_tokens"]) == {1, 4, 9, 16} and set(waits["model"]) == {"scenes-vlm"}
    # what the engine read grows as the picture does
    assert (waits["prompt_tokens"] - waits["image_tokens"]).nunique() == 1
