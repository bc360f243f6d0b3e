"""Passages that ship with the package: two splits that share nothing, cut to a length."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgelib.data.passages import passages, texts
from edgelib.errors import EdgelibError


def by_word(text: str, add_special_tokens: bool):
    return SimpleNamespace(input_ids=[len(word) for word in text.split()])


def test_the_splits_share_no_passage_and_take_both_kinds_in_turn():
    test, calibration = texts()["test"], texts()["calibration"]
    assert len(test) == 44 and len(calibration) == 36
    assert len(set(test) | set(calibration)) == 80
    assert all(1300 <= len(text) <= 1420 for text in (*test, *calibration))


def test_passages_are_cut_and_come_in_the_order_of_the_file():
    found = passages("test", by_word, n=3, length=50)
    assert [len(ids) for ids in found] == [50] * 3
    assert found[0].tolist() == [len(word) for word in texts()["test"][0].split()[:50]]


@pytest.mark.parametrize(
    ("split", "n", "length", "match"),
    [("tests", 2, 50, "split"), ("test", 45, 50, "44 test passages"), ("test", 2, 5000, "at most that")],
    ids=["split", "more than there are", "longer than they are"],
)
def test_what_cannot_be_read_is_said(split, n, length, match):
    with pytest.raises(EdgelibError, match=match):
        passages(split, by_word, n, length)
