"""Figures show what their rows hold, and every configuration looks the same in all of them."""

from __future__ import annotations

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT
from matplotlib.colors import to_hex

from edgelib.data.datasets import dataset
from edgelib.report.figures import base as figures
from edgelib.report.figures import calibration, palette, robustness, vlm, world
from edgelib.report.notebook import STYLE


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


def test_colours_stand_in_the_palette_alone():
    import re

    named = re.compile(r"#[0-9A-Fa-f]{6}")
    sources = [*(ROOT / "edgelib").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    assert [path.name for path in sources if named.search(path.read_text(encoding="utf-8"))] == ["palette.py"]


def test_the_style_file_takes_its_colours_from_the_palette():
    cycle = [to_hex(entry["color"]).upper() for entry in plt.rcParams["axes.prop_cycle"]]
    assert cycle == list(palette.CYCLE)
    assert to_hex(plt.rcParams["grid.color"]).upper() == palette.LIGHT


def test_things_that_are_no_configurations_look_different_too():
    assert len({(palette.series(k).colour, palette.series(k).marker) for k in range(64)}) == 64


def test_no_two_configurations_with_looks_of_their_own_look_alike():
    fixed = [*palette._CONFIGS.values(), *palette._SPARE]
    assert len(set(fixed)) == len(fixed)


def test_a_configuration_looks_the_same_in_every_panel():
    rows = pd.DataFrame({"config": ["mine", "yours"], "task": "OCR", "n": 20, "effect": 1.0, "low": 0, "high": 2})
    figure = vlm.sub_task_panels(rows)
    first, second = (ax.lines[0].get_color() for ax in figure.axes[:2])
    assert [first, second] == [style.colour for style in palette.looks(["mine", "yours"]).values()]
    plt.close(figure)


def test_labels_are_those_of_the_schemes():
    assert palette.labels(["w8a8-minmax", "my-model"]) == {"w8a8-minmax": "W8A8 min-max", "my-model": "my-model"}
    assert palette.readable("jpeg_compression") == "JPEG compression"


def test_every_configuration_of_a_figure_looks_different():
    styles = palette.looks(["fp32", "w8a8-minmax", "w4a8-minmax-g32", "w4a8-minmax-g64", "other"])
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


def test_an_image_grid_has_a_cell_per_image():
    figure = figures.image_grid(np.zeros((2, 3, 4, 4, 3), np.uint8), ["r1", "r2"], ["a", "b", "c"])
    assert len(figure.axes) == 6
    plt.close(figure)


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
    assert len(ax.get_legend_handles_labels()[1]) == 2 and len(ax.lines[0].get_xdata()) == 2


def test_sizes_are_differences_with_a_place_each():
    means = pd.DataFrame(
        [("w4a8-awq", mix, size, -0.1) for size in (8, 64) for mix in ("balanced", "dark")],
        columns=["config", "mix", "size", "effect"],
    ).assign(low=-0.2, high=0.0)
    runs = pd.concat([means.assign(difference=-0.12), means.assign(difference=-0.08)])
    figure = calibration.size_panels(runs, means)
    dots, marks = figure.axes[0].lines[0], figure.axes[0].lines[1]
    assert sorted(dots.get_ydata()) == pytest.approx([-12, -12, -8, -8])
    assert list(marks.get_ydata()) == pytest.approx([-10, -10])
    drawn = [line for line in figure.axes[0].lines if line.get_marker() in "os" and len(line.get_xdata()) == 2]
    at = [x for line in drawn for x in line.get_xdata()]
    assert len(at) == len(set(at)) == 4  # no two means share a place
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["8 images", "64 images"]
    plt.close("all")


def test_layers_stand_at_their_depth(ax):
    layers = pd.DataFrame({"tower": ["vision"] * 3 + ["text"], "depth": [0, 0, 1, 0], "value": [0.2, 0.4, 0.5, 0.9]})
    calibration.by_depth(layers, ax, "Migration strength alpha")
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.3, 0.5]) and list(ax.get_xticks()) == [0, 1]
    assert ax.get_legend_handles_labels()[1] == ["vision", "text"] and ax.get_ylabel() == "Migration strength alpha"


