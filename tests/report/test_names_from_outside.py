"""Names from outside (models, devices, classes, data) never become markup of a page."""

from __future__ import annotations

import ast
import re
from io import StringIO

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from docutils.core import publish_doctree
from docutils.nodes import Element
from helpers import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from markdown_it import MarkdownIt
from myst_parser import docutils_ as myst

from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import as_written, bullets, without_tags
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


LINKS = ["[a](https://example.org)", "![a](https://example.org/a.png)", "{doc}`x`", "{raw}`<b>`", "$x$", "{{ 7 * 7 }}"]
BLOCKS = ["# a", "+++", "% a", "```", "```{raw} html", ":::{note}", "- [ ] a", "1. a", "(a)=", "---", "> a", "\x85# a"]
PIECES = [*"`\\[]{}()$<>#%|:*_!&=+-~^1.\n\x85 ", "``", "{{", "}}", "](", "{math}`", "]{#a}", "<b>", "cycler", "a"]
PLAIN = {"document", "paragraph", "Text", "bullet_list", "list_item", "emphasis", "strong", "literal"}


def obeyed(markdown: str) -> list[str]:
    """What the book's parser makes of Markdown that is no plain text, and what it warns of."""
    said, asked = StringIO(), yaml.safe_load((ROOT / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
    how = {"myst_enable_extensions": [*asked, "substitution", "attrs_inline"], "warning_stream": said}
    tree = publish_doctree("\n\n" + markdown, parser=myst.Parser(), settings_overrides=how)
    marked = [f"{key} of {node.tagname}" for node in tree.findall(Element) for key in ("ids", "classes") if node[key]]
    return (
        [type(n).__name__ for n in tree.findall() if type(n).__name__ not in PLAIN]
        + marked
        + [*filter(None, [said.getvalue()])]
    )


@given(
    st.one_of(st.sampled_from([*HOSTILE, *LINKS, *BLOCKS]), st.lists(st.sampled_from(PIECES), min_size=1).map("".join))
)
@example("{{ cycler.__init__.__globals__.os.getcwd() }}")
@example("\\`{math}`x`")
@example("a` {raw}`b`")
@example("`x`{.a #b}")
@settings(max_examples=60, deadline=None)
def test_the_parser_of_the_book_obeys_no_name(name):
    halves = [f"{name} and {mark}" for mark in "`{$<"]  # a name beside another that has the other half
    said = bullets([f"{name} is best", f"on {name} and {name}", f"the best is {name}", *halves])
    assert not obeyed(said), said
    assert not obeyed(as_written(f"{name} is best"))


@pytest.mark.parametrize("name", [*LINKS, *HOSTILE])
def test_the_parser_of_the_book_obeys_no_name_in_a_table(name):
    page = obeyed(myst_table(pd.DataFrame({name: [name]}), f"Sizes of\n\n{name}.", "tab-x"))
    assert set(page) <= {"table", "title", "tgroup", "colspec", "thead", "tbody", "row", "entry", *TABLE_MARKS}, page


TABLE_MARKS = ["ids of table", "classes of table", "classes of colspec", "classes of row", "classes of entry"]


def test_a_code_span_of_our_own_stays():
    assert as_written("`run {x}` on [a](b) is 1.5") == "`run {x}` on \\[a](b) is 1.5"
    assert as_written(r"a\_b \[c\] `<x>` & <y>") == r"a\_b \[c\] `<x>` & &lt;y>"


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
