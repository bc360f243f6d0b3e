"""The page that holds twins against nature is the one that its tables give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import ROOT

from edgelib.report.nature.page import page
from edgelib.report.nature.sentences import ranking_sentence
from edgelib.report.nature.tables import mean_interval
from edgelib.stats.ranks import RankAgreement

TABLES = ROOT / "book" / "reference" / "nature"
AGREED = RankAgreement(0.9, (0.6, 1.0), 0.8, (0.5, 1.0), 0.8, (0.6, 1.0), 20)


def test_the_page_is_what_its_tables_say():
    written = TABLES.with_suffix(".md").read_text(encoding="utf-8")
    assert written == page(TABLES), "run: edgelib nature DECODER --out book/reference/nature --page .../nature.md"


@pytest.mark.parametrize(
    ("rho", "within", "said"),
    [
        ((0.2, 1.0), (0.6, 1.0), "formats and methods as"),
        ((0.2, 1.0), (0.4, 1.0), "not shown to tell which method"),
        ((-0.2, 1.0), (0.6, 1.0), "not shown to rank formats"),
        ((-0.2, 1.0), (0.4, 1.0), "No ranking"),
    ],
    ids=["both", "formats", "methods", "neither"],
)
def test_the_verdict_follows_the_intervals(rho, within, said):
    assert said in ranking_sentence(replace(AGREED, rho_interval=rho, within_interval=within))


def test_an_interval_holds_its_mean():
    mean, low, high = mean_interval([1.0, 2.0, 4.0, 3.0], "a")
    assert low < mean == 2.5 < high and mean_interval([1.0, 2.0, 4.0, 3.0], "a") == (mean, low, high)
