"""Chapters open with what their tests say, on ordinary and on degenerate outcomes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from edgelib.models.twins import PLAIN
from edgelib.report.claims import devices, openings
from edgelib.report.claims.text import names_text, one_of
from edgelib.stats.family import Family, compare
from edgelib.stats.gap import robustness_gaps
from edgelib.stats.ladder import recoveries
from edgelib.stats.outcomes import corruption_costs, severity_differences
from edgelib.stats.recommend import recommend

IMAGES, CLASSES = 60, 10
BOOT = {"n_boot": 200, "level": 0.95, "seed": 0}


def grid(clean: dict[str, float], corrupted: dict[str, float], n: int = IMAGES) -> pd.DataFrame:
    """Outcomes of a sweep in which exactly these shares of the images are answered right, the first ones."""
    cells = [("clean", 0, clean)] + [(c, s, corrupted) for c in ("fog", "gaussian_noise") for s in (1, 5)]
    rows = [
        {"item": i, "config": config, "corruption": c, "severity": s, "correct": float(i < share * n)}
        for c, s, of in cells
        for config, share in of.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows)


def opened(rows: pd.DataFrame) -> openings.Opening:
    configs = list(dict.fromkeys(rows.config))
    tests = robustness_gaps(rows, configs[1:], configs[0], 1 / CLASSES, **BOOT)
    return openings.gap_opening(tests, corruption_costs(rows, **BOOT), configs[0])


def whole(opening: openings.Opening) -> str:
    text = f"{opening.answer} {opening.number} {opening.advice}"
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of)|  ", text), text
    assert all(part[0].isupper() or not part[0].isalpha() for part in (opening.answer, opening.number, opening.advice))
    return text


def test_a_gap_that_widens_is_the_answer():
    same = {"fp32": 0.9, "w8a8-minmax": 0.9}
    said = opened(grid(same | {"w4a8-minmax": 0.9}, {"fp32": 0.8, "w8a8-minmax": 0.8, "w4a8-minmax": 0.3}))
    assert said.answer == (
        "Fog costs FP32 10 and 10 points of accuracy at severity 1 and 5; W4A8 min-max loses more to corruption than it"
    )
    assert said.advice.startswith("Prefer W8A8 min-max") and "At severity 5 fog costs FP32 10.0 points" in whole(said)
    assert "and 10.0 to 60.0 points in the quantized" in said.number


def test_no_gap_sends_the_reader_to_clean_accuracy():
    said = opened(grid({"fp32": 0.9, "w8a8-minmax": 0.9}, {"fp32": 0.6, "w8a8-minmax": 0.6}))
    assert said.answer.endswith(
        "; W8A8 min-max is not shown to lose more to corruption than it"
    ) and said.advice.startswith("Choose the format by its clean")
    assert "not shown to add" in whole(said) and "severity" in said.advice


@pytest.mark.parametrize("n", [1, 2, IMAGES])
@pytest.mark.parametrize("share", [0.0, 1 / CLASSES, 1.0], ids=["always wrong", "at chance", "always right"])
def test_it_holds_where_nothing_can_be_learned(share, n):
    configs = dict.fromkeys(("fp32", "w8a8-minmax", "w4a8-minmax"), share)
    said = opened(grid(configs, configs, n))
    assert "; W" not in said.answer
    why = {0.0: "every answer of both is wrong", 1.0: "every answer of both is right"}.get(share, "guessing")
    assert why in said.answer or share == 1 / CLASSES  # a few right answers may lie above chance
    whole(said)


def test_a_twin_that_breaks_a_configuration_is_named():
    planted = pd.DataFrame(
        [("plain:1", "plain", 0.9), ("weight:4", "weight", 0.85), ("weight:16", "weight", 0.1)],
        columns=["twin", "kind", "clean"],
    ).assign(config="w4a8-minmax", n_items=240, clean_low=lambda t: t.clean - 0.04, clean_high=lambda t: t.clean + 0.04)
    rows = grid({"fp32": 0.9, "w8a8-minmax": 0.9}, {"fp32": 0.6, "w8a8-minmax": 0.6})
    tests = robustness_gaps(rows, ["w8a8-minmax"], "fp32", 1 / CLASSES, **BOOT)
    known = tests, corruption_costs(rows, **BOOT), "fp32"
    said = openings.gap_opening(*known, planted)
    assert "outliers of strength 16 in the weights, W4A8 min-max names 10.0 (6.0 to 14.0) % of 240 clean" in said.advice
    assert said.advice.endswith("without them 90.0 %")
    assert "outliers" not in openings.gap_opening(*known, planted[:2]).advice


def test_costs_are_differences_on_the_same_images():
    rows = grid({"a": 0.9, "b": 0.5}, {"a": 0.6, "b": 0.5})
    costs = corruption_costs(rows, **BOOT).set_index(["corruption", "config", "severity"])
    means = rows.groupby(["config", "corruption", "severity"]).correct.mean()
    for (corruption, config, severity), row in costs.iterrows():
        assert row.cost == pytest.approx(means[config, "clean", 0] - means[config, corruption, severity])
        assert row.low <= row.cost <= row.high
    assert (costs.loc[(slice(None), "b"), ["low", "high"]] == 0).all(axis=None)  # no image changes


def test_differences_by_severity_are_those_of_the_means():
    rows = grid({"a": 0.9, "b": 0.5}, {"a": 0.6, "b": 0.5})
    found = severity_differences(rows, "a", **BOOT).set_index("severity")
    assert list(found.config.unique()) == ["b"] and list(found.index) == [0, 1, 5]
    assert found.value.to_numpy() == pytest.approx([-0.4, -0.1, -0.1])
    assert ((found.low <= found.value) & (found.value <= found.high)).all()


def families(losses: dict[tuple[str, str], float], names=("task", "config"), n: int = 300) -> Family:
    right = np.ones(n)
    pairs = {key: ((np.arange(n) >= loss * n).astype(float), right) for key, loss in losses.items()}
    return compare(pairs, names, **{"level": 0.95, "seed": 0})


def test_losses_under_outliers_reach_the_first_line():
    tests = families({("vqa", "w4a16"): 0.0, ("vqa", "w8a8-minmax"): 0.0})
    planted = families({("weight:16", "w4a16"): 0.4, ("weight:16", "w8a8-minmax"): 0.0}, ("twin", "config"))
    said = openings.answers_opening(tests, planted, {"vqa": "VQA"}, "fp32")
    assert "but outliers change that" in said.answer and "outliers of strength 16 in the weights" in said.number
    assert "; on the plain model the loss that stays possible is" in said.number
    assert "loses 40.0 points" in said.number and said.advice.startswith("Take W8A8 min-max. It loses at most")
    whole(said)


def test_what_a_real_decoder_loses_with_is_not_advised():
    tests = families({("vqa", "w4a16-awq"): 0.0, ("vqa", "w8a8-minmax"): 0.0})
    twins = families({("weight:16", c): 0.0 for c in ("w4a16-awq", "w8a8-minmax")}, ("twin", "config"))
    lost = {("vqa", "w4a16-awq-g64"): 0.2, ("vqa", "w8a8-smoothquant"): 0.0, ("mme", "w8a8-minmax"): 0.3}
    real = families(lost).table("effect", "low", "high", "p_holm")  # points of MME are no hundredths
    advice = openings.answers_opening(tests, twins, {"vqa": "VQA"}, "fp32", real).advice
    assert advice.startswith("Take W8A8 min-max. It loses at most")
    assert "A real decoder loses 20.0 points with W4A16 AWQ, groups of 64 (" in advice
    assert openings.answers_opening(tests, twins, {"vqa": "VQA"}, "fp32", real[1:]).advice.startswith("Take one of")


@pytest.mark.parametrize(
    ("loss", "start"), [(0.0, "W4A16 min-max, groups of 128 is not shown"), (0.3, "W4A16")], ids=["none", "lost"]
)
def test_answers_without_twins_have_a_number_too(loss, start):
    said = openings.answers_opening(
        families({("vqa", "w4a16"): loss}), Family({}, ("twin", "config")), {"vqa": "VQA"}, "fp32"
    )
    assert said.answer.startswith(start) and "points of VQA" in whole(said)
    assert said.advice.startswith("Stay with FP32" if loss else "Take W4A16")


def cached(losses: dict[str, float], n: int = 400):
    exact = np.ones(n)
    return {
        twin: recoveries({"e4m3-amax": (np.arange(n) >= loss * n).astype(float)}, exact, 0.01)["e4m3-amax"]
        for twin, loss in losses.items()
    }


@pytest.mark.parametrize(
    ("losses", "start", "advised"),
    [
        ({PLAIN: 0, "key:8": 0}, "FP8 is safe on this model as it is", "Calibrate the scales, check"),
        ({PLAIN: 0, "key-offset:8": 0.5}, "FP8 is safe on this model as it is", "INT8"),
        ({PLAIN: 0.5, "key:8": 0.5}, "Whether FP8 is safe is not shown", "INT8"),
    ],
    ids=["safe", "unsafe on a twin", "unsafe"],
)  # fmt: skip
def test_a_cache_is_safe_where_it_is_shown(losses, start, advised):
    said = openings.cache_opening(cached(losses), "FP8", PLAIN, ["INT8"], 91.4)
    assert said.answer.startswith(start) and advised in said.advice and "costs 91 points" in said.advice
    unsafe = "not shown with a constant of 8 in the keys" in said.answer
    assert unsafe == ("key-offset:8" in losses) and ("planted outlier too" in said.answer) == (not any(losses.values()))
    assert "margin 1 point" in whole(said)


def test_a_wrong_kind_of_calibration_images_is_the_number():
    n, runs = 200, 2
    rows = pd.DataFrame(
        {"size": 8, "config": c, "seed": s, "item": i, "image": i, "correct": float(i < share * n)}
        for c, share in (("w8a8-minmax", 0.9), ("w4a8-gptq", 0.9))
        for s in range(runs)
        for i in range(n)
    )
    choice = recommend(rows, {"size": None, "config": ["w8a8-minmax", "w4a8-gptq"]}, margin=0.02, cluster="image")
    mixes = families({("gray",): 0.2, ("dark",): 0.0}, ("mix",)).named(lambda mix: mix)
    said = openings.calibration_opening(choice, choice.choice, mixes, "weight:8", "w4a8-gptq", "balanced")
    assert said.answer.startswith("W8A8 min-max with 8 images is enough")
    assert "gray images cost it 20.0 points against balanced ones" in whole(said)
    assert said.advice == "Calibrate on balanced images, and on no gray ones if you ship W4A8 GPTQ"
    flat = openings.calibration_opening(choice, choice.choice, Family({}, ("mix",)), PLAIN, "w4a8-gptq", "balanced")
    assert "is shown to cost W4A8 GPTQ anything on the plain model" in whole(flat)


@pytest.mark.parametrize(
    ("model", "data", "start"),
    [
        ("scenes-clip", "scenes", "Synthetic:"),
        ("scenes-vlm", "scenes-vqa", "Synthetic:"),
        ("./my-clip", "scenes", "Partly synthetic: the images"),
        ("scenes-clip", "./photos", "Partly synthetic: scenes-clip"),
        ("./my-clip", "./photos", "The accuracies are those of ./my-clip on ./photos"),
    ],
)  # fmt: skip
def test_the_scope_is_that_of_what_ran(model, data, start):
    assert openings.scope_claim(model, data).startswith(start)


def test_names_are_listed_in_words():
    assert names_text(["A"]) == "A" and names_text(["A", "B"]) == "A and B" and names_text([]) == ""
    assert names_text("ABCD", 3) == "A, B, C and D" and names_text("ABCDE", 3) == "A, B, C and 2 others"
    assert names_text("ABC", 3, "or") == "A, B or C" and one_of(["A"]) == "A" and one_of("AB") == "one of A or B"


def test_names_that_hold_commas_are_kept_apart_by_semicolons():
    assert names_text(["E4M3, mean", "INT8"]) == "E4M3, mean; and INT8"
    assert one_of(["A, b", "C", "D", "E", "F"], 3) == "one of A, b; C; D; or 2 others"


def timed(speedup, low, high):
    return pd.Series({"config": "onnx-int8", "base": "onnx-fp32", "speedup": speedup, "low": low, "high": high})


@pytest.mark.parametrize(
    ("fastest", "start"),
    [
        (timed(1.5, 1.4, 1.6), "Yes, less than its bytes promise"),
        (timed(4.5, 4.4, 4.6), "Yes, as much as its bytes promise"),
        (timed(1.1, 0.9, 1.3), "Smaller, and not shown to be faster"),
        (timed(0.8, 0.7, 0.9), "Smaller, and not shown to be faster"),
        (None, "W8A8 min-max takes 4.0 times fewer bytes than FP32; whether it is faster was not timed"),
    ],
    ids=["faster", "much faster", "open", "slower", "not timed"],
)
def test_bytes_and_times_open_with_both(fastest, start):
    sizes = pd.Series({"fp32": 400, "w8a8-minmax": 100, "w4a8-minmax": 60})
    steps = pd.DataFrame({"step": ["decode"], "error": [0.27], "n": [30], "devices": [6], "coverage": [0.9]})
    checked = SimpleNamespace(by_step=steps, level=0.9)
    names = {"fp32": "FP32", "w8a8-minmax": "W8A8 min-max"}
    said = devices.efficiency_opening(sizes, ["w8a8-minmax"], names, fastest, "a board", checked)
    assert said.answer.startswith(start) and "by 27 %" in said.advice and "a board" in whole(said)
