"""Checks of arguments: what is right comes back, what is wrong is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.ground.checks import plain_number, seed_number, whole_number


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_plain_number_is_the_number_itself(value):
    text = plain_number(value)
    assert float(text) == value and set(text) <= set("-0123456789.")


def test_a_plain_number_has_one_spelling():
    assert [plain_number(x) for x in (8, 8.0, 99.90, 1e9, 0.1)] == ["8", "8", "99.9", "1000000000", "0.1"]


@pytest.mark.parametrize("seed", [0, -(2**63), 2**64 - 1], ids=["zero", "least", "most"])
def test_a_seed_of_64_bits_is_taken(seed):
    assert seed_number(seed) == seed


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, True, "1"], ids=repr)
def test_what_is_no_seed_is_named(seed):
    with pytest.raises(EdgelibError, match="seed"):
        seed_number(seed)


def test_a_number_of_5000_digits_is_named():
    with pytest.raises(EdgelibError, match="n must be a whole number of at least 1, got a number of 16,610 bits"):
        whole_number(-(10**5000), "n", at_least=1)
