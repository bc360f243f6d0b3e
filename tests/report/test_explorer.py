"""Charts that readers explore: rows inside the page, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.report import explorer
from edgelib.report.figures import palette

ROWS = pd.DataFrame(dict(x=[1.0, 2], y=[3.0, 4], config=["a</script>", "b"], device=["d", "d"], bits=["16", "4"]))
LOOKS = [replace(palette.look("fp32"), label="a</script>"), replace(palette.look("w4a8-minmax"), label="b")]
AXES = dict(looks=LOOKS, x="x", y="y", colour="config", choose="device", group="bits", tooltip=["config", "x"])


def test_an_explorer_carries_its_rows_and_loads_nothing_from_elsewhere():
    html = explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)
    assert html.count("</script>") == 1 and not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    spec = json.loads(re.search(r'\[\["chart-a", (\{.*\})\]\]', html)[1])
    assert list(spec["datasets"].values())[0][0]["config"] == "a</script>"
    assert html == explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)


@pytest.mark.parametrize(
    ("rows", "name", "words"),
    [
        (ROWS.drop(columns="y"), "c", "no column 'y'"),
        (ROWS.assign(y=np.nan), "c", "NaN"),
        (ROWS, 'x" onload=', "is an id"),
        (ROWS.assign(config="c"), "c", "no look for config 'c'"),
    ],
    ids=["column", "NaN", "name", "look"],
)
def test_a_bad_chart_is_named(rows, name, words):
    with pytest.raises(EdgelibError, match=words):
        explorer.scatter(rows, name, "label", **AXES)


def spec_of(html: str) -> dict:
    return json.loads(re.search(r'\[\["[\w-]+", (\{.*\})\]\]', html)[1])


def test_configurations_look_as_they_do_in_the_figures():
    encoding = spec_of(explorer.scatter(ROWS, "chart-a", "A chart.", **AXES))["layer"][-1]["encoding"]
    assert encoding["color"]["scale"] == {"domain": ["a</script>", "b"], "range": [palette.BLACK, palette.VERMILLION]}
    assert encoding["shape"]["scale"]["range"] == ["circle", "M0,-1L-1,1L1,1L0,-1Z"]


def test_a_long_legend_is_parted_and_named_by_its_groups():
    spec = spec_of(explorer.scatter(ROWS, "chart-a", "A chart.", **AXES))
    assert spec["usermeta"]["legend"] == [
        ["16", [["a</script>", palette.BLACK, "circle"]]],
        ["4", [["b", palette.VERMILLION, "M0,-1L-1,1L1,1L0,-1Z"]]],
    ]
    assert all(layer["encoding"]["color"]["legend"] is None for layer in spec["layer"])
    assert {"name": "kept", "value": None} in spec["params"]


def test_every_marker_of_the_book_has_an_outline():
    markers = {look.marker for look in palette.looks(["fp32", "fp16", "bf16", "w3a8-minmax", *"abcd"]).values()}
    for marker in markers | {palette.series(k).marker for k in range(8)}:
        assert re.fullmatch(r"circle|M(-?[\d.]+,-?[\d.]+L?)+Z", explorer.marker_path(marker))


def test_intervals_are_lines_on_the_scales_of_the_points():
    rows = ROWS.assign(low=[0.5, 1], high=[2.0, 3], bottom=[2.0, 3], top=[4.0, 5])
    spec = spec_of(explorer.scatter(rows, "c", "A chart.", **AXES, x_ends=("low", "high"), y_ends=("bottom", "top")))
    across, up, points = spec["layer"]
    assert across["encoding"]["x"]["field"] == "low" and across["encoding"]["x2"]["field"] == "high"
    assert up["encoding"]["y"]["field"] == "bottom" and up["encoding"]["y2"]["field"] == "top"
    for side, bar in (("x", across), ("y", up)):
        assert bar["encoding"][side]["scale"] == points["encoding"][side]["scale"]
    assert {layer["encoding"]["color"]["scale"]["domain"][0] for layer in spec["layer"]} == {"a</script>"}


def test_a_value_is_chosen_from_those_there_are():
    spec = spec_of(explorer.scatter(ROWS.assign(device=["d", "e"]), "c", "A chart.", **AXES))
    [menu] = [param for param in spec["params"] if param["name"] == "chosen"]
    assert menu["bind"]["options"] == ["d", "e"] and menu["value"] == "d"
    assert "chosen" in str(spec["transform"])
