"""YAML that people write, and records: what is plain is read as it is, and every fault is one paragraph."""

from __future__ import annotations

from typing import Annotated

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.ground.records import Record, between, checked, read_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(value=PLAIN)
def test_plain_values_are_read_as_they_are(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "it.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    assert read_yaml(path, "file") == value


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_named(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("yaml") / "it.yaml"
    path.write_bytes(data)
    try:
        read_yaml(path, "device table")
    except EdgelibError as error:
        assert str(error).startswith(f"the device table {path} is not YAML: ") and "\n" not in str(error)


def test_an_alias_is_what_it_stands_for(tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text("a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}\n")
    assert read_yaml(path, "file") == {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}}


BAD = {
    "twice": ("a: 1\nb: {c: 2, c: 3}", "'c' is named twice"),
    "itself": ("a: &a [*a]", "contains itself"),
    "a bomb": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{chr(c)}: &{chr(c)} [{','.join(['*' + chr(c - 1)] * 10)}]\n" for c in range(ord("b"), ord("h"))),
        "more than 10,000 values",
    ),
    "deep": ("[" * 5000, "nested too deeply"),
    "day": ("a: 2024-02-31", "day is out of range"),
    "hour": ("a: 2024-01-01 25:61:00", "hour must be in"),
    "zone": ("a: 2001-12-14 21:59:43 -99:00", "offset must be"),
    "long number": ("a: " + "9" * 5000, "more than 100 digits"),
    "long number in base 16": ("a: 0x" + "f" * 5000, "more than 100 digits"),
    "long number in base 60": ("a: " + ":".join(["59"] * 400) + ".5", "more than 100 digits"),
    "base 8": ("a: 010", "'010' is a number in base 8 or 60, or with underscores: write it in digits"),
    "base 60": ("a: 1:30", "'1:30' is a number in base 8 or 60"),
    "fraction in base 60": ("a: 1:30.5", "'1:30.5' is a number"),
    "underscores": ("a: {b: [1_000]}", "'1_000' is a number"),
    "merged twice": ("x: &x {k: 1}\ny: &y {k: 2}\nc: {<<: *x, <<: *y}", "'<<' is named twice"),
    "many": ("a: [" + "1," * 50_000 + "1]", "more than 10,000 values"),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(9_000)), "more than 10,000 values"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(700)), "nested too deeply"),
    "no day": ("a: !!timestamp x", "not of the form that its tag says"),
    "no flag": ("a: !!bool x", "not of the form that its tag says"),
    "no number": ("a: !!int ''", "not of the form that its tag says"),
    "no text": (b"\xff\xfe\xff", "can't decode"),
    "list as a key": ("? [1, 2]\n: 3", "unhashable key"),
    "code": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "too long": ("# " + "x" * 2**20, "more than 262,144 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named(tmp_path, case):
    text, words = BAD[case]
    path = tmp_path / "it.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(EdgelibError, match=words) as error:
        read_yaml(path, "file")
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["nowhere.yaml", "", "a\0b"], ids=["missing", "a folder", "no name"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(EdgelibError, match="cannot read the parameter file"):
        read_yaml(tmp_path / name, "parameter file")


class Board(Record):
    """A record of two facts."""

    name: str
    cores: Annotated[int, between(1, 64)] = 1


BOMB: list = [1] * 10
for _ in range(40):
    BOMB = [BOMB] * 10

FAULTS = {
    "no record": ([1], r"it must hold lines 'name: value', got \[1\]"),
    "missing": ({}, "it: name is missing"),
    "misspelt": ({"name": "a", "core": 2}, "it: unknown name 'core' .did you mean 'cores'..; known are name, cores"),
    "number as a key": ({"name": "a", 5: 2}, "it: .*should be.* string"),
    "too many": ({"name": "a", "cores": 65}, "it: cores = 65: must be a number from 1 to 64"),
    "half": ({"name": "a", "cores": 1.5}, "it: cores = 1.5: should be a valid integer"),
    "several": ({"cores": "x"}, "name is missing; cores = 'x'"),
    "a very long number": ({"name": "a", "cores": 16**9000}, r"cores = a number of 36,001 bits: must be"),
    "a bomb": ({"name": BOMB}, r"name = \[\[\["),
    "a long name": ({"name": "a", "x" * 10_000: 1}, r"unknown name 'xxx.*\.\.\..*xxx'"),
    "long": ({"name": ["x"] * 1000}, r"name = \['x', .*\.\.\.\]: should be a valid string"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named(case):
    facts, words = FAULTS[case]
    with pytest.raises(EdgelibError, match=words) as error:
        checked(Board, facts, "it")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_record_has_its_facts():
    assert checked(Board, {"name": "a", "cores": 4}, "it") == Board(name="a", cores=4)
