"""The chapter of answers on benchmarks as their own sites hand them out, from the command line to the scores."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml
from official import write_mme, write_pope, write_vqa
from typer.testing import CliRunner

from edgelib import dataset
from edgelib.chapters.params import check
from edgelib.chapters.table import CHAPTERS
from edgelib.cli import app
from edgelib.errors import EdgelibError
from edgelib.tasks.benchmarks import TASKS, benchmark_scores
from edgelib.tasks.mme import mme_scores
from edgelib.tasks.pope import pope_scores
from edgelib.tasks.vqa import vqa_scores

SMALL = dict(n_vqa=2, n_pope=2, n_mme=28, n_translation=2, n_calibration=2, max_new_tokens=2, n_bootstrap=200)
GRID = dict(
    configs=["bf16", "w4a16"], vision_configs=[], twins=["weight:16"], twin_configs=["w4a16"], conditions=["fog:3"]
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """VQAv2, POPE and MME in the layouts of their own sites; the images of POPE lie apart."""
    root = tmp_path_factory.mktemp("sites")
    write_vqa(root / "vqa", dataset("scenes-vqa", n=6))
    write_pope(root / "pope", dataset("scenes-pope", n=6), images=str(root / "elsewhere" / "val2014"))
    write_mme(root / "MME_Benchmark_release_version", dataset("scenes-mme", n=56))
    return root


@pytest.mark.slow
def test_official_folders_are_checked_swept_and_scored(sites, tmp_path):
    file, out = tmp_path / "vlm_accuracy.yaml", tmp_path / "rows.parquet"
    own = dict(vqa=str(sites / "vqa"), vqa_split="validation", pope=str(sites / "pope"))
    own |= dict(mme=str(sites / "MME_Benchmark_release_version"), images={"pope": str(sites / "elsewhere")})
    file.write_text(yaml.safe_dump(SMALL | GRID | own | dict(results=str(tmp_path / "results"))))
    run = CliRunner()
    said = run.invoke(app, ["check", str(file)])
    assert said.exit_code == 0 and "is valid for the chapter vlm_accuracy" in said.output
    done = run.invoke(app, ["sweep", str(file), "--out", str(out), "--executor", "serial"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = pd.read_parquet(out)
    plain = rows[(rows["config"] == "bf16") & (rows["severity"] == 0) & (rows["twin"] == "plain")]
    asked = {}
    for task, split in (("vqa", "validation"), ("pope", "test"), ("mme", "test")):
        read = dataset(own[task], split, images=own["images"].get(task)).rows.set_index("item")
        said = plain[plain["task"] == task]
        asked[task] = said.assign(reference=read.loc[said["item"], TASKS[task].reference].to_numpy())
        assert said["question"].tolist() == read.loc[said["item"], "question"].tolist()
    worth = {t: benchmark_scores(t, said, n_boot=100).set_index("score").value for t, said in asked.items()}
    vqa, pope, mme = asked.values()
    assert worth["vqa"]["accuracy"] == pytest.approx(vqa_scores(vqa["prediction"], vqa["reference"])["accuracy"])
    assert worth["pope"]["f1"] == pytest.approx(pope_scores(pope["reference"], pope["prediction"])["f1"])
    sheet = mme[["category", "image_id", "reference", "prediction"]].set_axis(
        ["task", "image", "answer", "prediction"], axis=1
    )
    points = mme_scores(sheet)
    assert 100 * worth["mme"]["total"] == pytest.approx(points["total"]) and points["missing"] == []


WRONG = {
    "questions as images": (
        "robustness_gap",
        lambda root: {"dataset": str(root / "vqa")},
        r"holds questions \(VQAv2 from visualqa.org\), .* \(parameters vqa and dataset\) can take it",
    ),
    "images of questions as images": (
        "robustness_gap",
        lambda root: {"dataset": str(root / "elsewhere")},
        "images of COCO val2014, which have no classes",
    ),
    "an unknown role": (
        "vlm_accuracy",
        lambda root: {"columns": {"vqa": {"questions": "q"}}},
        "unknown role of a column 'questions' .did you mean 'question'",
    ),
    "an unknown benchmark": (
        "vlm_accuracy",
        lambda root: {"images": {"pop": "x"}},
        "unknown benchmark in images 'pop' .did you mean 'pope'",
    ),
}


@pytest.mark.parametrize(("chapter", "values", "words"), WRONG.values(), ids=WRONG)
def test_what_a_folder_looks_like_is_said_before_anything_runs(chapter, values, words, sites):
    with pytest.raises(EdgelibError, match=words):
        check(values(sites), CHAPTERS[chapter])


def test_questions_of_another_benchmark_name_the_parameter_that_takes_them(sites):
    given = {"vqa": str(sites / "pope"), "images": {"vqa": str(sites / "elsewhere")}}
    with pytest.raises(
        EdgelibError, match="holds questions of pope, which the parameter pope takes; name a set of vqa"
    ):
        CHAPTERS["vlm_accuracy"](**SMALL, **given).study()


def test_own_questions_with_columns_of_other_names_are_a_line_of_the_parameters(sites, tmp_path):
    [folder] = (sites / "elsewhere").iterdir()
    records = [{"q": "is it red?", "gt": "yes", "path": file.name} for file in sorted(folder.glob("*.jpg"))[:3]]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, records)))
    p = CHAPTERS["vlm_accuracy"](
        **SMALL | GRID | dict(n_more=3),
        more={"exact": str(tmp_path / "test.jsonl")},
        more_split="test",
        columns={"exact": {"question": "q", "answer": "gt", "image": "path"}},
        images={"exact": str(folder)},
    )
    grid = p.study()
    assert len(grid.sets["exact"]) == 3 and "exact" in {place.task for _, place in grid.cells()}
