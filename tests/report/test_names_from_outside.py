"""Names from outside (models, devices, classes, data) never become markup of a page."""

from __future__ import annotations

import ast
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from markdown_it import MarkdownIt

from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import without_tags
from edgelib.report.explorer import scatter
from edgelib.report.figures.base import forest, log_axes
from edgelib.report.figures.palette import Look
from edgelib.report.notebook import STYLE, conclude, drawn, facts, foot, say, show
from edgelib.report.tables import escaped, myst_table, named, number, selected

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</td><script>alert(1)</script>",
    "<!-- a comment",
    "<https://example.org>",
    'a" onload="alert(1)',
]
TAG = re.compile(r"<(?:img|script|a |!--)", re.IGNORECASE)


def shown(display) -> str:
    """The HTML of what a call displays, as a page that allows HTML in Markdown makes it."""
    InteractiveShell.instance()
    with capture_output() as captured:
        display()
    return "".join(MarkdownIt("commonmark", {"html": True}).render(o.data["text/markdown"]) for o in captured.outputs)


@pytest.mark.parametrize("name", [r"$\frac{1}$", "$x$ and $y$", "a|b`c`", "two\nlines", "\u202eabc", "$"])
def test_a_figure_writes_a_name_as_it_is(name, tmp_path):
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2)
        forest(
            pd.DataFrame({"config": ["a"], "name": [name], "effect": [0.1], "low": [0.0], "high": [0.2]}), axes[0], name
        )
        log_axes(axes[1].loglog([1, 1000], [1, 1000], label=name)[0].axes, "xy")
        axes[1].set_title(name)
        axes[1].legend()
        figure.savefig(tmp_path / "figure.svg")
    plt.close(figure)
    assert (tmp_path / "figure.svg").stat().st_size > 1000


@pytest.mark.parametrize("name", HOSTILE)
def test_sentences_and_tables_show_a_name_as_it_is_written(name):
    rows = pd.DataFrame({"device": [escaped(name)], "x": [1]})
    page = shown(lambda: say([f"On {name} one has p < 0.001"]))
    page += shown(lambda: say(f"On {name}"))
    page += shown(lambda: show(rows, f"Sizes of {name}.", "tab-x"))
    page += shown(lambda: show(rows.assign(device=name), "Sizes.", "tab-x"))
    assert not TAG.search(page)
    assert "p &lt; 0.001" in page and "<li>" in page


@given(st.text(alphabet="<>/!?&aimgscript =\"'(){}[]", max_size=40))
def test_no_text_opens_a_tag(text):
    page = MarkdownIt("commonmark", {"html": True}).render(f"On {without_tags(text)} it is")
    known = re.sub(r"</?(?:p|em|strong|code|ul|li|ol|blockquote|h\d|hr|pre|br)\b ?/?>", "", page)
    known = re.sub(r'<a href="[^"]*"[^>]*>|</a>|<img src="[^"]*" alt="[^"]*" ?/?>', "", known)  # Markdown's own links
    assert "<" not in known.replace("&lt;", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_chart_keeps_names_in_its_data(name):
    rows = pd.DataFrame({"x": [1.0], "y": [1.0], "c": [name], "d": [name]})
    page = scatter(
        rows,
        "chart",
        name,
        x="x",
        y="y",
        colour="c",
        choose="d",
        group="c",
        tooltip=["c"],
        looks=[Look("#000000", "#000000", "o", name)],
    )
    outside, _, script = page.partition("<script")
    assert not TAG.search(outside) and 'onload="alert' not in outside
    assert script.count("</script>") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_openings_feet_facts_and_figures_show_a_name_as_it_is_written(name):
    """With sentences, tables and charts, whose tests stand above, these are all that any chapter shows."""
    made_from = {"sources": {name: name}, "libraries": {name: name}, "parameters": {name: [name]}}
    made_from |= dict.fromkeys(("edgelib", "code", "device", "machine", "seed"), name)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        axes.plot([1, 2], [1, 2], label=name)
        axes.set(title=name, xlabel=name, xticks=[1], xticklabels=[name])
        axes.legend()
        pictures = drawn(figure)
    plt.close(figure)
    InteractiveShell.instance()
    with capture_output() as captured:
        conclude(Opening(f"take {name}", f"it has {name}", f"ship {name}"), f"Numbers of {name}")
        foot(made_from)
    said = [text for output in captured.outputs for text in output.data.values()]
    page = "".join([*said, facts(name, {name: name})._repr_html_(), *pictures.values()])
    assert len(said) >= 5 and not TAG.search(re.sub(r"<!-- .*? -->|<!DOCTYPE[^>]*>", "", page, flags=re.DOTALL))


LINKS = ["[a](https://example.org)", "![a](https://example.org/a.png)", "{doc}`x`", "{raw}`<b>`", "$x$"]


@pytest.mark.parametrize("name", LINKS)
def test_no_name_links_or_loads_anything(name):
    InteractiveShell.instance()
    with capture_output() as captured:
        say([f"`run {{x}}` on {name} is fine"])
        show(pd.DataFrame({"x": [name]}), f"Sizes of\n\n{name}.", "tab-x")
    for output in captured.outputs:
        text = output.data["text/markdown"]
        assert not re.search(r"(?<!\\)(\$|\]\()|\}`[x<]", text)
        assert "src=" not in MarkdownIt("commonmark").render(text) and "href=" not in MarkdownIt().render(text)
    assert "`run {x}` on" in captured.outputs[0].data["text/markdown"]
    assert captured.outputs[1].data["text/markdown"].startswith(":::{table} Sizes of ")


def test_chapters_display_by_the_two_words_that_escape():
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"Markdown", "display", "Latex", "glue"}, path.name
        html = [line for line in path.read_text().splitlines() if re.match(r"\s*HTML\(", line)]
        assert all(line.startswith("HTML(scatter(") for line in html)


UNRULY = ["two\n\n# lines", "a|b", "cost $1$ and $2$", "x" * 5000, "{raw}`html`", "- a\n- b", "tab\there"]


@pytest.mark.parametrize("name", UNRULY, ids=["lines", "bar", "dollars", "long", "role", "list", "tab"])
def test_a_cell_stays_one_cell_of_bounded_length(name):
    rows = pd.DataFrame({"config": [name], "x": [1]})
    text = myst_table(*selected(rows, {"Name": named(), "x": number("x")})[:1], "Sizes.", "tab-x")
    [line] = [line for line in text.splitlines() if line.startswith("| ") and "Name" not in line and "---" not in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3 and len(line) < 3100
    assert not re.search(r"(?<!\\)[$`]", line)


@pytest.mark.parametrize("name", UNRULY, ids=["lines", "bar", "dollars", "long", "role", "list", "tab"])
def test_a_name_in_a_sentence_begins_no_line_and_no_formula(name):
    page = shown(lambda: say([f"on {name} nothing is settled", "the rest is"]))
    assert page.count("<li>") == 2 and "<h1>" not in page
    InteractiveShell.instance()
    with capture_output() as captured:
        say([f"on {name} nothing is settled"])
    assert not re.search(r"(?<!\\)\$", captured.outputs[0].data["text/markdown"])