def test_predictions_stand_beside_what_was_observed(ax):
    runs = pd.DataFrame({"group": ["a", "a", "b"], "observed": [0.1, 0.2, 0.3], "predicted": [0.12, 0.18, 0.25]})
    calibration.predicted_and_observed(runs, ax)
    assert list(ax.lines[0].get_xdata()) == pytest.approx([12, 18]) and list(ax.lines[1].get_ydata()) == pytest.approx(
        [30]
    )
    assert ax.lines[0].get_color() != ax.lines[1].get_color()
    assert (
        ax.get_xlabel() == "Predicted accuracy drop (points)" and ax.get_ylabel() == "Observed accuracy drop (points)"
    )


def test_runs_of_a_pair_have_the_colour_of_the_configuration_and_a_marker_for_the_twin(ax):
    pairs = [f"{twin}, {config}" for twin in ("plain", "weight:8") for config in ("w8a8-minmax", "w4a16-awq-g128")]
    calibration.predicted_and_observed(pd.DataFrame({"group": pairs, "observed": 0.1, "predicted": 0.2}), ax)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["W8A8 min-max", "W4A16 AWQ, groups of 128", "plain", "weight:8"]
    colours, markers = zip(*((line.get_color(), line.get_marker()) for line in ax.lines[:4]), strict=True)
    assert len(set(colours)) == 2 and len(set(markers)) == 2 and len(set(zip(colours, markers, strict=True))) == 4


EFFECTS = pd.DataFrame(
    {"twin": ["a", "a", "b", "b"], "config": ["w8a8-minmax", "w4a8-minmax"] * 2, "effect": 0.1, "low": 0, "high": 0.2}
)


def test_panels_have_one_scale_and_one_label():
    figure = figures.panels(EFFECTS.groupby("twin", sort=False), figures.forest, label="Points", scale=100)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b"]
    assert figure.get_supxlabel() == "Points" and all(ax.get_xlabel() == "" for ax in figure.axes)
    assert figure.axes[0].lines[0].get_xdata() == pytest.approx([10])
    plt.close(figure)


def test_panels_wrap_into_rows_and_say_when_there_is_nothing():
    groups = {name: EFFECTS for name in "abc"}
    figure = figures.panels(groups, figures.forest, columns=2)
    assert [ax.axison for ax in figure.axes] == [True, True, True, False]
    empty = figures.panels({}, figures.forest)
    assert empty.get_supxlabel().startswith("nothing to show") and not empty.axes[0].axison
    plt.close("all")


def test_the_legend_of_panels_stands_once_above():
    table = EFFECTS.assign(component="mix", share=0.2, low=0.1, high=0.3)
    figure = figures.panels(table.groupby("twin"), calibration.variance_dots, legend=True)
    assert len(figure.legends[0].get_texts()) == 2
    plt.close(figure)


def test_a_long_axis_grows_with_its_lines():
    few, many = (figures.long_axis(lines).figure.get_size_inches()[1] for lines in (2, 20))
    assert many > few + 5
    plt.close("all")


GAPS = pd.DataFrame(
    [
        {"config": "w4a8-minmax", "scale": scale, "kind": kind, "dose": dose, "effect": 0.1, "low": 0, "high": 0.2}
        for scale in robustness.SCALES
        for kind, dose in (("plain", 1.0), ("weight", 8.0))
    ]
)


def test_the_gap_has_a_panel_per_scale_and_kind():
    figure = robustness.gap_scales(GAPS)
    named = [f"{title} ({unit})" for title, unit in robustness.SCALES.values()]
    assert [ax.get_title(loc="left") for ax in figure.axes] == named
    log_odds, points = figure.axes[0], figure.axes[2]
    assert log_odds.lines[0].get_xdata() == pytest.approx([0.1]) and points.lines[0].get_xdata() == pytest.approx([10])
    plt.close("all")


def test_doses_have_a_panel_per_configuration_and_a_line_per_kind():
    own = GAPS[GAPS.scale == "logit"]
    lost = own.iloc[:1].assign(kind="activation", dose=512.0, effect=np.nan, low=-np.inf, high=np.inf)
    figure = robustness.dose_panels(pd.concat([own, lost]), "Points", 100)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["W4A8 min-max"]
    weights, activations = (line for line in figure.axes[0].lines if line.get_marker() in "os")
    assert list(weights.get_ydata()) == pytest.approx([10, 10])
    assert list(activations.get_ydata()) == pytest.approx([10])  # what cannot be estimated is left out
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["outliers in weights", "outliers in activations"]
    plt.close("all")


