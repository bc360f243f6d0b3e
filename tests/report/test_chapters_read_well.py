"""Chapters read as chapters: short cells, more prose than code, nothing that a library should do."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import jupytext
import pytest
from helpers import ROOT

from edgelib.report import notebook

CHAPTERS = sorted((ROOT / "notebooks").glob("*.py"))
MEDIAN_LINES, MOST_LINES = 8, 25  # of a code cell
WORDS_PER_LINE = 5
# Code between fences and displayed formulas are no prose.
NO_PROSE = re.compile(r"^```.*?^```$|\$\$.*?\$\$", re.DOTALL | re.MULTILINE)
# The library shows tables and sentences, corrects families of tests and draws axes.
MACHINERY = ("display(Markdown", "holm(", "myst_table(", "glue(", "plt.subplots(1, len", "itertuples(")


def cells(path: Path, kind: str) -> list:
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == kind and cell.source.strip()]


def lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def is_parameters(cell) -> bool:
    """The parameters must stand in one cell, a line each with its own words, however many there are."""
    return "parameters" in cell.metadata.get("tags", [])


def words(text: str) -> int:
    return len(re.findall(r"[^\W\d_][\w'-]*", NO_PROSE.sub("", text)))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_its_cells_are_short(path):
    counts = [lines(cell) for cell in cells(path, "code") if not is_parameters(cell)]
    assert median(counts) <= MEDIAN_LINES and max(counts) <= MOST_LINES


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_it_has_more_prose_than_code(path):
    prose = sum(words(cell.source) for cell in cells(path, "markdown"))
    code = sum(lines(cell) for cell in cells(path, "code"))
    assert prose >= WORDS_PER_LINE * code, f"{prose} words for {code} lines of code: {prose / code:.1f} a line"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_it_leaves_machinery_to_the_library(path):
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert not [word for word in MACHINERY if word in code]
    assert "conclude(" in code and notebook.conclude


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_its_last_line_tells_where_its_numbers_come_from(path):
    last = jupytext.read(path).cells[-1]
    assert last.source == "foot(P.provenance())" and last.metadata["tags"] == ["remove-input"]


def test_words_are_counted_without_code_and_formulas():
    assert words("Two words.\n\n```console\nedgelib publish\n```\n$$\nx = 1\n$$\nand one-half more") == 5
