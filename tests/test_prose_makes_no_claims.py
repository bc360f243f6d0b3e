"""Prose carries no result: a number with a unit or a comparison of results stands in a chapter or on a page only where
code made it (tables, `say`, `conclude`) or where its sentence cites who found it.

What is checked: sentences of markdown cells and pages, and the fixed words of captions. Settings such as a number of
images or bits, what is expected, and definitions have no unit of a result, so they are free.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest
from helpers import ROOT

UNITS = r"(?:%|percent\b|points?\b|times\b|x\b|ms\b|[MGkT]i?B\b|nats\b|tokens/s\b)"
NUMBER = rf"(?<![\w.-])\d[\d,]*(?:\.\d+)?\s?{UNITS}"
BETTER = r"\b(?:fast|slow|small|larg|cheap|safe|high|low|bett)e?r than\b|\b(?:worse|more accurate|more robust) than\b"
VERBS = r"\b(?:outperforms?|hardly helps?|beats|wins over)\b"
CLAIM = re.compile(f"{NUMBER}|{BETTER}|{VERBS}")
CITED = "{cite:"
PAGES = [*sorted((ROOT / "notebooks").glob("*.py")), *sorted((ROOT / "book").glob("*.md"))]
# What must hold in every run is asserted by the cell below it.
SANITY = "What must hold in every run"


def sentences(text: str) -> Iterator[str]:
    """The sentences of Markdown without code and formulas; a list item or a heading is one by itself."""
    text = re.sub(r"^```.*?^```|\$\$.*?\$\$", " ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?<!\})`[^`]*`|\$[^$]*\$", " X ", text)
    for block in re.split(r"\n\s*\n|^:::.*$|^#+ .*$|^- |^\d\. |^: ", text, flags=re.MULTILINE):
        yield from re.split(r"(?<=[.;?!])\s+(?=[A-Z*{(])", " ".join(block.split()))


def claims(text: str) -> list[str]:
    """The sentences that claim a result and cite nobody."""
    return [s for s in sentences(text) if CLAIM.search(s) and CITED not in s and not s.startswith(SANITY)]


def fixed_words(code: str) -> Iterator[str]:
    """The texts of a cell without what is filled in."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def texts(path: Path) -> Iterator[str]:
    if path.suffix == ".md":
        yield path.read_text(encoding="utf-8")
        return
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        yield from fixed_words(cell.source)
        yield cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose_claims_nothing_that_no_test_made(path):
    assert not [sentence for text in texts(path) for sentence in claims(text)]


CAUGHT = [
    "W4A8 loses 3 points on fog.",
    "It is 1.5 times as fast.",
    "INT8 is faster than FP16 here.",
    "An FP8 cache outperforms INT8.",
    "Half of it takes 12.5 MiB.",
    "It keeps 99 % of the answers",
]
FREE = [
    "EdgeVLM-Bench gives 577.1 MB {cite:p}`edgevlmbench`.",
    "We expect four bits to cost more.",
    "Every configuration sees 240 images at severity 3.",
    "```console\nedgelib choose --latency 150 ms\n```",
    "Write `n_bootstrap: 95 %` or $p < 5 %$.",
]


@pytest.mark.parametrize("text", CAUGHT)
def test_a_bare_claim_is_caught(text):
    assert claims(f"Some words.\n\n{text} More words.")


@pytest.mark.parametrize("text", FREE)
def test_what_claims_no_result_is_free(text):
    assert not claims(text)