def test_doses_of_the_plain_model_alone_make_an_empty_figure():
    plain = GAPS[GAPS.kind == "plain"]
    figure = robustness.dose_panels(plain[plain.scale == "logit"], "Gap")
    assert len(figure.axes) == 1 and not figure.legends
    plt.close(figure)


def test_accuracy_is_a_heat_map_with_clean_images_first():
    cells = pd.DataFrame(
        [
            (c, name, s, a)
            for c in ("fp32", "w4a8-minmax")
            for name, s, a in (("fog", 1, 0.5), ("fog", 3, 0.3), ("clean", 0, 0.9))
        ],
        columns=["config", "corruption", "severity", "accuracy"],
    )
    ax = robustness.accuracy_heat(cells, 0.1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["clean", "fog"]
    assert [t.get_text() for t in ax.texts] == ["90", "90", "40", "40"]
    plt.close(ax.figure)


def test_a_picture_is_shown_clean_and_by_severity():
    image = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    figure = robustness.corrupted_picture(image, ["fog", "contrast"], [1, 5])
    assert [ax.get_title() for ax in figure.axes[:3]] == ["clean", "severity 1", "severity 5"]
    assert figure.axes[0].images[0].get_array().std() == 0 and figure.axes[2].images[0].get_array().std() > 0
    plt.close(figure)


def test_layers_and_sizes_have_panels():
    layers = pd.DataFrame({"twin": ["plain"] * 2 + ["weight:8"] * 2, "tower": "vision", "depth": [0, 1] * 2})
    layers = layers.assign(ratio=[0.1, np.nan, 0.2, 0.3], relative_loss=0.9)
    figure = calibration.layer_panels(layers)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["plain", "weight:8", "", ""]
    assert len(figure.axes[0].lines[0].get_xdata()) == 1
    runs = pd.DataFrame({"config": ["a", "b", "c"], "mix": "dark", "size": 8, "difference": 0.0})
    sizes = calibration.size_panels(runs, runs.assign(effect=0.0, low=0.0, high=0.0))
    assert [ax.axison for ax in sizes.axes] == [True, True, True, False]
    plt.close("all")


def test_the_world_is_shown_by_class_training_and_attribute(ax):
    gallery = world.class_gallery(dataset("scenes", n=12), each=2)
    assert len(gallery.axes) == 20
    logs = pd.DataFrame({"model": ["a", "a", "b"], "scenes_seen": [1000, 2000, 1000], "accuracy": [0.1, 0.5, 0.3]})
    world.training_curves(logs, ax, 0.1)
    assert (
        list(ax.lines[0].get_ydata()) == [10, 50]
        and [t.get_text() for t in ax.get_legend().get_texts()][-1] == "guessing"
    )
    table = pd.DataFrame({"by": ["shape", "bar"], "value": ["disc", "no bar"], "mean": 0.8, "low": 0.7, "high": 0.9})
    bars = world.accuracy_bars(table, figures.long_axis(2))
    assert [patch.get_height() for patch in bars.patches] == [80, 80]
    plt.close("all")


@pytest.mark.parametrize("text", ["\x02\x16\x7f\x1b", "老味道", "😀\ud7ff", "tab\tand\x0bmore\x1c"], ids=ascii)
def test_answers_in_letters_that_the_font_lacks_are_marked(text):
    figure = vlm.question_gallery([np.zeros((4, 4, 3), np.uint8)], [f"is it {text}?"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="svg")
    assert "is it" in figure.axes[0].get_title(loc="left")


def test_questions_are_shown_with_answers_and_disagreements():
    asked = dataset("scenes-vqa", n=4)
    samples = vlm.question_samples({"vqa": asked}, each=2)
    assert len([ax for ax in samples.axes if ax.images]) == 2 and "->" in samples.axes[0].get_title(loc="left")
    items = list(asked.rows["item"][:2])
    answers = pd.DataFrame({"item": items * 2, "config": ["bf16"] * 2 + ["w4"] * 2, "prediction": ["a", "b", "a", "c"]})
    shown = [ax for ax in vlm.disagreements(answers, asked).axes if ax.images]
    assert len(shown) == 1 and "bf16" in shown[0].get_title(loc="left")
    plt.close("all")
