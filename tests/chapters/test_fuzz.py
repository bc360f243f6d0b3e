"""Whatever stands in a parameter file, `edgelib check` ends soon: all is well, or one paragraph says what is not."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgelib.chapters.table import CHAPTERS
from edgelib.cli import app

SLOWEST = 10.0  # seconds of this process; a usual check takes milliseconds
NAMES = [
    *(
        "w8a16",
        "W8A16",
        "w8a8-minmax",
        "w4a8-minmax-g٣",
        "w4a8-minmax-g" + "9" * 40,
        "weight:8",
        "weight:1_0",
        "key:inf",
    ),
    *("e4m3-amax", "int4-kivi-r" + "1" * 30, "fog:3", "fog:٣", "balanced", "corrupted:fog:9", "jetson-nano", "here"),
    *(
        "scenes",
        "scenes-vqa",
        "scenes-vlm",
        "scenes-vit",
        "clip-vit-base-patch32",
        "a\0b",
        "~nobody/x",
        "../..",
        "x" * 5000,
    ),
    *("", " ", "\n", "K", "{}", "{", "/dev/null", "cuda:٣"),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**20, -1, 0, 2**63, 10**90]),
    st.floats(),
    st.sampled_from(NAMES),
    st.text(max_size=12),
    st.dates().map(str),
)
VALUES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
RAW = [
    *("false", "0", "- 1", "n_images: 8\nn_images: 9", "a: &a [*a]", "n_images: 2024-02-31", "n_images: " + "9" * 5000),
    *("n_images: 2024-01-01 25:00:00", "[" * 3000, "{" * 3000, "n_images: !!int ''", 'results: "a\\0b"', "\t: [", "%"),
    "a: &a [1,1]\n"
    + "".join(f"{chr(c)}: &{chr(c)} [*{chr(c - 1)},*{chr(c - 1)}]\n" for c in range(ord("b"), ord("z"))),
]


def mutated(draw, chapter: str) -> bytes:
    """A file of a chapter's defaults, some of them replaced; or broken as a file."""
    defaults = CHAPTERS[chapter]().model_dump()
    values = {}
    for field in draw(st.lists(st.sampled_from([*defaults]), max_size=3, unique=True)):
        old = defaults[field]
        some = [VALUES, st.just(old)]
        if isinstance(old, list) and old:
            some += [st.just(old * 2), st.lists(st.sampled_from(old) | ODD, max_size=4), st.just([*old, draw(ODD)])]
        values[field] = draw(st.one_of(some))
    if draw(st.integers(0, 5)) == 0:
        values |= draw(st.dictionaries(st.text(max_size=9) | st.integers(), VALUES, max_size=2))
    text = yaml.safe_dump(values, allow_unicode=draw(st.booleans()))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        text = draw(st.sampled_from(RAW))
    if kind == 1:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=4)) + text[at + draw(st.integers(0, 3)) :]
    data = text.encode("utf-8", "replace")
    return data + draw(st.binary(max_size=3)) if kind == 2 else data


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """The registries are imported once: that takes longer than any check."""
    file = tmp_path_factory.mktemp("first") / "pareto.yaml"
    file.write_text("model: scenes-clip\nmix: [w4a8-minmax, fp32]\ncost_of: clip-vit-base-patch32\n")
    assert CliRunner().invoke(app, ["check", str(file)]).exit_code == 0


@pytest.mark.slow
@settings(max_examples=400, derandomize=True)
@given(data=st.data(), chapter=st.sampled_from(sorted(CHAPTERS)))
def test_any_file_is_checked_in_one_paragraph(tmp_path_factory, data, chapter):
    file = tmp_path_factory.getbasetemp() / f"{chapter}.yaml"
    file.write_bytes(mutated(data.draw, chapter))
    began = time.process_time()
    done = CliRunner().invoke(app, ["check", str(file)])
    assert time.process_time() - began < SLOWEST
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    if done.exit_code:
        assert done.exit_code == 1 and done.stderr.startswith("edgelib: ")
        assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 5000
