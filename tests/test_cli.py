"""The command line: a mistake is one paragraph, grids run without a notebook and go on where they were."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from edgelib.cli import app
from edgelib.study import sweep


def edgelib(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from edgelib.cli import main; main()", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


TIMED = ["measure", "out", "--model", "scenes-vlm"]
CHECK = ["check", "empty.yaml", "--chapter", "robustness_gap"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["publish", "tinny"], "unknown chapter 'tinny'", id="unknown chapter"),
        pytest.param(["publish", "--params-dir", "params/nobody"], "no folder params/nobody", id="unknown folder"),
        pytest.param(["check", "robustness_gap.yaml"], "no parameter file", id="no file"),
        pytest.param(["check", "typo.yaml", "--chapter", "robustness_gap"], "did you mean 'n_images'", id="typo"),
        pytest.param(["sweep", "typo.yaml", "--chapter", "efficiency"], "chapter with a grid 'eff", id="no grid"),
        pytest.param(["measure", "out", "--threads", "0"], "threads must be at least 1", id="no threads"),
        pytest.param(["measure", "out", "--threads", f"{10**12}"], "the cores of this machine", id="too many threads"),
        pytest.param(["measure", "typo.yaml"], "typo.yaml is a file, and the tables need a folder", id="out is a file"),
        pytest.param([*TIMED, "--batch", "1,0"], "batch must be up to 8 different whole numbers", id="batch of none"),
        pytest.param([*TIMED, "--batch", "٣"], "batch must be up to 8 different", id="batch in other digits"),
        pytest.param([*TIMED, "--batch", "9" * 5000], "batch must be up to 8 different", id="long batch"),
        pytest.param([*TIMED, "--kernels", "onnx-int9"], "'onnx-int9' cannot be timed", id="no such kernel"),
        pytest.param([*TIMED, "--kernels", "torchao-fp8"], "'torchao-fp8' cannot be timed", id="kernel of a GPU"),
        pytest.param([*TIMED, "--images", "nowhere"], "no images 'nowhere'", id="no images"),
        pytest.param([*TIMED, "--images", "params"], "params holds no images (nothing)", id="empty images"),
        pytest.param(["measure", "out", "--model", "./nothing"], "no model './nothing'", id="no model to time"),
        pytest.param(["measure", "out", "--batch", "1"], "--batch is of a model of your own", id="batch of no model"),
        pytest.param(["train", "scenes-vit", "--seed", f"{10**30}"], "at most 64 bits, got 10000", id="long seed"),
        pytest.param(["graft", "out", "--decoder", "llm_nobody"], "no installed package is called", id="no decoder"),
        pytest.param([*CHECK, "-y", "{n_images: 8, n_images: 9}"], "'n_images' is named twice", id="twice in -y"),
        pytest.param([*CHECK, "-y", "[1]"], "-y must hold lines 'name: value', got [1]", id="no mapping in -y"),
        pytest.param([*CHECK, "-y", "n_images: 0"], "with -y: n_images = 0", id="bad -y"),
    ],
)
def test_a_mistake_is_one_paragraph_and_status_one(tmp_path, monkeypatch, arguments, said):
    for name in ("notebooks", "edgelib", "params"):
        (tmp_path / name).mkdir()
    for name in ("pyproject.toml", "edgelib/errors.py", "notebooks/tiny.ipynb"):
        (tmp_path / name).write_text("")
    (tmp_path / "typo.yaml").write_text("n_imags: 3\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_check_prints_every_value(tmp_path):
    (tmp_path / "embedded_world.yaml").write_text("n_images: 33\n")
    done = edgelib("check", "embedded_world.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "n_images: 33\n" in done.stdout
    assert "seed: 0  # default" in done.stdout
    done = edgelib("check", "embedded_world.yaml", "-y", "n_images: 34", cwd=tmp_path)
    assert "n_images: 34\n" in done.stdout, done.stderr


GRIDS = {
    "robustness_gap": dict(
        n_images=6,
        configs=["fp32", "w8a8-minmax"],
        baseline_model=None,
        corruptions=["fog"],
        severities=[3],
        twins=[],
        n_calibration=4,
    ),
    "vlm_accuracy": dict(
        n_vqa=2,
        n_pope=2,
        n_mme=28,
        configs=["bf16", "w8a16"],
        vision_configs=[],
        twins=["weight:16"],
        twin_configs=["w8a16"],
        n_calibration=4,
        n_translation=2,
        conditions=["fog:3"],
        max_new_tokens=2,
    ),
    "fp8_kv_ablation": dict(
        n_images=4,
        n_calibration=4,
        twins=["key:64"],
        dose_kinds=["key"],
        doses=[1.0, 64.0],
        dose_schemes=["e4m3-one"],
        fixes=["e4m3-amax"],
        max_new_tokens=2,
    ),
    "edge_engines": dict(
        n_images=2,
        decoders=["f16", "q8_0"],
        visions=["f16"],
        conditions=["fog:3"],
        n_calibration=2,
        image_tokens=[4],
        max_new_tokens=2,
    ),
}
COLUMNS = {
    "robustness_gap": {"correct", "corruption", "severity", "twin", "config"},
    "vlm_accuracy": {"score", "said", "task", "severity", "twin", "config"},
    "fp8_kv_ablation": {"score", "said", "cache", "attention", "twin"},
    "edge_engines": {"score", "said", "config", "mix", "severity", "twin"},
}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", GRIDS)
def test_a_grid_runs_without_a_notebook_and_its_cells_are_kept(tmp_path, monkeypatch, chapter):
    file, out = tmp_path / "mine.yaml", tmp_path / "out" / "rows.parquet"
    file.write_text(yaml.safe_dump(GRIDS[chapter] | {"results": str(tmp_path / "results"), "executor": "serial"}))
    command = ["sweep", str(file), "--chapter", chapter, "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = pd.read_parquet(out)
    assert set(rows.columns) >= COLUMNS[chapter] and rows["twin"].nunique() >= 1 and not rows["item"].isna().any()
    last = done.stdout.strip().splitlines()[-1]
    assert f"{len(rows)} outcomes in {out}" in last and ("severity 0 is clean" in last) == ("severity" in rows)
    monkeypatch.setattr(sweep, "run_tasks", lambda *given, **named: pytest.fail("nothing is left to compute"))
    assert CliRunner().invoke(app, command).output.splitlines()[-1] == last
    pd.testing.assert_frame_equal(pd.read_parquet(out), rows)
