"""Pages of the reference that lists of the code make: configurations, parameters, words, versions; all are whole."""

from __future__ import annotations

import csv
import re
import tomllib

import configuration_table
import jupytext
import pytest
import yaml
from helpers import ROOT

from edgelib.chapters.table import CHAPTERS
from edgelib.formats.table import FORMATS
from edgelib.quant.methods import METHODS
from edgelib.quant.names import vocabulary

REFERENCE = ROOT / "book" / "reference"
CONFIGURATIONS = (REFERENCE / "configurations.md").read_text(encoding="utf-8")
# Capitals that stand for nothing: file names, signals, names of things, labels of formulas.
NO_ABBREVIATIONS = {
    "README",
    "CITATION",
    "CONTRIBUTING",
    "PARAMS",
    "AGX",
    "RTX",
    "NX",
    "NVIDIA",
    "SIGTERM",
    "SIGHUP",
    "R1",
    "R2",
}
NO_ABBREVIATIONS |= {"URL", "UTF", "HTML", "PDF", "POD", "API"}


def terms() -> set[str]:
    """The terms of the glossary, each word of them."""
    lines = (REFERENCE / "glossary.md").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith((" ", "#", ":"))}


def prose() -> dict[str, str]:
    """The words of every page and chapter, without code, formulas, links and directives."""
    found = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.glob("book/*.md"))}
    found |= {f"reference/{path.name}": path.read_text("utf-8") for path in sorted(REFERENCE.glob("*.md"))}
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown"]
        found[path.name] = "\n\n".join(cells)
    hidden = r"^```.*?^```|\$\$.*?\$\$|`[^`]*`|\$[^$]*\$|\{[a-z:]+\}|\]\([^)]*\)|https?:\S+"
    return {name: re.sub(hidden, " ", text, flags=re.DOTALL | re.MULTILINE) for name, text in found.items()}


@pytest.mark.parametrize("table", configuration_table.TABLES)
def test_the_tables_of_configurations_are_those_of_the_registry(table):
    with (REFERENCE / table).open(newline="", encoding="utf-8") as lines:
        written = list(csv.DictReader(lines))
    assert written == list(configuration_table.TABLES[table]()), "run: .venv/bin/python tests/configuration_table.py"


def test_every_word_of_a_name_is_explained():
    page = re.sub(r"^```.*?^```", "", CONFIGURATIONS, flags=re.DOTALL | re.MULTILINE)
    explained = set(re.findall(r"`([^`]+)`", page))
    known = vocabulary()
    words = {word for word in known.words if not word.startswith("gguf-") and word not in gguf_types()}
    casts = {name for name, format in FORMATS.items() if not format.scaled}
    assert set(METHODS) - {"cast"} | set(known.options) | words | casts <= explained


def gguf_types() -> set[str]:
    """The block types of GGUF, which the page names together."""
    return {word for word in vocabulary().words if re.fullmatch(r"i?q\d_\w+", word)}


def test_every_chapter_lists_its_parameters():
    page = (REFERENCE / "parameters.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\{edgelib-parameters\} (\w+)", page)) == {c.__name__ for c in CHAPTERS.values()}


def test_every_abbreviation_of_a_page_is_in_the_glossary():
    known = {part for term in terms() for part in (term, term.rstrip("s"))} | {term.upper() for term in terms()}
    lacking: dict[str, set[str]] = {}
    for name, text in prose().items():
        for word in re.findall(r"(?<![\w.#/-])[A-Z][A-Z0-9]+[0-9A-Z](?![\w-])|(?<![\w.#/-])[A-Z]{2}(?![\w-])", text):
            if word not in known and word not in NO_ABBREVIATIONS:
                lacking.setdefault(word, set()).add(name)
    assert not lacking


def test_the_changelog_knows_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (REFERENCE / "changelog.md").read_text(encoding="utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
