"""Charts that readers explore: rows inside the page, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.report import explorer

ROWS = pd.DataFrame(dict(x=[1.0, 2], y=[3.0, 4], config=["a</script>", "b"], device=["d", "d"]))
AXES = dict(x="x", y="y", colour="config", choose="device", tooltip=["config", "x"])


def test_an_explorer_carries_its_rows_and_loads_nothing_from_elsewhere():
    html = explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)
    assert html.count("</script>") == 1 and not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    spec = json.loads(re.search(r'\[\["chart-a", (\{.*\})\]\]', html)[1].replace("<\\/", "</"))
    assert list(spec["datasets"].values())[0][0]["config"] == "a</script>"
    assert html == explorer.scatter(ROWS, "chart-a", "A chart.", **AXES)


@pytest.mark.parametrize(
    ("rows", "name", "words"),
    [
        (ROWS.drop(columns="y"), "c", "no column 'y'"),
        (ROWS.assign(y=np.nan), "c", "NaN"),
        (ROWS, 'x" onload=', "is an id"),
    ],
    ids=["column", "NaN", "name"],
)
def test_a_bad_chart_is_named(rows, name, words):
    with pytest.raises(EdgelibError, match=words):
        explorer.scatter(rows, name, "label", **AXES)
