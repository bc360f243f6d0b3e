"""The page that holds twins against nature is the one that its tables give."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from helpers import ROOT

from edgelib.errors import EdgelibError
from edgelib.report.nature.page import page
from edgelib.report.nature.sentences import ranking_advice, ranking_sentence
from edgelib.report.nature.tables import mean_interval
from edgelib.stats.ranks import RankAgreement
from edgelib.study.nature.chapters import keep_chapters, read_chapters

TABLES = ROOT / "book" / "reference" / "nature"
AGREED = RankAgreement(0.9, (0.6, 1.0), 0.8, (0.5, 1.0), 0.8, (0.6, 1.0), 20)


def test_the_page_is_what_its_tables_say():
    written = TABLES.with_suffix(".md").read_text(encoding="utf-8")
    assert written == page(TABLES), "run: edgelib nature DECODER --out book/reference/nature --page .../nature.md"


@pytest.mark.parametrize(
    ("rho", "within", "said", "advised"),
    [
        ((0.2, 1.0), (0.6, 1.0), "formats and methods as", "bits and method on a twin"),
        ((0.2, 1.0), (0.4, 1.0), "not shown to tell which method", "bits on a twin, and the method"),
        ((-0.2, 1.0), (0.6, 1.0), "not shown to rank formats", "bits and method on a decoder"),
        ((-0.2, 1.0), (0.4, 1.0), "No ranking", "bits and method on a decoder"),
    ],
    ids=["both", "formats", "methods", "neither"],
)
def test_the_verdict_follows_the_intervals(rho, within, said, advised):
    found = replace(AGREED, rho_interval=rho, within_interval=within)
    assert said in ranking_sentence(found) and advised in ranking_advice(found)


def test_an_interval_holds_its_mean():
    mean, low, high = mean_interval([1.0, 2.0, 4.0, 3.0], "a")
    assert low < mean == 2.5 < high and mean_interval([1.0, 2.0, 4.0, 3.0], "a") == (mean, low, high)


@pytest.fixture
def chapters(tmp_path):
    """Tables as two chapters save them, and a graft's record."""
    results, graft = tmp_path / "results", tmp_path / "graft"
    tables = {
        "vlm_accuracy/scores.csv": "score,value,low,high,n_clusters,n,unparsed,task,config\n"
        "accuracy,0.5,0.4,0.6,10,40,0,vqa,bf16\naccuracy,0.3,0.2,0.4,10,40,0,vqa,w4a16\n",
        "vlm_accuracy/differences.csv": "task,config,effect,low,high,p,p_holm,mde,n,images\n"
        "vqa,w4a16,-0.2,-0.3,-0.1,0.001,0.002,0.1,40,10\n",
        "vlm_accuracy/changed.csv": "config,accuracy,low,high,n\nbf16,0,0,0,40\nw4a16,0.25,0.2,0.3,40\n",
        "fp8_kv_ablation/recovery.csv": "twin,cache,effect,low,high,p_holm,non_inferior,bytes_per_token\n"
        "plain,e4m3-one,0,-0.005,0.005,0.01,True,512\nplain,int4-amax,-0.3,-0.4,-0.2,1,False,256\n",
    }
    for name, text in tables.items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(text)
    graft.mkdir()
    (graft / "graft.json").write_text('{"tower": "a<b", "decoder": "d", "steps": 1200, "scenes": 4800}')
    return results, graft


def test_chapters_on_a_graft_stand_on_the_page(chapters, tmp_path):
    out = tmp_path / "nature"
    shutil.copytree(TABLES, out)
    keep_chapters(read_chapters(*chapters), out)
    said = page(out)
    assert "earns 50 % of VQA accuracy (95 % interval 40.0 to 60.0) on 40 questions about 10" in said
    assert "W4A16 min-max, groups of 128 (20.0 points)" in said and "1,200 steps" in said
    assert "1 of 2 caches are shown" in said and "(30.0 points) lies below 0" in said
    assert "a<b" not in said


@pytest.mark.parametrize("lacks", ["graft/graft.json", "results/fp8_kv_ablation/recovery.csv"], ids=["graft", "table"])
def test_chapters_that_lack_a_part_are_named(chapters, tmp_path, lacks):
    (tmp_path / lacks).unlink()
    with pytest.raises(EdgelibError, match=lacks.rpartition("/")[2]):
        read_chapters(*chapters)
