"""The table of families in the book is what a small folder of each of them shows."""

from __future__ import annotations

import family_table
import pytest
from helpers import ROOT

from edgelib.doctor.models import CACHES

COMMITTED = family_table.committed()


def test_every_family_stands_in_the_table_once_and_works():
    assert list(COMMITTED) == list(family_table.FAMILIES)
    assert not any(line["type"].startswith("refused") for line in COMMITTED.values())
    assert {name for line in COMMITTED.values() for name in line["caches"].split(", ")} <= {*CACHES, "none"}
    assert "families.csv" in (ROOT / "book" / "reference" / "families.md").read_text()


@pytest.mark.parametrize("family", family_table.FAMILIES)
def test_a_family_is_what_the_table_says(tmp_path, family):
    found = family_table.found_out(family, family_table.FAMILIES[family](tmp_path / "model"))
    assert found == {key: COMMITTED[family][key] for key in found}, "run: .venv/bin/python tests/family_table.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", family_table.FAMILIES)
def test_a_family_is_exported_as_the_table_says(tmp_path, family):
    found = family_table.exported(family_table.FAMILIES[family](tmp_path / "model"), tmp_path)
    assert found == {key: COMMITTED[family][key] for key in found}
