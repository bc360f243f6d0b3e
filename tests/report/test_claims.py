"""Sentences say what their tests say: direction, size, interval, and whether it is settled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.report.claims import answers, caches, devices, gaps, runs
from edgelib.report.claims.differences import difference_claim, difference_claims, difference_summary
from edgelib.report.claims.text import bullets, interval_text, p_text
from edgelib.stats.family import Family
from edgelib.stats.gap import Gap
from edgelib.stats.ladder import Recovery, attribute
from edgelib.stats.paired import Equivalence, PairedDifference
from edgelib.stats.predictor import Prediction
from edgelib.stats.ranks import RankStability
from edgelib.stats.recommend import recommend


def difference(effect, low, high, p=0.5):
    return PairedDifference(effect=effect, interval=(low, high), p=p, n=500, mde=0.031, n_clusters=500, level=0.95)


@pytest.mark.parametrize(
    ("test", "start"),
    [
        (
            difference(-0.052, -0.07, -0.03, 1e-9),
            "A has 5.2 points less accuracy than B (95 % interval -7.0 to -3.0 points",
        ),
        (difference(0.02, 0.01, 0.03, 0.004), "A has 2.0 points more accuracy than B"),
        (
            difference(0.002, -0.01, 0.014),
            "the accuracy of A and B cannot be told apart (difference +0.2 points, 95 % interval -1.0 to 1.4",
        ),
    ],
    ids=["less", "more", "open"],
)
def test_the_sentence_follows_the_interval(test, start):
    said = difference_claim(test, "A", "B")
    assert said.startswith(start) and "n = 500" in said
    assert ("four times in five" in said) == (test.interval[0] <= 0 <= test.interval[1])


def test_a_sign_that_correction_leaves_open_says_so():
    said = difference_claim(difference(0.02, 0.01, 0.03, 0.03), "A", "B", adjusted=0.2)
    assert said.startswith("the accuracy of A and B cannot be told apart once all tests are counted (")


def test_items_that_share_images_are_counted_as_such():
    said = difference_claim(replace(difference(0.02, 0.01, 0.03, 0.004), n=786, n_clusters=80), "A", "B")
    assert "n = 786 items of 80 images" in said


def test_the_clearest_difference_is_the_one_with_the_most_standard_errors():
    points = replace(difference(-0.188, -0.6, 0.2), mde=0.5)  # of another scale
    tests = {"A on MME": points, "B on VQA": replace(difference(0.01, 0.002, 0.018), mde=0.011)}
    said = difference_summary(Family(tests, ("what",)))
    assert "the clearest difference, against its standard error, is that of B on VQA, +1.0 points" in said


def test_gaps_are_counted_against_a_reference_of_equal_clean_accuracy():
    def gap(effect, low, high, p):
        scales = pd.DataFrame([dict(scale="matched logit", effect=effect, low=low, high=high, p=p, se=0.1)]).set_index(
            "scale"
        )
        return Gap("q", "r", 1.0, (0.5, 1.5), 0.001, 100, 100, 100, 0.2, 4, 0.0, 0.95, scales)

    family = {"A": gap(0.3, 0.1, 0.5, 0.001), "B": gap(-0.3, -0.5, -0.1, 0.04), "C": gap(np.nan, -np.inf, np.inf, 1.0)}
    family = Family(family)
    assert "corruption costs 1 of 2 configurations more and 0 less (Holm-corrected)" in gaps.matched_claim(family)
    assert gaps.matched_claim(Family({"C": family["C"]})).endswith("can be estimated")


@pytest.mark.parametrize(("p", "text"), [(1e-7, "p < 0.001"), (0.0123, "p = 0.012"), (0.4567, "p = 0.46")])
def test_p_values_are_never_zero(p, text):
    assert p_text(p) == text


def test_shares_are_said_largest_first_with_their_intervals():
    shares = pd.DataFrame(
        {
            "component": ["mix", "seed"],
            "share": [0.2, 0.8],
            "low": [0.1, 0.5],
            "high": [0.4, 0.9],
            "level": 0.95,
            "n_runs": 30,
        }
    )
    said = runs.variance_claim(shares, names={"seed": "the seed"})
    assert said.startswith(
        "shares of the variance of accuracy between 30 runs: the seed 80 % (95 % interval 50 to 90), "
    )
    assert said.endswith("mix 20 % (95 % interval 10 to 40)")
    assert "no two of the 30 runs differ" in runs.variance_claim(shares.assign(share=np.nan))


def test_a_ranking_is_said_with_its_interval():
    said = runs.rank_claim(RankStability(0.8, (0.6, 0.95), 0.85, 30, 5, 0.95))
    assert "rank the 5 configurations" in said and "0.80 (95 % interval 0.60 to 0.95; Kendall's W 0.85, n = 30" in said
    assert "do not rank" in runs.rank_claim(RankStability(np.nan, (-1, 1), np.nan, 0, 5, 0.95))


@pytest.mark.parametrize(("low", "p", "shown"), [(0.4, 0.001, True), (-0.1, 0.001, False), (0.4, 0.2, False)])
def test_a_predictor_is_praised_only_with_evidence(low, p, shown):
    table = pd.DataFrame()
    prediction = Prediction(0.75, (low, 0.9), p, 0.6, 0.01, 0.03, 120, 6, "config", 0.95, table, table)
    said = runs.prediction_claim(prediction)
    assert said.startswith("without labels the accuracy drop" if shown else "it is not shown")
    assert "rank correlation 0.75" in said and "(6, by config)" in said
    assert runs.ranks_runs(prediction) == shown
    between = replace(prediction, within=0.04)
    assert not runs.ranks_runs(between)
    assert ("it can be told which config has the larger" in runs.prediction_claim(between)) == shown


def test_a_recommendation_names_the_setting_and_its_evidence():
    two = pd.DataFrame({"item": range(400), "seed": 0, "correct": 1})
    rows = pd.concat([two.assign(size=8), two.assign(size=64)])
    said = runs.recommendation_claim(recommend(rows, {"size": None}, margin=0.02), "{0[size]} images".format)
    assert said.startswith(
        "the cheapest of 2 settings that is shown to have at most 2 points less accuracy than every other"
    )
    assert "is 8 images (difference to 64 images, its strongest rival, +0.0 points, 90 % interval -0." in said
    said = runs.recommendation_claim(recommend(rows, {"size": None}, margin=0.001), "{0[size]} images".format)
    assert said.startswith("none of 2 settings is shown to have at most 0.1 points less accuracy")
    assert "n = 400 scored items, 1 run per setting" in said


def test_a_family_is_said_with_its_labels_and_adjusted_p_values():
    tests = {
        ("plain", "w4a8-awq"): difference(0.02, 0.01, 0.03, 0.01),
        ("weight:8", "w8a8-minmax"): difference(0, -1, 1),
    }
    family = Family(tests, ("twin", "config"))
    first, second = difference_claims(family, "FP32", "score", where="on {twin}, ")
    assert (
        first.startswith("on plain, W4A8 AWQ has 2.0 points more score than FP32 (") and "adjusted p = 0.020" in first
    )
    assert second.startswith("on weight:8, the score of W8A8 min-max and FP32 cannot be told apart (")
    assert difference_claims(family, "FP32", "score", where="on {twin}, ", keys=family.settled()) == [first]
    with pytest.raises(EdgelibError, match="unknown test"):
        difference_claims(family, "FP32", keys=[("plain", "w3a8-minmax")])


def test_parts_of_a_key_may_have_words_of_their_own():
    family = Family({("vqa", "fp32"): difference(0.02, 0.01, 0.03, 0.01)}, ("task", "config"))
    [said] = difference_claims(
        family, "{task}", "{task}", first="the {task} of {config}", words={"vqa": "VQA accuracy"}
    )
    assert said.startswith("the VQA accuracy of FP32 has 2.0 points more VQA accuracy than VQA accuracy (")


def test_gaps_of_a_family_are_counted():
    wide = Gap("w4a8-minmax", "fp32", 0.5, (0.2, 0.8), 0.001, 100, 100, 100, 0.2, 4, 0.0, 0.95, pd.DataFrame())
    lost = replace(wide, config="w3a8-minmax", effect=np.nan, interval=(-np.inf, np.inf), p=1.0)
    family = Family({"w4a8-minmax": wide, "w3a8-minmax": lost})
    said = gaps.gap_summary(family.named(str.upper))
    assert said.startswith("1 of 1 configurations widens the robustness gap and 0 narrow it") and "W4A8-MINMAX" in said
    assert said.endswith("of 1 more the gap cannot be estimated (at the level of guessing)")
    sure = gaps.gap_summary(Family({"x": replace(lost, unknown="every answer of both is wrong")}))
    assert sure == "no gap can be estimated (every answer of both is wrong)"
    open_ = Family({"a": replace(wide, effect=0.1, interval=(-0.2, 0.3), p=0.5)})
    assert "one such test finds a gap of 0.20 log odds four times in five" in gaps.gap_summary(open_)
    assert gaps.gap_summary(open_).endswith("; no interval reaches beyond 0.30")
    blind = Family({"a": replace(wide, effect=0.1, interval=(-np.inf, np.inf), p=1.0, mde=np.nan)})
    assert "nan" not in gaps.gap_summary(blind)
    assert gaps.gap_summary(Family({"x": lost})).startswith("no gap can be estimated")
    assert gaps.twin_name("weight:8|w4a8-minmax") == "W4A8 min-max on weight:8"


def test_the_largest_share_but_that_of_the_images_is_named():
    table = pd.DataFrame({"component": ["mix", "images"], "share": [0.3, 0.7], "low": 0.1, "high": 0.9, "level": 0.95})
    said = runs.largest_share_claim(table)
    assert "is that of the mix, 30 % (95 % interval 10 to 90, not corrected" in said
    assert runs.largest_share_claim(table.assign(share=np.nan)) == "its runs do not differ in feature drift"
    spread = runs.spread_claim(pd.Series([0.8, 0.95]), "W4A8")
    assert spread == "calibration sets matter most for W4A8: its 2 runs reach 80.0 to 95.0 %"
    assert runs.setting_name({"size": 8, "config": "fp32"}) == "8 images with FP32"


def recovery(passed: bool):
    return Recovery(Equivalence(-0.001, (-0.004, 0.002), 0.01, 0.001, 0.001, 300), 0.01 if passed else 0.4, 0.05)


def test_the_cheapest_cache_is_one_that_passed_on_every_twin():
    bytes_of = pd.Series({"exact": 64, "e4m3": 32, "int4": 16})
    tests = {("plain", "e4m3"): True, ("key:8", "e4m3"): True, ("plain", "int4"): True, ("key:8", "int4"): False}
    recovered = {key: recovery(passed) for key, passed in tests.items()}
    labels = {"e4m3": "FP8", "int4": "INT4"}
    said = caches.cheapest_claim(recovered, bytes_of, "exact", labels)
    assert said.endswith("32 of 64 bytes per token (predicted) is the least: FP8")
    nothing = {key: recovery(False) for key in tests}
    assert caches.cheapest_claim(nothing, bytes_of, "exact", labels).startswith("no cache of the list")


def test_the_largest_loss_is_found():
    def cells(lost):
        return {(): np.ones(40), ("keys",): np.arange(40) >= 40 * lost, ("values",): np.ones(40)} | {
            ("keys", "values"): np.arange(40) >= 40 * lost
        }

    found = {("plain", "part"): attribute(cells(0.1), ["keys", "values"], n_boot=100)}
    found["key:8", "part"] = attribute(cells(0.5), ["keys", "values"], n_boot=100)
    said = caches.largest_loss_claim(found)
    assert said.startswith("the largest loss of the ladder is on key:8, in the experiment on part: of 50.0 points of")


ANSWERS = pd.DataFrame(
    {
        "config": ["bf16", "bf16", "w4", "w4"],
        "task": "vqa",
        "item": ["a", "b"] * 2,
        "margin": [0.1, 3.0, 0.2, 2.0],
        "correct": [0.0, 0.0, 1.0, 0.0],
    }
)


def test_changed_answers_are_said_with_the_margin_of_the_reference():
    said = answers.margin_claim(ANSWERS, "bf16")
    assert "0.10 nats on the 1 answers that some configuration changes and of 1.55 on all 2" in said
    assert answers.margin_claim(ANSWERS.assign(correct=0.0), "bf16").startswith("No configuration changes")


def test_conditions_and_open_sub_tasks_are_said():
    rows = pd.DataFrame({"corruption": ["clean", "fog", "fog"], "severity": [0, 3, 3], "score": [1.0, 0.5, 0.25]})
    assert answers.condition_claim(rows).endswith("severity: clean: 100.0 %, fog 3: 37.5 %.")
    said = answers.nothing_settled_claim(Family({"a": difference(0, -1, 1), "b": difference(0.1, -1, 1)}))
    assert "over 2 tests" in said and "a difference of 3 points of MME" in said


def test_refusals_and_sizes_are_said_with_names():
    legal = pd.DataFrame(
        {"device": ["a", "a", "b"], "config": ["x", "y", "x"], "legal": [False, True, False], "reason": "no units"}
    )
    assert devices.refusal_claims(legal, {"a": "Orin", "b": "Nano"}, {"x": "FP8", "y": "INT8"}) == [
        "no units: FP8 on Orin, Nano"
    ]
    said = devices.size_claim(pd.Series({"x": 4 * 2**20, "y": 2**20}), "clip", {"x": "FP32", "y": "W4"})
    assert said == "clip takes 4.0 MiB in FP32 and 1.0 MiB in W4, 4.00 times less"


def test_bullets_are_sentences():
    assert bullets(["one is more", "b is less"]) == "- One is more.\n- B is less."


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.01, 0.02), "95 % interval 1.0 to 2.0"),
        ((-np.inf, np.inf), "no interval: too few images to say"),
        ((-np.inf, 0.02), "95 % interval below 2.0"),
        ((0.01, np.inf), "95 % interval above 1.0"),
    ],
    ids=["both", "none", "upper", "lower"],
)
def test_an_interval_has_no_infinite_ends(ends, text):
    assert interval_text(ends, 0.95, 100) == text
