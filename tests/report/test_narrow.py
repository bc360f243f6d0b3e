"""A phone gets a drawing of its own: two columns at most, letters of nine pixels, everything that the wide one has."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from helpers import extension

from edgelib.report.figures import base, calibration
from edgelib.report.figures.narrow import LEAST, WIDTH, narrow
from edgelib.report.notebook import NARROW, STYLE, drawn

EFFECTS = pd.DataFrame({"effect": 0.1, "low": 0.0, "high": 0.2}, index=range(2)).assign(
    config=["w8a8-minmax", "w4a16-awq-g128"], name=["short", "a name that is too long for one line of a phone"]
)


@pytest.fixture(autouse=True)
def chapter_style():
    with plt.style.context(STYLE, after_reset=True):
        yield
    plt.close("all")


def letters(svg: str) -> list[float]:
    """The sizes of all texts of a drawing, in points."""
    return [100 * float(size) for size in re.findall(r"scale\(([\d.]+) -\1\)", svg)]


def test_panels_on_one_scale_go_into_two_columns():
    figure = narrow(base.panels(dict.fromkeys("abc", EFFECTS), base.forest, label="Points", y_label="Effect"))
    places = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in figure.axes]
    assert places == [(0, 0), (0, 1), (1, 0)] and figure.get_figwidth() == WIDTH
    assert [ax.get_ylabel() for ax in figure.axes] == ["Effect", "", "Effect"]
    named = [ax.yaxis.get_tick_params()["labelleft"] for ax in figure.axes]
    assert named == [True, False, True]


def test_long_names_break_and_the_figure_grows():
    ax = base.forest(EFFECTS, base.long_axis(2))
    before = ax.figure.get_figheight()
    narrow(ax.figure)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[0] == "short" and names[1].split() == EFFECTS["name"][1].split() and "\n" in names[1]
    assert ax.figure.get_figheight() >= before


def test_a_legend_keeps_its_entries():
    shares = pd.DataFrame({"component": "mix", "share": [0.2, 0.4], "low": 0.1, "high": 0.5})
    shares["config"] = EFFECTS["config"].to_list()
    ax = calibration.variance_dots(shares, plt.subplots()[1])
    ax.legend(bbox_to_anchor=(1, 0.5))
    figure = narrow(ax.figure)
    assert ax.get_legend() is None and len(figure.legends) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["W8A8 min-max", "W4A16 AWQ, groups of 128"]


def test_a_figure_is_drawn_twice_and_pages_find_both():
    both = drawn(base.forest(EFFECTS, base.long_axis(2)).figure)
    wide, small = both["image/svg+xml"], both[NARROW]
    assert min(letters(small)) >= LEAST - 0.01 and len(letters(small)) >= len(letters(wide))
    page = extension("narrow_figures")
    found = page.drawings({"cells": [{"outputs": [{"data": {k: v.splitlines(True) for k, v in both.items()}}]}]})
    [(name, kept)] = found.items()
    image = f'<img alt="x" src="../_images/{name}.svg" width="3">'
    assert page.NARROW == NARROW and kept == small and name == page.name_of(wide)
    shown = page.pictures(f"<p>{image}</p>", found)
    assert image in shown and f'srcset="../_images/{name}-narrow.svg"' in shown
    assert page.pictures(image, {}) == image


def test_a_picture_stands_once_a_theme_from_one_file():
    page, name = extension("dark_pictures"), "0" * 64
    picture = (
        f'<picture><source srcset="i/{name}-narrow.svg"><img alt="x" class="photo" src="i/{name}.svg" /></picture>'
    )
    other = f'<picture><source srcset="i/{name}-narrow.svg"><img alt="y" src="i/{name}.svg" /></picture>'
    shown, names = page.both_themes(f"<p>{other}{picture}{other}</p>")
    light, dark = picture.replace("photo", "photo only-light"), picture.replace("photo", "photo only-dark")
    assert shown == f"<p>{other}{light}{dark.replace('.svg', '.svg#dark')}{other}</p>"
    assert names == {name, f"{name}-narrow"}
    drawing = page.with_dark_ink('<?xml?><svg width="3"><path/></svg>')
    assert drawing.count('id="dark"') == 1 and "svg:target{fill:" in drawing and page.with_dark_ink(drawing) == drawing
