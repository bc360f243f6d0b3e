"""The commands around the store: what a sweep will take, tables in three formats, whether a store can be trusted."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from edgelib.cli import app
from edgelib.study.classifier_grid import ClassifierGrid

GRID = dict(
    n_images=6,
    configs=["fp32", "w8a8-minmax"],
    baseline_model=None,
    corruptions=["fog"],
    severities=[3],
    twins=[],
    n_calibration=4,
    executor="serial",
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "robustness_gap.yaml"
    path.write_text(yaml.safe_dump(GRID | {"results": str(tmp_path / "results")}))
    return path


def run(*words) -> tuple[int, str]:
    """Exit status and all output of a command; what it should have caught is raised."""
    done = CliRunner().invoke(app, [*map(str, words)])
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x.xls"], "unknown ending of 'x.xls' '.xls'; choose from .csv, .json, .parquet"),
        (["--out", "x"], "unknown ending of 'x' ''; choose from .csv, .json, .parquet"),
        (["--address", "auto"], "--address and --gpus are of Ray's workers; add --executor ray"),
        (["--executor", "spark"], "'spark'"),
        (["--executor", "ray", "--gpus", "1.5"], "gpus of a worker must be a share of one or a whole number"),
        (["--workers", "0"], "workers"),
    ],
    ids=["ending", "no ending", "address", "executor", "gpus", "workers"],
)
def test_a_sweep_that_cannot_be_is_refused_at_once(file, words, said):
    status, text = run("sweep", file, *words)
    assert status == 1 and said in text and not (file.parent / "results").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nowhere"], "no store at 'nowhere/cells'"), (["nowhere", "--recompute", 3], "name its file with --params")],
    ids=["no store", "no grid"],
)
def test_a_store_that_cannot_be_looked_at_is_named(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    status, text = run("verify-store", *words)
    assert status == 1 and said in text and not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_a_grid_is_foretold_run_written_checked_damaged_and_mended(file, monkeypatch):
    folder = file.parent
    status, text = run("sweep", file, "--dry-run")
    assert status == 0 and "nothing was stored" in text and not list(folder.rglob("*.parquet")), text
    lines = [line.split() for line in text.splitlines() if line.split()[0] in ("serial", "thread", "process", "ray")]
    assert [line[2:4] for line in lines] == [["4", "4"]] * 4 and all(float(line[4]) > 0 for line in lines)
    tables = {}
    for ending, read in ((".csv", pd.read_csv), (".json", pd.read_json), (".parquet", pd.read_parquet)):
        status, text = run("sweep", file, "--out", folder / f"rows{ending}")
        assert status == 0, text
        tables[ending] = read(folder / f"rows{ending}")
    for table in tables.values():
        pd.testing.assert_frame_equal(
            table.astype({"margin": "float32", "drift": "float32"}), tables[".parquet"], check_exact=False, rtol=1e-6
        )
    summary = json.loads((folder / "rows.summary.json").read_text())
    assert tables[".parquet"].attrs["provenance"]["code"] == summary["code"]
    assert summary["sources"]["dataset"] == "scenes: of this version of edgelib" and len(summary["code"]) == 64
    assert summary["outcomes"] == 24 and summary["kind"] == "simulated" and summary["parameters"]["n_images"] == 6
    assert {m["severity"]: m["mean"] for m in summary["means"] if m["config"] == "fp32"} == pytest.approx(
        tables[".csv"].query("config == 'fp32'").groupby("severity").correct.mean().to_dict()
    )
    status, text = run("verify-store", folder / "results", "--recompute", 2, "--params", file)
    assert status == 0 and "4 whole cells" in text and "2 cells computed again, 0 different" in text
    cell = min((folder / "results" / "cells").rglob("*.parquet"))
    data = bytearray(cell.read_bytes())
    data[100] ^= 4
    cell.write_bytes(data)
    status, text = run("verify-store", folder / "results")
    assert status == 1 and f"damaged: {cell}: its digest does not match" in text and "1 damaged" in text
    whole = ClassifierGrid.evaluate
    monkeypatch.setattr(ClassifierGrid, "evaluate", lambda *_: 1 / 0)
    status, text = run("sweep", file)
    assert "edgelib: note: 1 stored cell(s) damaged, which count as missing and are computed again" in text
    assert status == 1 and "1 of 4 cells failed each time" in text and "ZeroDivisionError: division by zero" in text
    monkeypatch.setattr(ClassifierGrid, "evaluate", whole)
    assert run("sweep", file)[0] == 0
    assert run("verify-store", folder / "results" / "cells")[0] == 0
