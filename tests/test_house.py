"""The rules of the house: imports point down, one dependency list, notebook pairs and parameter files in step."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from helpers import ROOT

import edgelib
from edgelib.chapters.table import CHAPTERS, read
from edgelib.models.load import EMBEDDED, model_folder
from edgelib.source import FLOORS

LIBRARY = ROOT / "edgelib"
SOURCES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
PARAMETER_FILES = sorted((ROOT / "params").rglob("*.yaml")) + sorted((ROOT / "tests" / "smoke").glob("*.yaml"))

MOST_MODULES = 12  # in one folder
LARGEST_ROOM = 0.12  # of the lines of the library
# Their work is to run a notebook or to be run in one; only the book's tools have these packages.
BOOK_ONLY = {"report/publish.py", "report/notebook.py", "report/explorer.py"}
TABLE_ROOMS = ("stats", "tasks", "devices", "decide")
# They look at models themselves; everything else in these rooms reads arrays and tables.
MODELLERS = {"profiling.py", "ceilings.py", "machine.py"}


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path: Path) -> list[str]:
    """Return the dotted names a file imports, wherever in the file it does."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def floor(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "edgelib" and len(parts) > 1 else None


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bare(requirement: str) -> str:
    """Return the normalised name in a requirement: "jupyter-book>=1,<2" -> "jupyter-book"."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.mark.parametrize("path", [path for path in SOURCES if path != LIBRARY / "__init__.py"], ids=ids)
def test_imports_point_down(path):
    own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    above = FLOORS[FLOORS.index(own) + 1 :]
    upward = [name for name in imports(path) if floor(name) in above]
    assert not upward, f"{own} may not import {upward}"


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name; a folder goes by the name of its __init__."""
    found = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    graph = {name: {other for other in imports(path) if other in known} for name, path in known.items()}
    graph |= {name: set() for name in ("edgelib",)}  # its names are imported when they are asked for
    for name, path in known.items():
        for dotted in imports(path):
            module = dotted.rpartition(".")[0]
            if dotted not in known and module in known and module not in (name, "edgelib"):
                graph[name].add(module)
    order = tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(known) <= set(order) and order.index("edgelib.errors") < order.index("edgelib.cli.base")


def test_every_room_has_a_floor_and_says_what_it_holds():
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")} | {
        path.stem for path in LIBRARY.glob("[a-z]*.py")
    }
    assert rooms == set(FLOORS)
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in SOURCES)


FOLDERS = sorted({path.parent for path in SOURCES})


@pytest.mark.parametrize("folder", FOLDERS, ids=ids)
def test_a_room_is_small_enough_to_know(folder):
    own = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(own) <= MOST_MODULES
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert sum(lines[path] for path in folder.glob("*.py")) <= LARGEST_ROOM * sum(lines.values())


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*/test_*.py")), ids=ids)
def test_tests_stand_in_the_room_of_what_they_test(path):
    room, code = path.parent.name, path.read_text(encoding="utf-8")
    contract = {edgelib._HOMES[name].partition(".")[0] for name in set(re.findall(r"\w+", code)) & set(edgelib._HOMES)}
    assert room in FLOORS
    assert room in contract | {floor(name) for name in imports(path)}


TABLES = [path for room in TABLE_ROOMS for path in sorted((LIBRARY / room).glob("*.py")) if path.name not in MODELLERS]


@pytest.mark.parametrize("path", TABLES, ids=ids)
def test_measures_know_only_arrays_and_tables(path):
    allowed = {"numpy", "pandas", "scipy", "statsmodels", "yaml", "pydantic", "edgelib", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


def test_every_import_of_the_library_is_a_declared_dependency():
    extras = project()["optional-dependencies"]
    declared = {bare(requirement) for requirement in project()["dependencies"]}
    booked = declared | {bare(requirement) for requirement in extras["book"]} | {"ipython", "matplotlib-inline"}
    if_present = {
        bare(requirement)
        for requirement in extras["ray"]
        + extras["kernels"]
        + extras["torchao"]
        + extras["openvino"]
        + extras["llama-cpp"]
    }
    distributions = packages_distributions()
    for path in SOURCES:
        allowed = booked if ids(path).removeprefix("edgelib/") in BOOK_ONLY else declared | if_present
        for top in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"edgelib"}:
            names = {bare(name) for name in distributions.get(top, [top])}
            assert names & allowed, f"{ids(path)} imports {top}, which pyproject.toml does not list"


