"""Answers in sentences and to questions of one's own: ROUGE-L and exact matches in normal form."""

from __future__ import annotations

from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.tasks.benchmarks import TASKS
from edgelib.tasks.exact import answers_that_count, exact_matches
from edgelib.tasks.llava_bench import longest_common, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


def brute(a, b) -> int:
    """The longest list that can be picked in order from both."""
    for size in range(min(len(a), len(b)), 0, -1):
        mine, theirs = (set(combinations(words, size)) for words in (a, b))
        if mine & theirs:
            return size
    return 0


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_that_of_every_choice(a, b):
    assert longest_common(a, b) == brute(a, b)


# Closed forms: 2 * common words in order / all words.
ROUGE = {
    "same": ("The cat sat.", "the CAT sat", 1.0),
    "order": ("police killed the gunman", "police kill the gunman", 2 * 3 / 8),
    "swapped": ("the gunman police killed", "police killed the gunman", 2 * 2 / 8),
    "longer": ("a b c", "a x b x c x", 2 * 3 / 9),
    "nothing": ("", "word", 0.0),
    "signs alone": ("...", "...", 0.0),
}


@pytest.mark.parametrize(("said", "reference", "score"), ROUGE.values(), ids=ROUGE)
def test_rouge_l_of_two_texts(said, reference, score):
    assert rouge_l(said, reference) == pytest.approx(score) == rouge_l(reference, said)


def test_rouge_l_of_an_answer_without_words_is_unparsed():
    worth = TASKS["llava-bench"].answer_scores(["", "A volcano."], ["a volcano", "a volcano"])
    assert worth["score"].tolist() == [0, 1] and worth["parsed"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("said", "counts", "right"),
    [
        ("Two.", ["2"], True),
        ("the cat", "a Cat", True),
        ("no", ["yes", "yeah"], False),
        ("", ["a"], False),
        ("A", "a", True),
    ],
)
def test_answers_count_in_normal_form(said, counts, right):
    assert exact_matches([said], [counts]) == [right]


def test_answers_are_texts_whole_numbers_or_lists_of_them():
    column = pd.Series(["red", 2, ["a b", "c"]], name="answer")
    assert answers_that_count(column, "t.csv") == [["red"], ["2"], ["a b", "c"]]
    for wrong in (None, 1.5, True, "", [], ["x", None]):
        with pytest.raises(EdgelibError, match="column 'answer' of t.csv must hold an answer .* in row 0"):
            answers_that_count(pd.Series([wrong], name="answer"), "t.csv")
