"""A scatter that a reader can hover over and filter, for the book: an Altair chart as HTML that needs no network.

The book ships the Vega libraries once, in _static/vega.js (book/_ext/offline_vega.py); a chart adds its data only.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.report.figures.palette import Look

_HTML = """<div id="{name}" class="explorer" role="figure" aria-label="{label}">
{label} This chart needs the scripts of the built book.</div>
<script>window.edgelibCharts = (window.edgelibCharts || []).concat([["{name}", {spec}]]);
if (!window.edgelibVega) {{
  const remembered = value => {{ try {{
    if (value !== undefined) localStorage.setItem("{remembered}", value);
    return localStorage.getItem("{remembered}");
  }} catch {{ return null; }} }};
  const draw = ([id, spec]) => {{
    const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
    document.getElementById(id).textContent = "";
    vegaEmbed("#" + id, spec, {{actions: false, renderer: "svg", tooltip: {{theme}}}}).then(({{view}}) => {{
      const menu = spec.params.find(param => param.name === "chosen");
      if (menu.bind.options.includes(remembered())) view.signal("chosen", remembered()).run();
      view.addSignalListener("chosen", (_, value) => remembered(value));
      const box = document.getElementById(id), all = [];
      spec.usermeta.legend.forEach(([group, entries]) => {{
        const list = document.createElement("div"), title = document.createElement("strong");
        list.className = "explorer-legend";
        title.textContent = group;
        list.append(title, ...entries.map(([name, colour, outline]) => {{
          const key = document.createElement("button");
          const place = "http://www.w3.org/2000/svg", drawing = document.createElementNS(place, "svg");
          const shape = document.createElementNS(place, outline === "circle" ? "circle" : "path");
          drawing.setAttribute("viewBox", "-1.1 -1.1 2.2 2.2");
          drawing.setAttribute("aria-hidden", "true");
          shape.setAttribute(outline === "circle" ? "r" : "d", outline === "circle" ? "1" : outline);
          shape.setAttribute("fill", colour);
          drawing.append(shape);
          key.type = "button";
          key.setAttribute("aria-pressed", "false");
          key.append(drawing, name);
          key.addEventListener("click", () => {{
            const kept = view.signal("kept") === name ? null : name;
            view.signal("kept", kept).run();
            all.forEach(other => other.setAttribute("aria-pressed", other === key && kept !== null));
          }});
          all.push(key);
          return key;
        }}));
        box.append(list);
      }});
    }});
  }};
  window.edgelibVega = document.createElement("script");
  window.edgelibVega.src = "../_static/vega.js";
  window.edgelibVega.onload = () => window.edgelibCharts.forEach(draw);
  document.head.append(window.edgelibVega);
}}</script>"""
REMEMBERED = "edgelib-device"  # where the pages keep the device that a reader asked about last


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
    group: str,
    tooltip: list[str],
    looks: Iterable[Look],
    first: str | None = None,
    x_ends: tuple[str, str] | None = None,
    y_ends: tuple[str, str] | None = None,
) -> str:
    """Return HTML of a scatter of rows: hover for all columns of `tooltip`, press a name to keep it, choose a value.

    name: id of the chart on its page, letters and dashes. label: what it shows, for readers who cannot see it.
    group: column that parts the values of `colour` into legends of their own, so that none is long.
    choose: column whose value a menu selects, at first what the reader chose last on any page, else `first`, else the
    value of most points. looks: how the values of `colour` are drawn, found by their labels: a value keeps its look
    whatever is chosen. x_ends, y_ends: columns of the ends of intervals. Columns are their own titles.
    Raises EdgelibError for missing columns, NaN in x or y, a name that is no id, and a value without a look.
    """
    import altair as alt

    shown = list(dict.fromkeys([x, y, colour, choose, group, *tooltip, *(x_ends or ()), *(y_ends or ())]))
    styles = {look.label: look for look in looks}
    _require_drawable(rows, name, shown, (x, y), colour, styles)
    domain = [value for value in styles if value in set(rows[colour])]
    colours = alt.Scale(domain=domain, range=[styles[value].colour for value in domain])
    shapes = alt.Scale(domain=domain, range=[marker_path(styles[value].marker) for value in domain])
    values = list(dict.fromkeys(rows[choose]))
    shown_first = first if first in values else max(values, key=lambda value: (rows[choose] == value).sum())
    menu = alt.param(name="chosen", value=shown_first, bind=alt.binding_select(options=values, name=f"{choose} "))
    kept = alt.param(name="kept", value=None)
    base = alt.Chart(rows[shown]).encode(
        x=alt.X(x, type="quantitative", title=x, scale=_scale("x")),
        y=alt.Y(y, type="quantitative", title=y, scale=_scale("y")),
        color=alt.Color(colour, type="nominal", scale=colours, legend=None),
        opacity=alt.condition((kept == None) | (alt.datum[colour] == kept), alt.value(1.0), alt.value(0.12)),  # noqa: E711
    )
    points = base.mark_point(filled=True, size=90).encode(
        shape=alt.Shape(colour, type="nominal", scale=shapes, legend=None), tooltip=tooltip
    )
    spans = [(side, title, ends) for side, title, ends in (("x", x, x_ends), ("y", y, y_ends)) if ends]
    bars = [base.mark_rule(strokeOpacity=0.4).encode(**_span(*span)) for span in spans]
    size = {"width": "container", "height": 320, "autosize": alt.AutoSizeParams(type="fit-x", contains="padding")}
    chart = alt.layer(*bars, points, background="transparent").add_params(menu, kept).properties(**size)
    chart = chart.transform_filter(alt.datum[choose] == menu)
    # "</" would end the script that carries the data, "<!--" would hide its end.
    whole = chart.to_dict() | {"usermeta": {"legend": _legend(rows, colour, group, styles, domain)}}
    spec = json.dumps(whole, sort_keys=True).replace("<", "\\u003c")
    return _HTML.format(name=name, label=html.escape(label), spec=spec, remembered=REMEMBERED)


def _require_drawable(
    rows: pd.DataFrame, name: str, shown: Iterable[str], axes: tuple[str, str], colour: str, styles: Mapping[str, Look]
) -> None:
    if not name.replace("-", "").isalnum():
        raise EdgelibError(f"a chart's name is an id of letters, digits and dashes, got {name!r}")
    for column in shown:
        if column not in rows.columns:
            raise EdgelibError(f"the chart's rows have no column {column!r}; they have {', '.join(rows.columns)}")
    if rows[[*axes]].isna().any(axis=None):
        raise EdgelibError(f"the chart's rows hold NaN in {axes[0]!r} or {axes[1]!r}; drop those rows")
    for value in rows[colour].unique():
        if value not in styles:
            raise EdgelibError(f"the chart has no look for {colour} {value!r}; it has {', '.join(styles)}")


def _legend(rows: pd.DataFrame, colour: str, group: str, styles: Mapping[str, Look], domain: list[str]) -> list:
    """[group, [[value, colour, outline], ...]] in the order of `domain`; values of one group stand together."""
    places = dict(zip(rows[colour], rows[group], strict=True))
    parts: dict[str, list] = {}
    for value in domain:
        parts.setdefault(str(places[value]), []).append(
            [value, styles[value].colour, marker_path(styles[value].marker)]
        )
    return [[name, entries] for name, entries in parts.items()]


def _span(side: str, title: str, ends: tuple[str, str]) -> dict[str, Any]:
    """The channels of a line from one end of an interval to the other."""
    import altair as alt

    channel, other = (alt.X, alt.X2) if side == "x" else (alt.Y, alt.Y2)
    first = channel(ends[0], type="quantitative", title=title, scale=_scale(side))
    return {side: first, f"{side}2": other(ends[1])}


def _scale(side: str) -> Any:
    import altair as alt

    return alt.Scale(type="log", nice=False, padding=20) if side == "x" else alt.Scale(zero=False, padding=15)
