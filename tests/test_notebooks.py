"""Every notebook runs from start to end at smoke size, through papermill and cell by cell through nbval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from edgelib.report.publish import Chapter, execute

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.book


def smoke_parameters(chapter: str, results: Path) -> dict:
    """Return tests/smoke/<chapter>.yaml with results in a folder of the test's own."""
    return yaml.safe_load((ROOT / "tests" / "smoke" / f"{chapter}.yaml").read_text()) | {"results": str(results)}


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request, tmp_path_factory) -> Path:
    """A notebook executed by papermill at smoke size."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    target = folder / request.param.name
    execute(Chapter(request.param.stem, ROOT, smoke_parameters(request.param.stem, folder / "results")), target)
    return target


def test_it_runs_through_papermill(executed):
    code = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())


def test_it_complains_about_nothing(executed):
    cells = nbformat.read(executed, as_version=4).cells
    said = [output.text for cell in cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not said


def test_its_tables_are_written(executed):
    assert list((executed.parent / "results" / executed.stem).glob("*.csv"))


def test_it_runs_cell_by_cell(executed):
    command = ["-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q", str(executed)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_misspelt_parameter_stops_papermill(notebook, tmp_path):
    command = ["-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "n_imags", "3"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "did you mean 'n_images'?" in done.stderr
