"""CONTRIBUTING.md, applied as it stands to a copy of the library: every example works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
KINDS = {part.partition("\n")[0]: FENCE.findall(part) for part in TEXT.split("\n## ")[1:]}

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the examples touch, with all of them applied."""
    copy = tmp_path_factory.mktemp("contributed")
    for folder in ("edgelib", "notebooks", "params", "tests/smoke"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    (copy / "edgelib" / "models" / "embedded").symlink_to(ROOT / "edgelib" / "models" / "embedded")
    for file in ("pyproject.toml", "constraints.txt", "_toc.yml"):
        shutil.copy(ROOT / file, copy / file)
    for language, file, code in (fence for fences in KINDS.values() for fence in fences):
        if file and language != "diff":
            assert not (copy / file).exists(), f"{file} is there already"
            (copy / file).write_text(code)
        elif file:
            (copy / file).write_text(edited((copy / file).read_text(), code, file))
    return copy


def edited(text: str, diff: str, file: str) -> str:
    """A text after a diff without places: the lines that go stand in it once."""
    lines = diff.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
    assert text.count(before) == 1, f"{file} does not hold this once:\n{before}"
    return text.replace(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_works_as_it_stands(kind, checkout, tmp_path):
    checks = [code for language, file, code in KINDS[kind] if language == "python" and not file]
    assert checks, "every kind has a check"
    paths = os.pathsep.join([str(checkout), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(checks)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_kind_has_an_example():
    assert list(KINDS) == [
        "A corruption",
        "A method",
        "A number format",
        "A model family",
        "A benchmark",
        "A device",
        "A chapter",
    ]
