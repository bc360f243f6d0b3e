"""What a chapter shows: paragraphs, lists, tables, facts, and the answer that other pages quote."""

from __future__ import annotations

import IPython.display
import pandas as pd
import pytest

from edgelib.report import notebook
from edgelib.report.claims.openings import Opening
from edgelib.report.tables import number


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """Every Markdown text that is displayed."""
    texts: list[str] = []
    monkeypatch.setattr(IPython.display, "display", lambda output: texts.append(output.data))
    return texts


def test_claims_become_a_list_and_a_text_a_paragraph(shown):
    notebook.say(claim for claim in ("a is more", "b is less"))
    notebook.say("As it is.")
    assert shown == ["- A is more.\n- B is less.", "As it is."]


def test_an_empty_family_says_so_or_nothing(shown):
    notebook.say([], otherwise="nothing is settled")
    notebook.say([])
    assert shown == ["- Nothing is settled."]


def test_a_table_has_a_caption_a_name_and_numbers_on_the_right(shown):
    rows = pd.DataFrame({"model": ["a*"], "ms": [1.25]})
    notebook.show(rows, "Times.", "tab-times", {"Model": "model", "Time, ms": number("ms")})
    notebook.show(pd.DataFrame({"x": ["1"], "y": ["2"]}), "Both.", "tab-both", numeric=["y"])
    assert (
        shown[0] == ":::{table} Times.\n:name: tab-times\n\n| Model | Time, ms |\n| :--- | ---: |\n| a\\* | 1.2 |\n:::"
    )
    assert "| :--- | ---: |" in shown[1]


def test_facts_read_as_words():
    table = notebook.facts("run", {"GB/s": 3}, scored_images=24)
    assert table["run"].to_dict() == {"GB/s": 3, "scored images": 24}


def test_a_chapter_saves_what_it_shows(tmp_path):
    work = notebook.setup("tiny", tmp_path)
    rows = pd.DataFrame({"x": [1 / 3]})
    assert work.save("rows", rows) is rows
    assert (tmp_path / "tiny" / "rows.csv").read_bytes() == b"x\n0.333333\n"


def test_the_answer_is_glued_without_quotation_marks(monkeypatch):
    import myst_nb

    glued = {}
    monkeypatch.setattr(myst_nb, "glue", lambda name, value, display: glued.update({name: repr(value)}))
    notebook.conclude(Opening("it's so", "1 point", "do it."), "of <b>this</b> model")
    assert glued == {
        "answer": "It's so.",
        "number": "1 point.",
        "advice": "Do it.",
        "scope": "of &lt;b>this&lt;/b> model.",
    }


def test_the_foot_is_one_line_that_opens(shown):
    told = {
        "edgelib": "1",
        "code": "c0de",
        "libraries": {"torch": "2"},
        "device": "cpu",
        "machine": "a chip",
        "seed": 0,
    }
    notebook.foot(told | {"sources": {"model": "m: weights ab"}, "parameters": {"n": 3}})
    assert shown[0].startswith('<details class="provenance"><summary>Provenance') and "m: weights ab" in shown[0]