def test_importing_the_library_imports_nothing_heavy():
    code = "import sys, edgelib, edgelib.cli; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_the_conda_environment_names_nothing_of_its_own():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert {bare(name) for name in conda} <= {"python", "pip"}
    assert all(line.startswith(("-c constraints.txt", "-e .[")) for line in pip["pip"])
    named = re.findall(r"\[(.*)\]", pip["pip"][-1])[0].split(",")
    assert set(named) <= set(project()["optional-dependencies"])


def test_constraints_are_exact_pins_without_a_host():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9._-]+==[\w.!+]+( ; .+)?", line), f"not an exact pin: {line}"
    assert not re.search(r"https?:|//|@|--", "\n".join(lines))


def test_every_direct_dependency_is_pinned():
    pinned = {bare(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = [*project()["dependencies"], *sum(project()["optional-dependencies"].values(), [])]
    assert {bare(requirement) for requirement in wanted} <= pinned


@pytest.mark.parametrize("name", ["README.md", "pyproject.toml", "Makefile", "environment.yml", "_config.yml"])
def test_no_file_names_a_package_registry(name):
    assert not re.search(r"pypi\.org|pythonhosted|conda\.anaconda|download\.pytorch", (ROOT / name).read_text())


@pytest.mark.parametrize("name", ["_config.yml", "_toc.yml"])
def test_the_book_is_configured_at_the_top(name):
    link = ROOT / "book" / name
    assert link.is_symlink() and link.resolve() == ROOT / name


def shown(notebook) -> list[tuple]:
    return [(cell.cell_type, cell.source.strip(), sorted(cell.metadata.get("tags", []))) for cell in notebook.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_a_notebook_and_its_text_pair_agree(path):
    pair = path.with_suffix(".ipynb")
    assert pair.is_file(), "run: make sync"
    notebook = nbformat.read(pair, as_version=4)
    assert shown(jupytext.read(path)) == shown(notebook), "run: make sync"
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs belong into book/chapters only"
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=ids)
def test_a_notebook_has_a_text_pair_and_a_place_in_the_book(path):
    assert path.with_suffix(".py").is_file(), "run: make sync"
    assert f"chapters/{path.stem}" in (ROOT / "_toc.yml").read_text()
    assert (ROOT / "params" / path.with_suffix(".yaml").name).is_file()


def parameter_defaults(path: Path) -> dict:
    """Return the values that the chapter's parameters cell assigns."""
    cells = [cell for cell in jupytext.read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1, "a chapter has one cell tagged parameters"
    assigned = {}
    for node in ast.parse(cells[0].source).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign), "the parameters cell holds plain assignments"
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        assigned[target.id] = ast.literal_eval(node.value)
    return assigned


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_a_chapter_s_parameters_are_its_schema(path):
    schema = CHAPTERS[path.stem]
    defaults = parameter_defaults(path)
    assert set(defaults) == set(schema.model_fields)
    assert schema(**defaults) == schema()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_s_default_models_ship_with_the_library(chapter):
    defaults = CHAPTERS[chapter]().model_dump()
    named = [defaults[field] for field in ("model", "baseline_model") if defaults.get(field)]
    assert [model_folder(name) for name in named] == [EMBEDDED / name for name in named]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_a_chapter_checks_its_parameters_in_its_first_cells(path):
    code = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert "begin(globals())" in code[0]
    assert "validate(globals(), " in code[2]


@pytest.mark.parametrize("path", PARAMETER_FILES, ids=ids)
def test_a_parameter_file_is_valid(path):
    chapter, values = read(path)
    assert values, f"{path} sets nothing for {chapter}"
