"""What the code of a chapter or a cell depends on."""

from __future__ import annotations

import pytest

from edgelib.source import ROOT, files_behind, imported_names
from edgelib.study.store import code_version


@pytest.fixture
def library(tmp_path):
    """A package: top imports middle when called, middle imports a name of the package below, aside is on its own."""
    files = {
        "__init__.py": "",
        "aside.py": "",
        "top.py": "import os\ndef f():\n    import lib.middle\n",
        "middle.py": "from lib.below import leaf\n",
        "below/__init__.py": "from lib.helper import *\n",
        "below/leaf.py": "",
        "below/other.py": "",
        "helper.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "lib"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["lib.aside"], ["aside.py"], id="alone"),
        pytest.param(["lib.helper.name"], [], id="a-name-needs-its-module-beside-it"),
        pytest.param(["numpy", "other.top"], [], id="other-packages"),
        pytest.param(["lib.below.other"], ["below/__init__.py", "below/other.py", "helper.py"], id="package-above"),
        pytest.param(
            ["lib.top"],
            ["below/__init__.py", "below/leaf.py", "helper.py", "middle.py", "top.py"],
            id="indirect-and-late",
        ),
    ],
)
def test_files_behind_imports(library, names, expected):
    assert [p.relative_to(library).as_posix() for p in files_behind(names, library)] == expected


def test_the_package_itself_counts_as_all_of_it(library):
    assert files_behind(["lib"], library) == sorted(library.rglob("*.py"))


def test_names_are_read_from_notebook_cells_too():
    code = "%matplotlib inline\n!ls\nimport edgelib.errors as e, json\nfrom edgelib.quant import scheme"
    assert list(imported_names(code)) == ["edgelib.errors", "json", "edgelib.quant", "edgelib.quant.scheme"]


def test_a_sweep_depends_on_the_methods_and_not_on_training_or_reports():
    names = {p.relative_to(ROOT).as_posix() for p in files_behind(["edgelib.study.sweep"])}
    assert {"infer/classify.py", "quant/methods/gptq.py", "corruptions/blur.py", "errors.py"} <= names
    assert not any(name.startswith(("report/", "train/")) for name in names)
    assert code_version("edgelib.study.sweep") != code_version("edgelib.study.calibration_runs")
