"""Figures, tables and sentences say what their numbers say."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.report.claims.base import (
    difference_claim,
    difference_summary,
    matched_claim,
    p_text,
    prediction_claim,
    rank_claim,
    recommendation_claim,
    variance_claim,
)
from edgelib.report.figures import base as figures
from edgelib.report.figures import calibration
from edgelib.report.notebook import STYLE
from edgelib.report.tables import myst_table, with_interval
from edgelib.stats.gap import Gap
from edgelib.stats.paired import PairedDifference
from edgelib.stats.predictor import Prediction
from edgelib.stats.ranks import RankStability
from edgelib.stats.recommend import recommend


@pytest.fixture(autouse=True)
def chapter_style():
    """Figures look as they do in a chapter, whatever style another test left behind."""
    with plt.style.context(STYLE, after_reset=True):
        yield


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


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
    said = difference_summary(tests)
    assert "the clearest difference, against its standard error, is that of B on VQA, +1.0 points" in said


def test_gaps_are_counted_against_a_reference_of_equal_clean_accuracy():
    def gap(effect, low, high, p):
        scales = pd.DataFrame([dict(scale="matched logit", effect=effect, low=low, high=high, p=p)]).set_index("scale")
        return Gap("q", "r", 1.0, (0.5, 1.5), 0.001, 100, 100, 0.2, 4, 0.0, 0.95, scales)

    gaps = {"A": gap(0.3, 0.1, 0.5, 0.001), "B": gap(-0.3, -0.5, -0.1, 0.04), "C": gap(np.nan, -np.inf, np.inf, 1.0)}
    assert "corruption costs 1 of 3 configurations more and 0 less (Holm-corrected)" in matched_claim(gaps)


@pytest.mark.parametrize(("p", "text"), [(1e-7, "p < 0.001"), (0.0123, "p = 0.012"), (0.4567, "p = 0.46")])
def test_p_values_are_never_zero(p, text):
    assert p_text(p) == text


def test_numbers_keep_their_intervals():
    assert with_interval(0.931, 0.92, 0.941) == "93.1 (92.0 to 94.1)" and with_interval(np.nan, 0, 1) == "not defined"


def test_tables_escape_what_data_sets_bring():
    text = myst_table(
        pd.DataFrame({"name": ["<script>|*x*", "a"], "n": [1, 2]}), "Cap", "tab-x", {"n": "{:.0f}".format}
    )
    assert "<script>" not in text and "\\|" in text and "| 2 |" in text and ":name: tab-x" in text
    assert "| :--- | ---: |" in text


def test_every_configuration_of_a_figure_looks_different():
    styles = figures.looks(["fp32", "w8a8-minmax", "w4a8-minmax-g32", "w4a8-minmax-g64", "other"])
    assert len({(s.colour, s.marker) for s in styles.values()}) == 5
    assert styles["other"].label == "other" and "groups of 32" in styles["w4a8-minmax-g32"].label


def test_lines_pass_through_their_rows(ax):
    table = pd.DataFrame(
        {"config": "fp32", "severity": [0, 1], "value": [0.9, 0.5], "low": [0.8, 0.4], "high": [0.95, 0.6]}
    )
    figures.accuracy_by_severity(table, ax, chance=0.1)
    assert list(ax.lines[0].get_ydata()) == [90, 50] and ax.get_ylim() == (0, 100)
    assert "guessing" in [t.get_text() for t in ax.texts]


def test_a_heat_map_writes_every_number(ax):
    figures.heat_map(pd.DataFrame([[10.0, 20.4], [90.0, 55.0]], ["fog", "jpeg"], ["a", "b"]), ax, "Accuracy (%)")
    assert [t.get_text() for t in ax.texts] == ["10", "20", "90", "55"]


def test_a_forest_keeps_order_and_effects(ax):
    table = pd.DataFrame(
        {"config": ["w8a8-minmax", "w4a8-minmax"], "effect": [0.1, -0.2], "low": [0, -0.3], "high": [0.2, -0.1]}
    )
    figures.forest(table, ax, "Gap")
    assert [t.get_text() for t in ax.get_yticklabels()][0].startswith("W8A8") and ax.get_ylim() == (1.5, -0.5)


def test_dose_response_survives_undefined_effects(ax):
    table = pd.DataFrame(
        {"config": "w4a8-minmax", "dose": [1, 8], "effect": [0.1, np.nan], "low": [0, -np.inf], "high": [0.2, np.inf]}
    )
    figures.dose_response(table, ax, "Gap")
    assert len(ax.get_xticks()) == 2


def test_an_image_grid_has_a_cell_per_image():
    figure = figures.image_grid(np.zeros((2, 3, 4, 4, 3), np.uint8), ["r1", "r2"], ["a", "b", "c"])
    assert len(figure.axes) == 6
    plt.close(figure)


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
    said = variance_claim(shares, names={"seed": "the seed"})
    assert said.startswith(
        "shares of the variance of accuracy between 30 runs: the seed 80 % (95 % interval 50 to 90), "
    )
    assert said.endswith("mix 20 % (95 % interval 10 to 40)")
    assert "no two of the 30 runs differ" in variance_claim(shares.assign(share=np.nan))


def test_a_ranking_is_said_with_its_interval():
    said = rank_claim(RankStability(0.8, (0.6, 0.95), 0.85, 30, 5, 0.95))
    assert "rank the 5 configurations" in said and "0.80 (95 % interval 0.60 to 0.95; Kendall's W 0.85, n = 30" in said
    assert "do not rank" in rank_claim(RankStability(np.nan, (-1, 1), np.nan, 0, 5, 0.95))


@pytest.mark.parametrize(("low", "p", "shown"), [(0.4, 0.001, True), (-0.1, 0.001, False), (0.4, 0.2, False)])
def test_a_predictor_is_praised_only_with_evidence(low, p, shown):
    table = pd.DataFrame()
    prediction = Prediction(0.75, (low, 0.9), p, 0.6, 0.01, 0.03, 120, 6, "config", 0.95, table, table)
    said = prediction_claim(prediction)
    assert said.startswith("without labels the accuracy drop" if shown else "it is not shown")
    assert "rank correlation 0.75" in said and "(6, by config)" in said


def test_a_recommendation_names_the_setting_and_its_evidence():
    two = pd.DataFrame({"item": range(400), "seed": 0, "correct": 1})
    rows = pd.concat([two.assign(size=8), two.assign(size=64)])
    said = recommendation_claim(recommend(rows, {"size": None}, margin=0.02), "{0[size]} images".format)
    assert said.startswith(
        "the cheapest of 2 settings that is shown to have at most 2 points less accuracy than every other"
    )
    assert "is 8 images (difference to 64 images, its strongest rival, +0.0 points, 90 % interval -0." in said
    said = recommendation_claim(recommend(rows, {"size": None}, margin=0.001), "{0[size]} images".format)
    assert said.startswith("none of 2 settings is shown to have at most 0.1 points less accuracy")
    assert "n = 400 scored items, 1 run per setting" in said


def test_variance_dots_keep_components_and_unit(ax):
    shares = pd.DataFrame(
        {"component": ["mix", "seed", "rest"], "share": [0.2, 0.7, 0.1], "low": [0.1, 0.5, 0], "high": [0.4, 0.9, 0.2]}
    )
    calibration.variance_dots(shares, ax, names={"mix": "calibration mix"})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["calibration mix", "seed", "rest"]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([20, 70, 10])
    assert ax.get_xlim() == (0, 100) and "(%)" in ax.get_xlabel() and ax.get_legend() is None


def test_variance_dots_of_two_configurations_leave_out_undefined_shares(ax):
    shares = pd.DataFrame(
        {
            "component": ["mix", "seed"] * 2,
            "share": [0.2, 0.8, np.nan, np.nan],
            "low": 0.1,
            "high": 0.9,
            "config": ["w8a8-minmax"] * 2 + ["w4a8-minmax"] * 2,
        }
    )
    calibration.variance_dots(shares, ax)
    assert len(ax.get_legend().get_texts()) == 2 and len(ax.lines[0].get_xdata()) == 2


def test_accuracy_by_size_has_a_panel_per_mix():
    runs = pd.DataFrame(
        [
            {"config": "w8a8-minmax", "mix": mix, "size": size, "seed": seed, "accuracy": 0.8 + 0.02 * seed}
            for mix in ("balanced", "dark")
            for size in (8, 64)
            for seed in range(3)
        ]
    )
    figure, axes = plt.subplots(1, 2, sharey=True)
    calibration.accuracy_by_size(runs, axes, reference=0.9)
    assert [ax.get_title(loc="left") for ax in axes] == ["balanced", "dark"]
    assert len(axes[0].lines[0].get_xdata()) == 6 and list(axes[0].lines[1].get_ydata()) == pytest.approx([82, 82])
    assert [t.get_text() for t in axes[1].get_xticklabels()] == ["8", "64"]
    assert axes[0].get_ylabel() == "Accuracy (%)" and axes[1].get_xlabel() == "Calibration images"
    assert "unquantized" in [t.get_text() for t in axes[0].texts]
    with pytest.raises(EdgelibError, match="1 axes for 2 mixes"):
        calibration.accuracy_by_size(runs, axes[:1])
    plt.close(figure)


def test_layers_stand_at_their_depth(ax):
    layers = pd.DataFrame({"tower": ["vision"] * 3 + ["text"], "depth": [0, 0, 1, 0], "value": [0.2, 0.4, 0.5, 0.9]})
    calibration.by_depth(layers, ax, "Migration strength alpha")
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.3, 0.5]) and list(ax.get_xticks()) == [0, 1]
    assert {t.get_text() for t in ax.texts} == {"vision", "text"} and ax.get_ylabel() == "Migration strength alpha"


def test_predictions_stand_beside_what_was_observed(ax):
    runs = pd.DataFrame({"group": ["a", "a", "b"], "observed": [0.1, 0.2, 0.3], "predicted": [0.12, 0.18, 0.25]})
    calibration.predicted_and_observed(runs, ax)
    assert list(ax.lines[0].get_xdata()) == pytest.approx([12, 18]) and list(ax.lines[1].get_ydata()) == pytest.approx(
        [30]
    )
    assert ax.lines[0].get_marker() != ax.lines[1].get_marker()
    assert (
        ax.get_xlabel() == "Predicted accuracy drop (points)" and ax.get_ylabel() == "Observed accuracy drop (points)"
    )
