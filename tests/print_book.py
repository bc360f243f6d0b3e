"""One PDF of the built book: each page printed by a headless Chromium, joined in the order of the contents.

Run: python tests/print_book.py book/_build/html book.pdf prints them; `make pdf` builds the book first.

Nothing is clipped: what is wider than the paper is drawn smaller, and what would be too small then is turned, on a wide
sheet of its own. Links between pages lead to pages of the PDF. What still stands out is an error.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

from browser import start
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import Fit

PATIENCE = 120  # seconds for the scripts of a page, on a busy machine
PAPER = {"width": 180, "turned": 267}  # mm between the margins of A4, upright and turned
SHEET = """
html { font-size: 12px !important; }
@page { size: A4; margin: 15mm; }
@page turned { size: A4 landscape; margin: 15mm; }
.turned { page: turned; break-before: page; break-after: page; }
.bd-main, .bd-content, .bd-article-container, .bd-article, .bd-container, .bd-container__inner, .bd-page-width {
  max-width: none !important; padding: 0 !important; margin: 0 !important; display: block !important; }
header, footer, .bd-header, .skip-link, .search-button, .headerlink, #pst-back-to-top, #pst-scroll-pixel-helper,
.pst-navbar-icon, .btn, details > summary, .pst-async-banner-revealer { display: none !important; }
figure, img, svg, tr, .admonition { break-inside: avoid; }
img { max-height: 240mm; object-fit: contain; }
thead { display: table-header-group; }
mjx-container svg * { stroke: none !important; }  /* paper draws lines of no width, and formulas would be bold */
"""
# Fits what is wider than the paper: smaller down to `least`, else on a turned sheet. Returns what still stands out.
FIT = """
const mm = document.createElement("div"); mm.style.width = "100mm"; document.body.append(mm);
const unit = mm.getBoundingClientRect().width / 100; mm.remove();
const [upright, turned, least] = [arguments[0] * unit, arguments[1] * unit, arguments[2]];
document.querySelectorAll("details").forEach(d => d.open = !d.closest(".cell_input, .tag_hide-input, .above-input"));
const article = document.querySelector("article") || document.body;
article.style.width = upright + "px";
const kinds = "table, svg, img, pre, canvas, mjx-container, iframe, div.output, .vega-embed";
const wide = e => Math.max(e.scrollWidth || 0, e.getBoundingClientRect().width);
const left = e => e.getBoundingClientRect().left - article.getBoundingClientRect().left;
const outside = [];
for (const e of article.querySelectorAll(kinds)) {
  const inner = e.parentElement.closest("[data-fitted], svg");
  if (inner || !e.getClientRects().length) continue;
  const room = upright - Math.max(0, left(e)), width = wide(e);
  if (width <= room + 1) continue;
  const holder = e.closest("figure, .pst-scrollable-table-container") || e;
  const shrink = (room - 4) / width;  // borders and rounded letters do not shrink with the rest
  if (shrink >= least) { e.style.zoom = shrink; e.dataset.fitted = "smaller"; }
  else {
    holder.classList.add("turned"); holder.style.width = turned + "px";
    e.style.zoom = Math.min(1, (turned - 4) / wide(e)); e.dataset.fitted = "turned";
  }
  const after = e.getBoundingClientRect();
  const most = e.dataset.fitted === "turned" ? turned : upright;
  if (after.width > most + 2) outside.push(e.outerHTML.slice(0, 80) + " " + after.width + " of " + most);
}
return outside;
"""
READY = (
    "return document.readyState === 'complete' && (!window.MathJax || !window.MathJax.startup || window.edgelibReady)"
)
WAIT = """
const done = () => { window.edgelibReady = true; };
Promise.all([document.fonts.ready, window.MathJax?.startup?.promise]).then(done, done);
document.querySelectorAll("img").forEach(image => { image.loading = "eager"; });
"""


class Contents(HTMLParser):
    """The pages that the sidebar of the first page lists, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[str] = ["index.html"]
        self.inside = 0

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        if tag == "nav" and "bd-links" in (given.get("class") or ""):
            self.inside = 1
        elif self.inside and tag == "nav":
            self.inside += 1
        target = (given.get("href") or "").partition("#")[0]
        if self.inside and tag == "a" and target.endswith(".html") and "://" not in target:
            self.pages += [target] * (target not in self.pages)

    def handle_endtag(self, tag) -> None:
        self.inside -= bool(self.inside) and tag == "nav"


def contents(html: Path) -> list[str]:
    """The pages of a built book, in the order of its contents."""
    reader = Contents()
    reader.feed((html / "index.html").read_text(encoding="utf-8"))
    return reader.pages


def printed(window, page: Path, least: float = 0.55) -> tuple[str, bytes]:
    """Return the (title, PDF) of a page; raises SystemExit naming what does not fit on paper.

    least: what would have to be drawn smaller than this share of its size is turned.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    window.get(page.as_uri())
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    window.execute_script(
        "document.documentElement.dataset.theme = 'light'; document.documentElement.dataset.mode = 'light'"
    )
    window.execute_script(
        "const s = document.createElement('style'); s.textContent = arguments[0]; document.head.append(s)", SHEET
    )
    window.execute_script(WAIT)
    WebDriverWait(window, PATIENCE).until(lambda w: w.execute_script(READY))
    outside = window.execute_script(FIT, PAPER["width"], PAPER["turned"], least)
    if outside:
        raise SystemExit(f"{page.name} does not fit on paper: {'; '.join(outside)}; make it narrower")
    how = {"preferCSSPageSize": True, "printBackground": True, "generateDocumentOutline": False}
    made = window.execute_cdp_cmd("Page.printToPDF", how)
    return window.title.partition("—")[0].strip(), base64.b64decode(made["data"])


def joined(html: Path, parts: dict[str, tuple[str, bytes]]) -> PdfWriter:
    """One document of the parts, page -> (title, PDF): with an outline, and links between pages inside of it."""
    book, first = PdfWriter(), {}
    for page, (title, data) in parts.items():
        first[(html / page).resolve().as_uri()] = len(book.pages)
        book.append(io.BytesIO(data), import_outline=False)
        book.add_outline_item(title=title, page_number=first[(html / page).resolve().as_uri()])
    for number, sheet in enumerate(book.pages):
        for entry in list(sheet.get("/Annots") or []):
            link = entry.get_object()
            target = str((link.get("/A") or {}).get("/URI", "")).partition("#")[0]
            if target in first:
                book.add_annotation(number, Link(rect=link["/Rect"], target_page_index=first[target], fit=Fit.fit()))
            if target.startswith("file:"):  # leads nowhere on another machine
                sheet["/Annots"].remove(entry)
    return book


def write(html: Path, out: Path) -> int:
    """Print the book to `out`, whole or not at all; returns the number of its sheets."""
    with tempfile.TemporaryDirectory() as profile:
        window = start(Path(profile))
        try:
            parts = {page: printed(window, (html / page).resolve()) for page in contents(html)}
        finally:
            window.quit()
    book = joined(html, parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}")
    book.write(unfinished)
    unfinished.replace(out)
    return len(PdfReader(out).pages)


if __name__ == "__main__":
    built, out = map(Path, sys.argv[1:])
    print(f"{out}: {write(built, out)} pages")
