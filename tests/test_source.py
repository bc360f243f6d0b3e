"""What the code of a chapter or a cell depends on."""

from __future__ import annotations

import shutil

import pytest

from edgelib.source import ROOT, code_digest, code_version, files_behind, imported_names


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


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param("# a remark\n", True, id="comment"),
        pytest.param('"""Another promise."""\n', True, id="docstring"),
        pytest.param("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lib.aside\n", False, id="code"),
    ],
)
def test_only_code_counts(library, change, same):
    before = code_version("lib.below.leaf", library)
    (library / "below" / "leaf.py").write_text(change)
    code_digest.cache_clear()
    code_version.cache_clear()
    assert (code_version("lib.below.leaf", library) == before) == same


def test_imports_for_type_checkers_do_not_run():
    code = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import edgelib.cli\nelse:\n    import edgelib.errors"
    )
    assert "edgelib.errors" in imported_names(code) and "edgelib.cli" not in imported_names(code)


STUDIES = {
    "classification": "edgelib.study.classifier_grid",
    "calibration": "edgelib.study.calibration_runs",
    "answers": "edgelib.study.answer_grid",
    "caches": "edgelib.study.kv_grid",
}


@pytest.fixture(scope="module")
def fresh_after(tmp_path_factory):
    """Which kinds of finished cells are as good as before after an edit of one file of the library."""

    def edit(file: str) -> set[str]:
        copy = tmp_path_factory.mktemp("edited") / "edgelib"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", "embedded", "*.yaml", "*.json"))
        assert (copy / file).is_file()
        with (copy / file).open("a") as code:
            code.write("\nCHANGED = True\n")
        return {kind for kind, module in STUDIES.items() if code_version(module, copy) == code_version(module)}

    return edit


@pytest.mark.parametrize(
    ("file", "fresh"),
    [
        pytest.param("data/scenes/questions_vqa.py", set(STUDIES), id="question generator"),
        pytest.param("report/figures/base.py", set(STUDIES), id="figure"),
        pytest.param("study/executors/run.py", set(STUDIES), id="engine"),
        pytest.param("chapters/robustness_gap.py", set(STUDIES), id="chapter"),
        pytest.param("models/families/blip.py", {"classification", "calibration"}, id="family that writes"),
        pytest.param("corruptions/blur.py", set(), id="corruption"),
        pytest.param("quant/methods/gptq.py", {"caches"}, id="method"),
        pytest.param("kv/codec.py", set(STUDIES) - {"caches"}, id="cache codec"),
        pytest.param("infer/classify.py", {"answers", "caches"}, id="classifier's outcomes"),
    ],
)
def test_finished_cells_depend_on_the_code_that_they_ran_and_nothing_else(fresh_after, file, fresh):
    assert fresh_after(file) == fresh
