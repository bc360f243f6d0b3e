"""A scatter that a reader can hover over and filter, for the book: an Altair chart as HTML that needs no network.

The book ships the Vega libraries once, in _static/vega.js (book/_ext/offline_vega.py); a chart adds its data only.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.report.figures.palette import Look

_HTML = """<div id="{name}" role="figure" aria-label="{label}" style="width: 100%; overflow-x: auto">
{label} This chart needs the scripts of the built book.</div>
<script>window.edgelibCharts = (window.edgelibCharts || []).concat([["{name}", {spec}]]);
if (!window.edgelibVega) {{
  window.edgelibVega = document.createElement("script");
  window.edgelibVega.src = "../_static/vega.js";
  window.edgelibVega.onload = () => window.edgelibCharts.forEach(([id, spec]) =>
    (document.getElementById(id).textContent = "", vegaEmbed("#" + id, spec, {{actions: false, renderer: "svg"}})));
  document.head.append(window.edgelibVega);
}}</script>"""


def marker_path(marker: str) -> str:
    """Return the outline of a matplotlib marker as an SVG path of Vega's unit size, "circle" for a round one."""
    from matplotlib.markers import MarkerStyle

    if marker == "o":
        return "circle"
    style = MarkerStyle(marker)
    [outline] = map(np.asarray, style.get_path().transformed(style.get_transform()).to_polygons())
    corners = (outline / abs(outline).max()).round(3) + 0.0
    return "M" + "L".join(f"{x:g},{0 - y:g}" for x, y in corners) + "Z"


def scatter(
    rows: pd.DataFrame,
    name: str,
    label: str,
    *,
    x: str,
    y: str,
    colour: str,
    choose: str,
    tooltip: list[str],
    looks: Iterable[Look],
) -> str:
    """Return HTML of a scatter of rows: hover for all columns of `tooltip`, click a colour to keep it, choose a value.

    name: id of the chart on its page, letters and dashes. label: what it shows, for readers who cannot see it.
    choose: column whose value a menu selects, at first the one with most points. looks: how the values of `colour` are
    drawn, found by their labels. Columns are their own titles.
    Raises EdgelibError for missing columns, NaN in x or y, a name that is no id, and a value without a look.
    """
    import altair as alt

    if not name.replace("-", "").isalnum():
        raise EdgelibError(f"a chart's name is an id of letters, digits and dashes, got {name!r}")
    for column in (x, y, colour, choose, *tooltip):
        if column not in rows.columns:
            raise EdgelibError(f"the chart's rows have no column {column!r}; they have {', '.join(rows.columns)}")
    if rows[[x, y]].isna().any(axis=None):
        raise EdgelibError(f"the chart's rows hold NaN in {x!r} or {y!r}; drop those rows")
    styles = {look.label: look for look in looks}
    for value in rows[colour].unique():
        if value not in styles:
            raise EdgelibError(f"the chart has no look for {colour} {value!r}; it has {', '.join(styles)}")
    domain = [value for value in styles if value in set(rows[colour])]
    colours = alt.Scale(domain=domain, range=[styles[value].colour for value in domain])
    shapes = alt.Scale(domain=domain, range=[marker_path(styles[value].marker) for value in domain])
    values = list(dict.fromkeys(rows[choose]))
    fullest = max(values, key=lambda value: (rows[choose] == value).sum())
    menu = alt.selection_point(
        fields=[choose], bind=alt.binding_select(options=values, name=f"{choose} "), value=fullest
    )
    kept = alt.selection_point(fields=[colour], bind="legend")
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=320)
    chart = (
        alt.Chart(rows[list(dict.fromkeys([x, y, colour, choose, *tooltip]))])
        .mark_point(filled=True, size=90)
        .encode(
            x=alt.X(x, type="quantitative", scale=alt.Scale(type="log", nice=False, padding=20)),
            y=alt.Y(y, type="quantitative", scale=alt.Scale(zero=False, padding=15)),
            color=alt.Color(colour, type="nominal", scale=colours, legend=legend),
            shape=alt.Shape(colour, type="nominal", scale=shapes),
            opacity=alt.condition(kept, alt.value(1.0), alt.value(0.12)),
            tooltip=tooltip,
        )
        .add_params(menu, kept)
        .transform_filter(menu)
        .properties(width="container", height=320, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    )
    # "</" would end the script that carries the data, "<!--" would hide its end.
    spec = json.dumps(chart.to_dict(), sort_keys=True).replace("<", "\\u003c")
    return _HTML.format(name=name, label=html.escape(label), spec=spec)
