"""TextVQA: scores against the official evaluator's, and a folder of the published columns from dataset to scores."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlm_folders
from helpers import REFERENCE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import edgelib
from edgelib.errors import EdgelibError
from edgelib.infer.generate import generate
from edgelib.tasks.benchmarks import benchmark_difference, benchmark_scores
from edgelib.tasks.textvqa import TEXTVQA, normalise_read, textvqa_accuracies

PEER = json.loads((REFERENCE / "metrics" / "textvqa.json").read_text(encoding="utf-8"))
SHARED = json.loads((REFERENCE / "metrics" / "vqav2.json").read_text(encoding="utf-8"))["cases"]


def spread(runs) -> list[str]:
    return [text for times, text in runs for _ in range(times)]


def test_normal_forms_equal_the_official_ones():
    assert {raw: normalise_read(raw) for raw, _ in PEER["normal_forms"]} == dict(PEER["normal_forms"])


def test_accuracies_equal_the_official_ones():
    predictions = [case[0] for case in SHARED] + [said for said, _, _ in PEER["cases"]]
    answers = [spread(case[1]) for case in SHARED] + [spread(runs) for _, runs, _ in PEER["cases"]]
    official = PEER["accuracies"] + [accuracy for _, _, accuracy in PEER["cases"]]
    assert 100 * textvqa_accuracies(predictions, answers) == pytest.approx(np.array(official), abs=0.005 + 1e-9)


@given(st.lists(st.sampled_from(["stop", "Stop!", "the stop", "joe's", "joe 's", "1,000", "1000", ""]), min_size=10))
def test_accuracy_is_its_definition_over_annotators(answers):
    normal = [normalise_read(text) for text in answers]
    for said in ("STOP", "Joe's", "1000", "other", "a"):
        own = normalise_read(said)
        shares = [min(1, sum(other == own for j, other in enumerate(normal) if j != i) / 3) for i in range(len(normal))]
        assert textvqa_accuracies([said], [answers]) == pytest.approx(np.mean(shares), abs=1e-12)


def test_unanimous_annotators_are_compared_in_normal_form():
    assert textvqa_accuracies(["Yes"], [["yes"] * 10]) == 1 and edgelib.vqa_accuracy("Yes", ["yes"] * 10) == 0


def published_rows(n: int = 12) -> list[dict]:
    """Rows as lmms-lab/textvqa lays them out: three questions about each of four pictures of different sizes."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        buffer = io.BytesIO()
        picture = np.random.default_rng(i // 3).integers(0, 256, (40 + 4 * (i // 3), 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(buffer, "PNG")
        rows.append(
            dict(
                image_id=f"00{i // 3}a4c",
                question_id=34602 + i,
                question=f"what does sign {i % 3} say?",
                question_tokens=["what", "does"],
                image={"bytes": buffer.getvalue(), "path": None},
                image_width=48,
                image_height=40,
                flickr_original_url="https://farm.example/o.jpg",
                flickr_300k_url="https://farm.example/z.jpg",
                answers=rng.choice(["stop", "Stop", "exit", "unanswerable"], 10).tolist(),
                image_classes=["Street light", "Sign"],
                set_name="val",
                ocr_tokens=["STOP", "EXIT"],
            )
        )
    return rows


def folder_of(rows: list[dict], folder):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(published_rows(), tmp_path_factory.mktemp("hub") / "textvqa")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return edgelib.load(vlm_folders.qwen2_vl(tmp_path_factory.mktemp("models") / "tiny"))


def test_a_folder_of_the_published_columns_is_read(folder):
    rows, data = published_rows(), edgelib.dataset(folder, "validation")
    assert data.task is TEXTVQA and len(data) == 12 and len(data.images) == 4
    assert data.rows["item"][0] == "validation/34602" and data.rows["question"][0] == "What does sign 0 say?"
    assert data.rows["image_id"].tolist() == [row["image_id"] for row in rows]
    assert data.rows["answers"].tolist() == [row["answers"] for row in rows]
    assert tuple(data.images[[3]].shape) == (1, 3, 52, 48)
    assert len(edgelib.dataset(folder, "validation", n=2)) == 6, "a draw takes whole images"
    assert data.references([0]) == [max(rows[0]["answers"], key=rows[0]["answers"].count)]


def test_a_model_is_evaluated_and_compared_on_it(folder, model):
    data = edgelib.dataset(folder, "validation")
    seen = edgelib.calibration_set("balanced", 4, source=folder, exclude=data.subset(range(6)))
    assert not set(seen.rows["image_id"]) & set(data.rows["image_id"][:6]) and seen.split == "validation"
    quantized = edgelib.quantize(model, "w8a8-minmax", seen)
    rows = edgelib.evaluate(model, data)
    fogged = edgelib.evaluate(quantized, data, corruption="fog", severity=3, baseline=model)
    official = textvqa_accuracies(rows["prediction"], data.rows["answers"])
    assert rows["score"].tolist() == official.tolist() and set(rows["category"]) == {"all"}
    assert rows["yes_margin"].isna().all() and fogged["kl"].ge(0).all()
    [own] = benchmark_scores("textvqa", rows, n_boot=100).to_dict("records")
    assert own["value"] == pytest.approx(official.mean()) and own["n_clusters"] == 4 and own["n"] == 12
    test = benchmark_difference("textvqa", rows, fogged)
    assert test.effect == pytest.approx((rows["score"] - fogged["score"]).mean()) and test.n_clusters == 4


def test_it_asks_for_a_word_unless_told_otherwise(folder, model):
    data = edgelib.dataset(folder, "validation")
    plain, own = (generate(model, data, instruction=line) for line in ("", None))
    same = generate(model, data, instruction="Answer the question using a single word or phrase.")
    assert own.equals(same) and not own["logprob"].equals(plain["logprob"])


def changed(**columns) -> list[dict]:
    return [row | columns for row in published_rows(3)]


UNREADABLE = {
    "records": (
        changed(answers=[{"answer": "stop", "answer_id": i} for i in range(10)]),
        "holds records, as VQAv2 does, but .* question_type and answer_type, are missing",
    ),
    "half of VQAv2": (changed(question_type="what"), "could be questions of vqa, but has no column answer_type"),
    "three answers": (changed(answers=["stop"] * 3), "must hold 10 texts a question.* got 3 in row 0"),
    "the test split": (changed(answers=[""] * 10), "only empty texts in row 0; the test split of TextVQA has no"),
    "nobody": (changed(answers=[]), "must hold the annotators' texts"),
}


@pytest.mark.parametrize(("rows", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_tables_that_are_nearly_of_it_are_refused(rows, words, tmp_path):
    with pytest.raises(EdgelibError, match=words):
        edgelib.dataset(folder_of(rows, tmp_path / "t"), "validation")


def test_all_columns_of_vqav2_make_it_vqa(tmp_path):
    rows = changed(question_type="what does", answer_type="other")
    assert edgelib.dataset(folder_of(rows, tmp_path / "t"), "validation").task.name == "vqa"
