"""Every notebook runs from start to end at smoke size, through papermill and cell by cell through nbval."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from helpers import ROOT

from edgelib.chapters.table import CHAPTERS
from edgelib.models.load import EMBEDDED
from edgelib.report.notebook import NARROW
from edgelib.report.publish import Chapter, execute

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOSTILE = "<img src=x onerror=alert(1)>$x_1$"  # what a folder and a device may be called
HOSTILE_CLASS = "<i>$x$"  # prompts have room for few tokens
TAG = re.compile(r"<img src=x|<i>\$x", re.IGNORECASE)
SHOWN = ("text/html", "text/markdown", "image/svg+xml")

pytestmark = pytest.mark.book


def smoke_parameters(chapter: str, folder: Path) -> dict:
    """Return tests/smoke/<chapter>.yaml with results in a folder of the test's own, and with hostile names."""
    values = yaml.safe_load((ROOT / "tests" / "smoke" / f"{chapter}.yaml").read_text())
    fields = CHAPTERS[chapter].model_fields
    if "model" in fields:
        values["model"] = str(shutil.copytree(EMBEDDED / fields["model"].default, folder / HOSTILE))
    if "devices" in fields:
        device = yaml.safe_load((ROOT / "edgelib" / "devices" / "known" / "jetson-nano.yaml").read_text())
        (folder / "hostile.yaml").write_text(yaml.safe_dump(device | {"name": HOSTILE, "order": 1}))
        values |= {"device_table": str(folder / "hostile.yaml"), "devices": [*values["devices"], "hostile"]}
    return values | {"results": str(folder / "results")}


def markup_of_names(outputs) -> list[str]:
    """Whatever a page would take for the hostile name's own tag."""
    return [
        text[max(0, found.start() - 60) : found.end() + 60]
        for output in outputs
        for kind in SHOWN
        if (text := "".join(output.get("data", {}).get(kind, ""))) and (found := TAG.search(text))
    ]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request, tmp_path_factory) -> Path:
    """A notebook executed by papermill at smoke size."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    target = folder / request.param.name
    execute(Chapter(request.param.stem, ROOT, smoke_parameters(request.param.stem, folder)), target)
    return target


def test_it_runs_through_papermill(executed):
    code = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())


def test_names_from_outside_are_never_markup(executed):
    assert not markup_of_names(
        o for cell in nbformat.read(executed, as_version=4).cells for o in cell.get("outputs", [])
    )


def test_it_complains_about_nothing(executed):
    cells = nbformat.read(executed, as_version=4).cells
    said = [output.text for cell in cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not said


def test_its_figures_are_drawn_for_a_page_and_for_a_phone(executed):
    cells = nbformat.read(executed, as_version=4).cells
    kinds = [set(output.get("data", {})) for cell in cells for output in cell.get("outputs", [])]
    drawn = [kind for kind in kinds if any(name.startswith("image/") for name in kind)]
    assert all({"image/svg+xml", NARROW} <= kind and "image/png" not in kind for kind in drawn)


def test_its_tables_are_written(executed):
    assert list((executed.parent / "results" / executed.stem).glob("*.csv"))


def test_it_runs_cell_by_cell(executed):
    command = ["-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-kernel-startup-timeout", "600"]
    command += ["-p", "no:cacheprovider", "-q", str(executed)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_misspelt_parameter_stops_papermill(tmp_path):
    """In one of them: the cell that reads parameters is the same in all."""
    notebook = ROOT / "notebooks" / "robustness_gap.ipynb"
    command = ["-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "resluts", "out"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "did you mean 'results'?" in done.stderr


def test_the_robustness_chapter_takes_another_model_and_data_set_by_parameters_alone(tmp_path):
    rng = np.random.default_rng(0)
    names = ["airplane", HOSTILE_CLASS, "bird"]
    photographs = tmp_path / "photographs.npz"
    np.savez(
        photographs, images=rng.integers(0, 256, (12, 32, 32, 3), np.uint8), labels=np.arange(12) % 3, class_names=names
    )
    model = shutil.copytree(EMBEDDED / "scenes-clip", tmp_path / "my-clip")
    parameters = {
        "model": str(model),
        "dataset": str(photographs),
        "baseline_model": None,
        "prompts": "cifar",
        "n_images": 6,
        "configs": ["fp32", "w8a8-smoothquant"],
        "corruptions": ["fog"],
        "severities": [3],
        "twins": ["weight:8"],
        "n_calibration": 4,
        "n_bootstrap": 100,
        "results": str(tmp_path / "results"),
    }
    target = tmp_path / "out.ipynb"
    execute(Chapter("robustness_gap", ROOT, parameters), target)
    assert "cifar-c" in target.read_text()
    outputs = [o for cell in nbformat.read(target, as_version=4).cells for o in cell.get("outputs", [])]
    assert str(tmp_path) not in "".join(map(str, outputs))
    assert not markup_of_names(outputs)
