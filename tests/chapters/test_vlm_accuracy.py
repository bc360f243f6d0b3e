"""From the parameters of the chapter to scored answers, on folders in the layout that real models and data come in."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlm_folders
import yaml
from PIL import Image

from edgelib import EdgelibError, dataset, mme_scores, pope_scores
from edgelib.chapters.params import check
from edgelib.chapters.vlm_accuracy import ASKED, TRANSLATION, VlmAccuracy, draw_name
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep
from edgelib.tasks.benchmarks import TASKS, benchmark_difference, benchmark_scores
from edgelib.tasks.mme import mme_difference
from edgelib.tasks.vqa import vqa_scores

FAMILIES = {f.__name__: f for f in (vlm_folders.qwen2_vl, vlm_folders.idefics3, vlm_folders.blip)}
SIZES = dict(n_vqa=2, n_pope=2, n_mme=28, n_translation=2, n_calibration=4, max_new_tokens=2, batch_size=64)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """Each benchmark as a folder of parquet files with the columns and split names of the hub."""
    root, names = tmp_path_factory.mktemp("hub"), {"vqa": "validation", "pope": "test", "mme": "test"}
    for task, split in names.items():
        data = dataset(f"scenes-{task}", n=6 if task != "mme" else 56)
        rows = []
        for row in data.rows.to_dict("records"):
            buffer = io.BytesIO()
            Image.fromarray(data.images[row["image"]].permute(1, 2, 0).numpy()).save(buffer, "PNG")
            kept = {name: row[name] for name in TASKS[task].wanted}
            if task == "vqa":
                kept["answers"] = [{"answer": a, "answer_id": i} for i, a in enumerate(row["answers"])]
            rows.append(kept | {"image": {"bytes": buffer.getvalue(), "path": None}})
        (root / task).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), root / task / f"{split}-00000-of-00001.parquet")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameters_of_a_real_model_run_on_a_small_folder_of_its_family(family, benchmarks, root, tmp_path):
    folder = FAMILIES[family](tmp_path / family)
    published = yaml.safe_load((root / "params" / "qwen2-vl-2b" / "vlm_accuracy.yaml").read_text())
    configs = ["bf16", "w4a16-awq-g32"]  # the groups of 128 that are published do not divide layers of 32
    own = dict(configs=configs, vision_configs=["w8a8-minmax-vision"], translation_config="w4a16-awq-g32", device="cpu")
    own |= dict(twin_configs=["w4a16-awq-g32"])
    paths = {task: str(benchmarks / task) for task in ASKED}
    p = VlmAccuracy(
        **published | SIZES | own | paths | dict(model=str(folder), conditions=["fog:3"], translation_draws=1)
    )
    grid = p.study()
    rows = grid.score(sweep(grid, CellStore(tmp_path), progress=False))
    assert set(rows["task"]) == {*ASKED, TRANSLATION} and rows["config"].nunique() == 3
    assert rows["score"].between(0, 1).all() and (rows.loc[rows["config"] == "bf16", "kl"] == 0).all()
    assert set(rows.query("task == @TRANSLATION").category) == {"text_translation"}
    assert set(grid.calibrations) == {"balanced", draw_name("english", 0), draw_name("balanced", 0)}
    held = set(grid.sets[TRANSLATION].rows["image_id"])
    assert not held & set(grid.calibrations[draw_name("balanced", 0)].rows["image_id"])
    assert not set(grid.sets["vqa"].rows["image_id"]) & set(grid.calibrations["balanced"].rows["image_id"])


@pytest.fixture(scope="module")
def textvqa(tmp_path_factory):
    """A folder in the layout of lmms-lab/textvqa: a parquet of image, question and ten answers."""
    folder, data, rows = tmp_path_factory.mktemp("textvqa"), dataset("scenes", n=4), []
    for number, image in enumerate(data.images[range(4)]):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
        asked = {"image_id": f"i{number}", "question_id": number, "question": "what does the sign say?"}
        answers = ["stop"] * 7 + ["go"] * 3
        rows.append(asked | {"answers": answers, "image": {"bytes": buffer.getvalue(), "path": None}})
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")
    return folder


def test_a_further_benchmark_is_one_line_of_the_parameters(textvqa, tmp_path):
    p = VlmAccuracy(
        **SIZES | dict(n_more=3), more={"textvqa": str(textvqa)}, configs=["bf16", "w8a16"], vision_configs=[]
    )
    grid = p.study()
    cells = [(v, place) for v, place in grid.cells() if place.task == "textvqa"]
    assert [v.config for v, _ in cells] == ["bf16", "w8a16"] and len(grid.sets["textvqa"]) == 3
    rows = grid.score(sweep(replace(grid, asked=tuple(cells)), CellStore(tmp_path), progress=False))
    assert len(rows) == 6 and set(rows.task) == {"textvqa"} and rows.score.between(0, 1).all()
    assert {grid.spec(*cell)["instruction"] for cell in cells} == {TASKS["textvqa"].instruction} != {""}
    assert "more" in VlmAccuracy.sources()


@pytest.mark.parametrize("more", [{"vqa": "scenes-vqa"}, {"textvq": "x"}], ids=["asked already", "unknown"])
def test_a_further_benchmark_must_be_one_that_the_library_has(more):
    with pytest.raises(EdgelibError, match="further benchmark.*textvqa"):
        check({"more": more}, VlmAccuracy)


@pytest.fixture(scope="module")
def answers():
    """Random answers of two models to the three benchmarks, as rows of a study."""
    rng, found = np.random.default_rng(0), {}
    for task in ASKED:
        rows = dataset(f"scenes-{task}", n=28).rows
        rows = rows.rename(columns={"answers": "reference", "answer": "reference", "question_type": "category"})
        rows = rows[["image_id", "category", "reference"]]
        found[task] = [
            rows.assign(prediction=rng.choice(["yes", "no"], len(rows)), score=rng.integers(0, 2, len(rows)))
            for _ in range(2)
        ]
    return found


def test_benchmark_scores_are_those_of_the_official_rules(answers):
    boot = dict(n_boot=200, level=0.9, seed=1)
    table = {task: benchmark_scores(task, answers[task][0], **boot).set_index("score") for task in ASKED}
    vqa, pope, mme = (answers[task][0] for task in ASKED)
    assert table["vqa"].value["accuracy"] == pytest.approx(vqa_scores(vqa.prediction, vqa.reference)["accuracy"])
    assert table["pope"].value["f1"] == pytest.approx(pope_scores(pope.reference, pope.prediction)["f1"])
    frame = pd.DataFrame(dict(task=mme.category, image=mme.image_id, answer=mme.reference, prediction=mme.prediction))
    assert table["mme"].value["total"] == pytest.approx(mme_scores(frame)["total"] / 100)
    assert all((t.low <= t.value + 1e-9).all() and (t.value <= t.high + 1e-9).all() for t in table.values())


@pytest.mark.parametrize("task", ASKED)
def test_benchmark_differences_turn_sign_and_agree_with_the_scores(task, answers):
    a, b = answers[task]
    boot = dict(n_boot=200, level=0.9, seed=1)
    one, other = benchmark_difference(task, a, b, **boot), benchmark_difference(task, b, a, **boot)
    assert one.effect == pytest.approx(-other.effect) and one.interval[0] <= one.effect <= one.interval[1]
    if task != "vqa":  # whose paired outcomes are the scores of the rows
        value = [benchmark_scores(task, own, **boot).set_index("score").value[TASKS[task].primary] for own in (a, b)]
        assert one.effect == pytest.approx(value[0] - value[1])


def test_a_sub_task_is_compared_as_in_the_whole_benchmark(answers):
    a, b = answers["mme"]
    names = {"category": "task", "image_id": "image", "reference": "answer"}
    whole = mme_difference(a.rename(columns=names), b.rename(columns=names), score="count", n_boot=200, seed=1)
    test = benchmark_difference("mme", a, b, score="count", n_boot=200, seed=1)
    assert [100 * x for x in (test.effect, *test.interval, test.mde)] == pytest.approx(
        [whole.effect, *whole.interval, whole.mde]
    )


def test_sets_of_another_benchmark_and_classifiers_are_refused(tmp_path):
    small = {**SIZES, "model": str(vlm_folders.qwen2_vl(tmp_path / "tiny"))}
    with pytest.raises(EdgelibError, match="pope='scenes-mme' holds questions of mme"):
        check({**small, "pope": "scenes-mme"}, VlmAccuracy)
    with pytest.raises(EdgelibError, match="vqa='scenes' holds labelled images"):
        VlmAccuracy(**small, vqa="scenes").study()
    with pytest.raises(EdgelibError, match="scenes-clip classifies images"):
        VlmAccuracy(**SIZES, model="scenes-clip").study()
