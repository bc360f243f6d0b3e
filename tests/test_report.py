"""Figures, tables and sentences say what their numbers say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from edgelib.measure.statistics import PairedDifference
from edgelib.report import figures
from edgelib.report.claims import difference_claim, p_text
from edgelib.report.tables import myst_table, with_interval


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
    assert ("would have been found" in said) == (test.interval[0] <= 0 <= test.interval[1])


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
