"""Published claims: every row has a reader, verdicts follow from intervals, and what is missing is not tested."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from helpers import ROOT

from edgelib.errors import EdgelibError
from edgelib.report import validation as shown_as
from edgelib.report.claims import validation as claim
from edgelib.report.replication import evidence
from edgelib.report.replication.evidence import CONTRADICTED, HOLDS, OPEN, READERS, UNTESTED
from edgelib.report.replication.table import BASES, claim_table, published_claims


def row(effect, low, high, **more):
    return {"effect": effect, "low": low, "high": high} | more


def test_every_claim_has_a_reader_a_basis_and_a_citation():
    entries = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text()))
    for source, facts in published_claims().items():
        assert set(facts["claims"]) == set(READERS[source]) and facts["cite"] in entries
        assert {entry["basis"] for entry in facts["claims"].values()} <= set(BASES)


VERDICTS = {
    "below, as claimed": (evidence.direction(row(-1, -2, -0.1), -1), HOLDS),
    "above, where below is claimed": (evidence.direction(row(1, 0.1, 2), -1), CONTRADICTED),
    "not once corrected": (evidence.direction(row(-1, -2, -0.1, p_holm=0.2), -1), OPEN),
    "over zero": (evidence.direction(row(-1, -2, 0.1), -1), OPEN),
    "inside the margin": (evidence.within(row(0, -0.1, 0.1), 0.2), HOLDS),
    "outside the margin": (evidence.within(row(-1, -2, -0.3), 0.2), CONTRADICTED),
    "over the margin": (evidence.within(row(-0.1, -0.3, 0.1), 0.2), OPEN),
    "a loss as large": (evidence.as_large(row(-0.2, -0.3, -0.1), 0.22), HOLDS),
    "a smaller loss": (evidence.as_large(row(-0.02, -0.05, 0.01), 0.22), CONTRADICTED),
    "perhaps as large": (evidence.as_large(row(-0.1, -0.3, 0.1), 0.22), OPEN),
    "the amount": (evidence.amount(2.55, 2.57, 0.05), HOLDS),
    "another amount": (evidence.amount(1.28, 2.57, 0.05), CONTRADICTED),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_a_verdict_follows_from_the_interval(case):
    found, wanted = VERDICTS[case]
    assert found == wanted


def test_without_tables_only_what_needs_none_is_tested(tmp_path):
    table = claim_table(tmp_path)
    known = table[table.verdict != UNTESTED]
    assert set(known.basis) <= {"their own figures", "definition of the format"} and len(known) == 2
    assert table.tested.str.contains("has published no table").sum() == len(table) - len(known) - 2


def test_a_verdict_changes_with_the_table_that_it_is_read_from(tmp_path):
    def verdict(low, high):
        rows = pd.DataFrame([dict(config="w8a8-minmax", severity=0, value=(low + high) / 2, low=low, high=high)])
        rows.to_csv(tmp_path / "robustness_gap-behind.csv", index=False)
        return claim_table(tmp_path).verdict.iloc[0]

    assert [verdict(-0.001, 0.001), verdict(-0.03, -0.01), verdict(-0.03, 0.01)] == [HOLDS, CONTRADICTED, OPEN]


def test_a_table_that_lacks_a_column_is_named(tmp_path):
    pd.DataFrame({"config": ["w8a8-minmax"]}).to_csv(tmp_path / "robustness_gap-behind.csv", index=False)
    with pytest.raises(EdgelibError, match="robustness_gap-behind.csv lacks severity; publish robustness_gap anew"):
        claim_table(tmp_path)


def test_the_published_tables_answer_every_claim_but_the_two_that_nothing_speaks_to():
    table = claim_table(ROOT / "book" / "data")
    assert (table.verdict == UNTESTED).sum() == (table.basis == BASES["none"]).sum() == 2
    counts = shown_as.verdict_counts(table)
    assert counts[list(shown_as.VERDICTS)].to_numpy().sum() == len(table)


def test_a_folder_of_tables_that_is_none_is_refused(tmp_path):
    with pytest.raises(EdgelibError, match="no folder 'nowhere' of published tables; name one such as book/data"):
        shown_as.published_folder(tmp_path, "nowhere")
    assert shown_as.published_folder(tmp_path, None) == tmp_path / "book" / "data"
    assert shown_as.read_scope(tmp_path).endswith("of 0 chapters: none")


def study(kind, share, low, high, nominal=None):
    nominal = nominal or (0.05 if kind == claim.FALSE else 0.95)
    facts = dict(study=kind, what="differences", case="equal", share=share, low=low, high=high, n=100, level=0.95)
    return pd.Series(facts | dict(nominal=nominal))


STUDIES = {
    "holds": [study(claim.FALSE, 0.03, 0.02, 0.045), study(claim.COVER, 0.95, 0.945, 0.955)],
    "not excluded": [study(claim.FALSE, 0.03, 0.02, 0.06), study(claim.COVER, 0.95, 0.93, 0.97)],
    "exceeded": [study(claim.FALSE, 0.09, 0.07, 0.11)],
    "wider": [study(claim.COVER, 0.98, 0.965, 0.99)],
    "narrower": [study(claim.COVER, 0.9, 0.88, 0.93)],
}


@pytest.mark.parametrize("verdict", STUDIES)
def test_a_simulated_share_is_judged_by_its_interval(verdict):
    assert {claim.study_verdict(row) for row in STUDIES[verdict]} == {verdict}


def test_the_opening_says_what_failed_and_counts_verdicts():
    claims = pd.DataFrame({"verdict": [HOLDS, OPEN, OPEN]})
    good = pd.DataFrame(STUDIES["holds"])
    opening = claim.validation_opening(claims, good, None)
    assert "1 holds, 2 stay open" in opening.answer and "3.0 % of 100" in opening.number
    assert "not there to compare" in opening.number and "read a difference" in opening.advice.lower()
    bad = pd.DataFrame([*STUDIES["exceeded"], *STUDIES["holds"]])
    assert "Do not trust differences" in claim.validation_opening(claims, bad, None).advice
    assert "one case is exceeded" in claim.study_claim(bad)


def test_agreement_names_what_conventions_do_not_explain():
    rows = pd.DataFrame(
        [dict(peer="a", what="x", n=10, differ=1, largest=1.0, unit="steps", allowed=1.0)]
        + [dict(peer="b", what="y", n=5, differ=0, largest=0.0, unit="steps", allowed=0.0)]
    )
    assert claim.agreement_claim(rows).endswith(
        "14 are the same here and 1 differ, each by no more than its row allows"
    )
    assert "(x of a by 3 steps)" in claim.agreement_claim(rows.assign(largest=[3.0, 0.0]))
