"""Sentences and figures of choices: they say what a choice and its intervals say, and no more."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from edgelib.decide.allocation import Allocation
from edgelib.errors import EdgelibError
from edgelib.report.claims.choices import allocation_claim, costs_claim
from edgelib.report.figures.choices import bits_by_depth, frontier, frontier_panels
from edgelib.stats.family import Family
from edgelib.stats.paired import PairedDifference

TABLE = pd.DataFrame(
    dict(accuracy=[0.90, 0.895, 0.80], bytes=[577, 225, 166], latency_ms=[50.0, 20.0, 18.0]),
    index=["fp32", "w8a8-minmax", "w4a8-minmax"],
)


def test_a_mix_is_called_better_only_where_a_test_says_so():
    found = Allocation(pd.Series(["w4", "w8"]), loss=1.0, least_loss=0.9, bytes=2**20, budget=2**20)
    better = PairedDifference(0.03, (0.01, 0.05), 0.001, 300, 0.02, 300, 0.95)
    open_ = PairedDifference(0.01, (-0.01, 0.03), 0.4, 300, 0.02, 300, 0.95)
    worse = PairedDifference(-0.03, (-0.05, -0.01), 0.001, 300, 0.02, 300, 0.95)
    said = {
        k: allocation_claim(found, "W4A8", 2.0, Family({"accuracy": t}, ("quantity",)))
        for k, t in {"beats W4A8": better, "is not shown to beat W4A8": open_, "is beaten by W4A8": worse}.items()
    }
    assert all(verdict in text and "50 % of it" in text for verdict, text in said.items())
    one_of_two = replace(better, p=0.03)
    both = allocation_claim(found, "W4A8", 2.0, Family({"clean": one_of_two, "corrupted": open_}, ("quantity",)))
    assert "is not shown to beat W4A8" in both and "Holm-adjusted p = 0.060" in both


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


FRONT = TABLE.assign(accuracy_low=TABLE["accuracy"] - 0.02, accuracy_high=TABLE["accuracy"] + 0.02)


def test_the_line_of_the_frontier_is_the_best_of_what_costs_no_more(ax):
    more = FRONT.iloc[[2]].rename(index={"w4a8-minmax": "w3a8-minmax"}).assign(bytes=500)
    frontier(pd.concat([FRONT, more]), ax, "bytes", "accuracy")
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["W4A8 min-max", "W8A8 min-max", "W3A8 min-max", "FP32"] and ax.get_ylim() == (3.5, -0.5)
    line = ax.lines[-1]
    assert line.get_xdata()[::2].tolist() == pytest.approx([80, 89.5, 89.5, 90])
    assert line.get_ydata().tolist() == [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3.5]
    open_ = [drawn.lines[0].get_markerfacecolor() == "none" for drawn in ax.containers]
    assert open_ == [False, False, True, False]
    with pytest.raises(EdgelibError, match="NaN for 'fp32'"):
        frontier(FRONT.assign(bytes=[np.nan, 1, 2]), ax, "bytes", "accuracy")


def test_the_line_passes_through_the_best_of_equal_cost(ax):
    table = pd.DataFrame(dict(bytes=[100.0, 100, 101], accuracy=[0.90, 0.95, 0.93]), index=list("abc"))
    table = table.assign(accuracy_low=table["accuracy"] - 0.02, accuracy_high=table["accuracy"] + 0.02)
    frontier(table, ax, "bytes", "accuracy")
    assert set(ax.lines[-1].get_xdata()) == {95.0}


def test_both_panels_of_the_frontier_name_a_configuration_with_its_size():
    table = FRONT.assign(corrupted=0.5, corrupted_low=0.4, corrupted_high=0.6, bytes=FRONT["bytes"] * 2**20)
    figure = frontier_panels(table)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "W4A8 min-max, 166\N{NO-BREAK SPACE}MiB",
        "W8A8 min-max, 225\N{NO-BREAK SPACE}MiB",
        "FP32, 577\N{NO-BREAK SPACE}MiB",
    ]
    plt.close(figure)


def test_bits_by_depth_takes_its_rows(ax):
    assert bits_by_depth(pd.DataFrame(dict(format=["w4", "w8", "w4"])), ax, ["w4", "w8"]) is ax
    ax.figure.canvas.draw()


def test_a_page_says_whether_accuracies_and_costs_are_of_one_model():
    assert costs_claim("my-clip", "my-clip") == "One model: accuracies, memory and time are all those of my-clip"
    said = costs_claim("scenes-clip", "clip-vit-base-patch32")
    assert said.startswith("Not one model: accuracies are those of scenes-clip, memory and time those of clip-vit")
