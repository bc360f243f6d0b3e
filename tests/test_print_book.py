"""The book as one PDF: pages in order, links inside of it, wide things smaller or turned and never cut."""

from __future__ import annotations

import io

import print_book
import pytest
from browser import start
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link

SIDEBAR = """<a href="stray.html"></a>
<nav class="bd-links bd-docs-nav"><a href="a.html">A</a><nav><a href="b.html#x">B</a></nav>
<a href="https://else.org/c.html">C</a><a href="a.html">again</a></nav><a href="late.html"></a>"""


def sheet(*links: str) -> bytes:
    made = PdfWriter()
    made.add_blank_page(595, 842)
    for link in links:
        made.add_annotation(0, Link(rect=(0, 0, 9, 9), url=link))
    made.write(out := io.BytesIO())
    return out.getvalue()


def test_pages_are_those_of_the_sidebar_in_order(tmp_path):
    (tmp_path / "index.html").write_text(SIDEBAR)
    assert print_book.contents(tmp_path) == ["index.html", "a.html", "b.html"]


def test_links_between_pages_stay_inside_and_none_leads_to_this_machine(tmp_path):
    here = tmp_path.resolve().as_uri()
    parts = {
        "a.html": ("A", sheet(f"{here}/b.html#x", f"{here}/data.csv", "https://else.org/")),
        "b.html": ("B", sheet()),
    }
    print_book.joined(tmp_path, parts).write(out := io.BytesIO())
    book = PdfReader(out)
    links = [entry.get_object() for entry in book.pages[0]["/Annots"]]
    assert [link["/A"]["/URI"] for link in links if "/URI" in link.get("/A", {})] == ["https://else.org/"]
    assert len(links) == 2 and [item.title for item in book.outline] == ["A", "B"]
    assert [book.get_destination_page_number(item) for item in book.outline] == [0, 1]


@pytest.mark.slow
def test_wide_tables_shrink_or_turn_and_lose_nothing(tmp_path):
    try:
        window = start(tmp_path / "profile")
    except LookupError as missing:
        pytest.skip(str(missing))
    try:
        for columns, turns in ((4, False), (14, False), (24, True)):
            cells = "".join(f"<td style='min-width:4.4em'>cell{k}</td>" for k in range(columns))
            page = tmp_path / f"{columns}.html"
            page.write_text(
                f"<title>T</title><article><p>before</p><table><tr>{cells}</tr></table><p>after</p></article>"
            )
            title, data = print_book.printed(window, page)
            sheets = PdfReader(io.BytesIO(data)).pages
            text = " ".join(sheet.extract_text() for sheet in sheets)
            assert title == "T" and all(
                word in text for word in ("before", "after", *(f"cell{k}" for k in range(columns)))
            )
            assert any(sheet.mediabox.width > sheet.mediabox.height for sheet in sheets) == turns
    finally:
        window.quit()
