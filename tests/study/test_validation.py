"""What numbers are held against: the peers' vectors are all met, and simulations whose truth is known find it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers import REFERENCE

from edgelib.errors import EdgelibError
from edgelib.study.validation import peers
from edgelib.study.validation.simulated import (
    Truth,
    difference_study,
    equivalence_study,
    family_study,
    gap_study,
    outcomes,
)

TRUTH = Truth("apart", 0.9, 0.8, images=4000, questions=2)


def test_simulated_outcomes_have_the_accuracies_and_belong_together():
    right, images = outcomes(TRUTH, np.random.default_rng(0), configs=2)
    assert right.mean(axis=1) == pytest.approx([0.9, 0.8, 0.8], abs=0.015)
    assert right.shape == (3, 8000) and (np.bincount(images) == 2).all()
    paired, first = np.corrcoef(right[1], right[2])[0, 1], np.corrcoef(right[1][::2], right[1][1::2])[0, 1]
    assert paired > 0.5 and 0.05 < first < paired


def test_a_study_counts_shares_with_intervals_and_depends_on_the_seed_alone():
    cases = [Truth("equal", 0.8, 0.8, 60), Truth("apart", 0.8, 0.5, 60)]
    rows = difference_study(cases, 40, seed=3)
    assert rows.equals(difference_study(cases, 40, seed=3))
    assert difference_study(cases[1:], 40, seed=3).share.tolist() == rows.share[2:].tolist()
    assert ((rows.low <= rows.share) & (rows.share <= rows.high)).all() and set(rows.level) == {0.95}
    assert rows[rows.study == "coverage"].share.min() > 0.8 and rows[rows.study == "false claims"].share.max() < 0.2


def test_families_margins_and_gaps_are_studied_alike():
    equal = Truth("equal", 0.9, 0.9, 60)
    family, margin = family_study(equal, 3, 20), equivalence_study(equal, 0.03, 20)
    gaps = gap_study(60, 0.0, 20, n_boot=100)
    assert (family.what.iloc[0], margin.case.iloc[0]) == ("any of 3 differences, Holm", "a loss of exactly 3 points")
    for rows in (family, margin, gaps):
        assert rows[rows.study == "false claims"].share.max() <= 0.2
    assert gaps.study.tolist() == ["false claims", "coverage"] and gaps.share.iloc[1] >= 0.8


def test_metrics_agree_with_their_peers():
    rows = list(peers._metrics(REFERENCE / "metrics"))
    assert len(rows) == 6 and all(row.largest <= row.allowed and row.differ == 0 and row.n for row in rows)


def test_a_number_that_is_not_the_peer_s_is_counted(tmp_path):
    shutil.copytree(REFERENCE / "metrics", tmp_path, dirs_exist_ok=True)
    stored = json.loads((tmp_path / "pope.json").read_text())
    label, reply, reading, other = stored["items"][0]
    stored["items"][0] = [label, reply, "no" if reading == "yes" else "yes", other]
    (tmp_path / "pope.json").write_text(json.dumps(stored))
    [row] = [row for row in peers._metrics(tmp_path) if row.peer == "AoiDragon/POPE"]
    assert (row.differ, row.largest) == (1, 1) and row.largest > row.allowed


def test_missing_vectors_are_said(tmp_path, monkeypatch):
    with pytest.raises(EdgelibError, match="cannot read the peers' vectors"):
        peers.agreements(tmp_path)
    with pytest.raises(EdgelibError, match="no folder 'nowhere' of peers' vectors; name tests/reference"):
        peers.vectors_folder("nowhere")
    monkeypatch.setattr(peers, "find_root", lambda: tmp_path)
    assert peers.vectors_folder() is None
