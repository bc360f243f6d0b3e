"""Questions as they are downloaded: the files of each benchmark's own site, and tables of one's own."""

from __future__ import annotations

import base64
import csv
import json
import shutil

import official
import pytest
import torch
from official import coco, hub_rows, jpeg, write_cache, write_mme, write_parquet, write_pope, write_vqa

from edgelib.data.datasets import dataset
from edgelib.errors import EdgelibError
from edgelib.tasks.benchmarks import TASKS

VQA, POPE, MME = (dataset(f"scenes-{task}", n=n) for task, n in (("vqa", 4), ("pope", 4), ("mme", 28)))


def says(call, *args, **kwargs) -> str:
    with pytest.raises(EdgelibError) as error:
        call(*args, **kwargs)
    return str(error.value)


def close(a, b) -> bool:
    return a.shape == b.shape and (a.int() - b.int()).abs().float().mean() < 4


def same_pixels(read, own) -> bool:
    """Whether every row shows what it is about; JPEG moves a pixel by some levels."""
    return all(
        close(read.images[[i]][0], own.images[[j]][0])
        for i, j in zip(read.rows["image"], own.rows["image"], strict=True)
    )


# --- benchmarks of their own sites


@pytest.mark.parametrize("where", ["under", "beside", "given", "official tree"])
def test_vqav2_is_read_from_its_own_files(where, tmp_path):
    root, options = tmp_path / "vqa", {}
    write_vqa(root, VQA, {"under": "val2014", "official tree": "Images/mscoco/val2014"}.get(where))
    if where == "official tree":
        for kind in ("questions", "annotations"):
            [file] = root.glob(f"*_{kind}.json")
            (root / kind.capitalize()).mkdir()
            file.rename(root / kind.capitalize() / file.name)
    if where in ("beside", "given"):
        images = tmp_path / ("val2014" if where == "beside" else "far/away/coco/val2014")
        write_vqa(tmp_path / "elsewhere", VQA, str(images))
        for file in (tmp_path / "elsewhere").glob("*.json"):
            file.unlink()
        options = {"images": tmp_path / "far"} if where == "given" else {}
    data = dataset(root, "validation", **options)
    assert data.task is TASKS["vqa"] and data.split == "validation" and len(data) == len(VQA)
    columns = ["question", "question_type", "answer_type", "answers"]
    assert data.rows[columns].to_dict("records") == VQA.rows[columns].to_dict("records")
    assert data.rows["item"][0] == "validation/458000" and data.rows["image_id"][0] == "458"
    assert same_pixels(data, VQA)
    assert "present: validation" in says(dataset, root, "test")


def test_what_vqav2_lacks_is_named(tmp_path):
    root = write_vqa(tmp_path / "vqa", VQA, images=None)
    assert "such as COCO_val2014_000000000458.jpg" in says(dataset, root, "val")
    assert "is no folder" in says(dataset, root, "val", images=tmp_path / "nowhere")
    write_vqa(root, VQA)
    (root / "val2014" / f"{coco(459)}.jpg").unlink()
    assert "1 of 4 images" in says(dataset, root, "val") and f"{coco(459)}.jpg" in says(dataset, root, "val")
    (root / "v2_mscoco_val2014_annotations.json").unlink()
    assert "asks questions without answers" in says(dataset, root, "val")
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text("{")
    (root / "v2_mscoco_val2014_annotations.json").write_text("{}")
    assert "is not JSON" in says(dataset, root, "val")


@pytest.mark.parametrize("ending", [".png", ".JPG", ".JPEG"])
def test_images_that_end_otherwise_than_named_are_read_and_told(ending, tmp_path):
    root = write_vqa(tmp_path, VQA)
    for file in (root / "val2014").iterdir():
        file.rename(file.with_suffix(ending))
    with pytest.warns(UserWarning, match=f"4 of 4 images .*{ending} for COCO_val2014_0+458.jpg"):
        data = dataset(root, "val")
    assert same_pixels(data, VQA)


def changed(root, kind: str, **fields) -> None:
    """Change fields of the first record of VQAv2's questions or annotations."""
    [file] = root.glob(f"*_{kind}.json")
    held = json.loads(file.read_text())
    held[kind][0] |= fields
    file.write_text(json.dumps(held))


IDS = {
    "an image named by text": ("questions", {"image_id": "../../x"}, "expected the number of an image"),
    "an image below zero": ("questions", {"image_id": -5}, "expected the number of an image"),
    "half an image": ("questions", {"image_id": 0.5}, "record 1 .* as 'image_id', expected a whole number"),
    "a list for an id": ("annotations", {"question_id": [1]}, "record 1 .* as 'question_id'"),
    "an id twice": ("questions", {"question_id": 459000}, "has question_id 459000 more than once"),
    "no question": ("questions", {"question": None}, "must hold texts"),
}


@pytest.mark.parametrize("case", IDS)
def test_fields_of_vqav2_that_cannot_be_are_named(case, tmp_path):
    kind, fields, words = IDS[case]
    changed(write_vqa(tmp_path, VQA), kind, **fields)
    with pytest.raises(EdgelibError, match=words) as error:
        dataset(tmp_path, "val")
    assert "\n" not in str(error.value)


def test_archives_that_lie_packed_are_named(tmp_path):
    for name in ("val2014.zip", "v2_Questions_Val_mscoco.zip"):
        (tmp_path / name).write_bytes(b"PK")
    assert "unpack v2_Questions_Val_mscoco.zip, val2014.zip" in says(dataset, tmp_path)
    assert "'val2014.zip' is an archive" in says(dataset, tmp_path / "val2014.zip")
    write_vqa(tmp_path, VQA, images=None)
    assert "unpack v2_Questions_Val_mscoco.zip, val2014.zip; say where" in says(dataset, tmp_path, "val")


def test_what_tools_leave_beside_the_files_changes_nothing(tmp_path):
    root = write_vqa(tmp_path / "VQAv2" / "VQAv2", VQA)
    for name in ("__MACOSX/._v2_OpenEnded_mscoco_val2014_questions.json", "VQAv2/.DS_Store", "VQAv2/val2014/._a.jpg"):
        (tmp_path / "VQAv2" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "VQAv2" / name).write_bytes(b"\0\5\x16\7")
    (root / "v2_mscoco_val2014_complementary_pairs.json").write_text("[[458000, 459000]]")
    (root / "val2014.zip").write_bytes(b"PK")
    assert same_pixels(dataset(tmp_path / "VQAv2", "val"), VQA)


def test_one_folder_with_the_files_of_two_benchmarks_is_asked_by_name(tmp_path):
    write_pope(write_vqa(tmp_path, VQA), POPE)
    assert dataset(tmp_path, "val").task is TASKS["vqa"]
    assert dataset(f"{tmp_path}:pope").task is TASKS["pope"]
    assert "no files of a benchmark of that name (vqa, pope," in says(dataset, f"{tmp_path}:mme")


@pytest.mark.parametrize("held", [3, None, ["a.jpg"], "", "x" * 5000, "a\0.jpg"], ids=repr)
def test_what_can_name_no_file_is_named(held, tmp_path):
    write_pope(tmp_path, POPE)
    file = tmp_path / "coco_pope_random.json"
    first, *lines = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | {"image": held}), *lines]))
    assert "record 1 of coco_pope_random.json" in says(dataset, tmp_path)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a pointer that Git LFS has left" in says(dataset, tmp_path)


@pytest.mark.parametrize("where", ["under", "beside", "given", "one file"])
def test_pope_is_read_from_its_own_lines(where, tmp_path):
    root = write_pope(tmp_path / "coco", POPE, "val2014" if where in ("under", "one file") else None)
    options = {}
    if where in ("beside", "given"):
        folder = tmp_path / ("val2014" if where == "beside" else "far/val2014")
        official._pictures(folder, POPE, lambda place: f"{coco(place)}.jpg")
        options = {"images": folder} if where == "given" else {}
    own = POPE
    if where == "one file":
        own = POPE.subset((POPE.rows["category"] == "popular").to_numpy().nonzero()[0])
        root = root / "coco_pope_popular.json"
    data = dataset(root, **options)
    assert data.task is TASKS["pope"] and len(data) == len(own)
    ours, theirs = (d.rows.sort_values(["category", "question"], kind="stable") for d in (data, own))
    assert ours[["question", "answer", "category"]].values.tolist() == (
        theirs[["question", "answer", "category"]].values.tolist()
    )
    assert data.rows["image_source"].str.fullmatch(r"COCO_val2014_\d{12}").all()
    for place, name in zip(data.rows["image"], data.rows["image_id"], strict=True):
        assert close(data.images[[place]][0], POPE.images[[int(name[-12:])]][0])


def test_pope_of_two_sources_asks_for_one(tmp_path):
    write_pope(tmp_path, POPE)
    (tmp_path / "coco_pope_random.json").rename(tmp_path / "gqa_pope_random.json")
    assert "POPE of several sources" in says(dataset, tmp_path)


@pytest.mark.parametrize("inner", ["", "MME_Benchmark"])
def test_mme_is_read_from_its_fourteen_folders(inner, tmp_path):
    root = tmp_path / "MME_Benchmark_release_version"
    write_mme(root / inner, MME)
    (root / "eval_tool").mkdir()
    (root / "eval_tool" / "artwork.txt").write_text("0001.jpg\tIs it?\tYes\tyes\n")
    data = dataset(root)
    assert data.task is TASKS["mme"] and data.rows["category"].nunique() == 14 and len(data) == len(MME)
    assert data.rows["question_id"].str.fullmatch(r"\w+/\d{4}\.(jpg|png)").all()
    assert data.rows["question"].str.endswith(" Please answer yes or no.").all()
    for place, name in zip(data.rows["image"], data.rows["image_id"], strict=True):
        assert close(data.images[[place]][0], MME.images[[int(name.partition("/")[2][:4])]][0])
    own = MME.rows.assign(question=MME.rows["question"] + " Please answer yes or no.")
    assert sorted(zip(data.rows["question"], data.rows["answer"].str.lower(), strict=True)) == sorted(
        zip(own["question"], own["answer"].str.lower(), strict=True)
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Is it?\tYes\n", "must hold two lines"),
        ("Is it?\tYes\nIs it not? No\n", "2 lines of 2, 1 parts"),
        ("Is it?\tYes\nIs it not?\tperhaps\n", "must say yes or no, got 'perhaps'"),
    ],
)
def test_broken_texts_of_mme_are_named(content, words, tmp_path):
    write_mme(tmp_path, MME)
    next((tmp_path / "OCR").glob("*.txt")).write_text(content)
    assert words in says(dataset, tmp_path)
    picture = next((tmp_path / "OCR").glob("*.png"))
    picture.with_suffix(".jpg").write_bytes(picture.read_bytes())
    assert "two images for the questions" in says(dataset, tmp_path)
    for image in (picture, picture.with_suffix(".jpg")):
        image.unlink()
    assert "has no image beside it" in says(dataset, tmp_path)


def test_textvqa_is_read_from_its_own_json(tmp_path):
    records = [
        {
            "question": "what does the sign say?",
            "image_id": f"003a8ae2ef43b9{i // 2:02d}",
            "image_classes": ["Sign"],
            "answers": ["stop"] * 9 + ["halt"],
            "question_tokens": ["what"],
            "question_id": 34602 + i,
            "set_name": "val",
        }
        for i in range(4)
    ]
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({**head, "data": records}))
    official._pictures(tmp_path / "train_images", VQA, lambda place: f"003a8ae2ef43b9{place:02d}.jpg")
    data = dataset(tmp_path, "validation")
    assert data.task is TASKS["textvqa"] and len(data.images) == 2 and data.rows["item"][3] == "validation/34605"
    assert data.rows["answers"][0] == ["stop"] * 9 + ["halt"]
    for record in records:
        del record["answers"]
    (tmp_path / "TextVQA_0.5.1_test.json").write_text(json.dumps({**head, "data": records}))
    assert "take the validation split" in says(dataset, tmp_path, "test")


def test_llava_bench_is_read_and_scored_against_the_answers_that_it_ships(tmp_path):
    questions = [
        {"image": "001.jpg", "text": "What is it?", "category": "conv", "question_id": 0},
        {"image": "001.jpg", "text": "Describe this photo in detail.", "category": "detail", "question_id": 1},
    ]
    answers = [{"question_id": i, "prompt": "", "text": f"The volcano number {i}.", "model_id": "gpt4"} for i in (1, 0)]
    for name, lines in (("questions", questions), ("answers_gpt4", answers), ("context", [{"image": "001.jpg"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    official._pictures(tmp_path / "images", VQA, lambda place: f"{place + 1:03d}.jpg")
    data = dataset(tmp_path)
    assert data.task is TASKS["llava-bench"] and len(data.images) == 1
    assert data.rows["gpt_answer"].tolist() == ["The volcano number 0.", "The volcano number 1."]
    said = data.task.answer_scores(["the Volcano, number 0", "a"], data.rows["gpt_answer"])
    assert said["score"].tolist() == [1, 0]
    (tmp_path / "answers_gpt4.jsonl").unlink()
    assert "looks like LLaVA-Bench without answers_gpt4.jsonl" in says(dataset, tmp_path)


@pytest.mark.parametrize("named", ["{:012d}.jpg", "COCO_val2014_{:012d}.jpg"], ids=["by number", "by part"])
def test_llava_bench_of_coco_finds_its_images_by_number(named, tmp_path):
    questions = [
        {"question_id": i, "image": f"{441147 + i // 3:012d}.jpg", "category": "conv", "text": f"What is {i}?"}
        for i in range(6)
    ]
    answers = [{"question_id": i, "text": f"It is {i}.", "category": "conv"} for i in range(6)]
    for name, lines in (("qa90_questions", questions), ("qa90_gpt4_answer", answers)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    official._pictures(tmp_path / "val2014", VQA, lambda place: named.format(441147 + place))
    data = dataset(tmp_path)
    assert data.task is TASKS["llava-bench"] and data.rows["gpt_answer"].tolist() == [a["text"] for a in answers]
    assert close(data.images[[1]][0], VQA.images[1])
    (tmp_path / "qa90_gpt4_answer.jsonl").unlink()
    assert "without qa90_gpt4_answer.jsonl" in says(dataset, tmp_path)


def test_easy_vqa_is_read_as_its_repository_holds_it(tmp_path):
    for split, rows in (("train", [["what shape is it?", "circle", 0]]), ("test", [["is it red?", "no", 1]])):
        official._pictures(tmp_path / "data" / split / "images", VQA, lambda place: f"{place}.png", official.png)
        (tmp_path / "data" / split / "questions.json").write_text(json.dumps(rows))
    (tmp_path / "data" / "answers.txt").write_text("circle\nno")
    data = dataset(tmp_path)
    assert data.task is TASKS["exact"] and data.rows["answer"][0] == ["no"] and data.rows["question"][0] == "is it red?"
    assert torch.equal(data.images[[0]][0], VQA.images[1])
    assert dataset(tmp_path, "train").rows["answer"][0] == ["circle"]
    assert data.task.answer_scores(["No."], data.rows["answer"])["score"][0] == 1
    shutil.copytree(tmp_path / "data", tmp_path / "easy_vqa" / "data")  # as in its repository
    assert len(dataset(tmp_path)) == len(data)
    for rows, words in (([["q", "a", "../x"]], "names an image '../x'"), ([["q", "b", 0]], "more than once")):
        (tmp_path / "data" / "test" / "questions.json").write_text(json.dumps(rows))
        assert words in says(dataset, tmp_path / "data" if rows[0][2] else tmp_path)


def test_the_official_folders_are_never_class_folders(tmp_path):
    write_vqa(tmp_path / "images only", VQA)
    for file in (tmp_path / "images only").glob("*.json"):
        file.unlink()
    for place in (tmp_path / "images only", tmp_path / "images only" / "val2014"):
        text = says(dataset, place)
        assert "images of COCO val2014" in text and "parameters vqa and pope of the chapter vlm_accuracy" in text


# --- as the hub lays them out


def test_a_folder_of_the_hubs_cache_is_read_as_its_snapshot(tmp_path):
    cache = tmp_path / "datasets--lmms-lab--MME"
    write_mme(cache / "snapshots" / "0a1b", MME)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0a1b")
    (cache / "blobs").mkdir()
    assert len(dataset(cache)) == len(MME)
    (cache / "snapshots" / "2c3d").mkdir()
    assert len(dataset(cache)) == len(MME)
    (cache / "refs" / "main").write_text("4e5f")
    assert "with the snapshots 0a1b, 2c3d; point to one" in says(dataset, cache)


def hub_folder(root, task):
    data = {"vqa": VQA, "pope": POPE, "mme": MME}[task]
    rows = hub_rows(data, list(TASKS[task].wanted))
    if task == "vqa":
        for row in rows:
            row["answers"] = [{"answer": a, "answer_confidence": "yes", "answer_id": 1} for a in row["answers"]]
        half = len(rows) // 2
        write_parquet(root / "data" / "validation-00000-of-00002.parquet", rows[:half])
        write_parquet(root / "data" / "validation-00001-of-00002.parquet", rows[half:])
        for split in ("test", "testdev"):
            write_parquet(root / "data" / f"{split}-00000-of-00001.parquet", rows[:2])
        return data, "validation"
    write_parquet(root / "data" / "test-00000-of-00001.parquet", rows)
    if task == "pope":
        for category in ("adversarial", "popular", "random"):
            some = [row for row in rows if row["category"] == category]
            write_parquet(root / "Full" / f"{category}-00000-of-00001.parquet", some)
    return data, "test"


README = """---
configs:
- config_name: Full
  data_files:
  - split: adversarial
    path: Full/adversarial-*
  - split: popular
    path: Full/popular-*
  - split: random
    path: Full/random-*
- config_name: default
  data_files:
  - split: test
    path: data/test-*
---
# POPE
"""


@pytest.mark.parametrize("task", ["vqa", "pope", "mme"])
def test_a_hub_data_set_is_read_as_hf_download_leaves_it(task, tmp_path):
    own, split = hub_folder(tmp_path / "hub", task)
    write_cache(tmp_path / "hub")
    data = dataset(tmp_path / "hub", split)
    assert data.task is TASKS[task] and len(data) == len(own)
    assert data.rows["question"].tolist() == own.rows["question"].tolist()
    assert all(
        torch.equal(data.images[[i]][0], own.images[j])
        for i, j in zip(data.rows["image"], own.rows["image"], strict=True)
    )


@pytest.mark.parametrize("readme", [None, README], ids=["by names", "by its README"])
def test_configurations_and_splits_are_those_that_datasets_finds(readme, tmp_path):
    datasets = pytest.importorskip("datasets")
    hub_folder(tmp_path, "pope")
    if readme:
        (tmp_path / "README.md").write_text(readme)
        assert datasets.get_dataset_split_names(str(tmp_path), "Full") == ["adversarial", "popular", "random"]
        assert datasets.get_dataset_split_names(str(tmp_path)) == ["test"]
    assert len(dataset(tmp_path)) == len(POPE)
    assert set(dataset(f"{tmp_path}:Full", "popular").rows["category"]) == {"popular"}
    assert "present: adversarial, popular, random" in says(dataset, f"{tmp_path}:Full")
    assert "no configuration 'full' (did you mean 'Full'?)" in says(dataset, f"{tmp_path}:full")
    assert len(dataset(tmp_path / "Full", "random")) == (POPE.rows["category"] == "random").sum()


def test_what_the_hub_converted_is_read_as_its_splits(tmp_path):
    rows = hub_rows(VQA, list(TASKS["vqa"].wanted))
    write_parquet(tmp_path / "default" / "validation" / "0000.parquet", rows[:4])
    write_parquet(tmp_path / "default" / "partial-train" / "0000.parquet", rows[4:])
    assert len(dataset(tmp_path, "validation")) == 4 and len(dataset(tmp_path, "train")) == len(rows) - 4


def test_a_download_that_stopped_is_not_scored(tmp_path):
    hub_folder(tmp_path, "vqa")
    (tmp_path / "data" / "validation-00001-of-00002.parquet").unlink()
    assert "1 of the 2 files of its split 'validation': number 00001 is missing" in says(dataset, tmp_path, "val")


# --- tables of one's own

ROWS = [("a.png", 'what is "it", then?', "circle; or round"), ("b.png", "wie heißt das?\nSag es.", "grün")]
WRITTEN = {
    "csv": ("own.csv", ",", "utf-8"),
    "excel": ("own.csv", ";", "utf-8-sig"),
    "utf-16": ("own.csv", "\t", "utf-16"),
    "tsv": ("own.tsv", "\t", "utf-8"),
}


def write_table(folder, name, mark, encoding, header=("image", "question", "answer"), rows=ROWS):
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark).writerows([header, *rows])
    official._pictures(folder / "images", VQA, lambda place: f"{'abcd'[place]}.png", official.png)
    return folder / name


@pytest.mark.parametrize(("name", "mark", "encoding"), WRITTEN.values(), ids=WRITTEN)
def test_tables_of_any_writer_ask_the_same(name, mark, encoding, tmp_path):
    file = write_table(tmp_path / "own", name, mark, encoding)
    for data in (dataset(file), dataset(tmp_path / "own")):
        assert data.task is TASKS["exact"] and data.rows["question"].tolist() == [row[1] for row in ROWS]
        assert data.rows["answer"].tolist() == [["circle; or round"], ["grün"]]
        assert data.rows["image_id"].tolist() == ["a.png", "b.png"] and torch.equal(data.images[[1]][0], VQA.images[1])


def test_a_table_in_another_encoding_says_so(tmp_path):
    file = write_table(tmp_path, "own.csv", ";", "cp1252")
    with pytest.warns(UserWarning, match="not UTF-8; read as Windows-1252"):
        assert dataset(file).rows["answer"].tolist()[1] == ["grün"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_records_may_have_several_answers_and_columns_of_other_names(suffix, tmp_path):
    official._pictures(tmp_path / "far", VQA, lambda place: f"{place}.png", official.png)
    records = [{"q": "is it?", "gt": ["yes", "yeah"], "path": "0.png"}, {"q": "how many?", "gt": 2, "path": "1.png"}]
    text = json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records))
    file = tmp_path / f"test{suffix}"
    file.write_text(text)
    named = {"question": "q", "answer": "gt", "image": "path"}
    data = dataset(file, columns=named, images=tmp_path / "far")
    assert data.rows["answer"].tolist() == [["yes", "yeah"], ["2"]]
    assert data.task.answer_scores(["Yeah!", "two"], data.rows["answer"])["score"].tolist() == [1, 1]
    assert "no column 'qq' (did you mean 'q'?)" in says(dataset, file, columns={**named, "question": "qq"})
    assert "two roles" in says(dataset, file, columns={**named, "answer": "q"})
    assert "must map roles" in says(dataset, file, columns={"question": 1})


def test_columns_of_other_names_are_read_from_parquet_as_any_benchmark(tmp_path):
    rows = hub_rows(VQA, ["qid", "picture", "q", "question_type", "answer_type", "answers"],
                    qid="question_id", picture="image_id", q="question")  # fmt: skip
    file = write_parquet(tmp_path / "test.parquet", rows)
    named = {"question_id": "qid", "image_id": "picture", "question": "q"}
    data = dataset(file, columns=named)
    assert data.task is TASKS["vqa"] and data.rows["question"].tolist() == VQA.rows["question"].tolist()
    short = [{"question": row["q"], "answer": row["answers"][0], "image": row["image"]} for row in rows]
    own = dataset(write_parquet(tmp_path / "own.parquet", short))
    assert own.task is TASKS["exact"] and own.rows["image"].tolist() == VQA.rows["image"].tolist()


def test_images_may_stand_in_a_table_itself(tmp_path):
    rows = [(base64.b64encode(jpeg(VQA.images[0]) * (1 + i)).decode(), "is it?", "yes") for i in range(2)]
    file = tmp_path / "own.tsv"
    file.write_text("image\tquestion\tanswer\n" + "".join("\t".join(row) + "\n" for row in rows))
    data = dataset(file)
    assert len(data.images) == 2 and close(data.images[[0]][0], VQA.images[0])


def test_labels_in_other_digits_are_names(tmp_path):
    rows = [("a.png", "²"), ("b.png", "٣"), ("a.png", "1" * 5000)]
    data = dataset(write_table(tmp_path, "test.csv", ",", "utf-8", ("image", "label"), rows))
    assert set(data.class_names) == {"²", "٣", "1" * 5000} and len(data) == 3


def test_labels_may_stand_in_a_table(tmp_path):
    rows = [("a.png", "cat"), ("b.png", "ant")]
    file = write_table(tmp_path, "test.csv", ",", "utf-8", ("file_name", "label"), rows)
    data = dataset(file)
    assert data.class_names == ("ant", "cat") and data.rows["label"].tolist() == [1, 0]
    assert "does not say what its labels mean" in says(
        dataset, write_table(tmp_path, "own.csv", ",", "utf-8", ("image", "label"), [("a.png", "0"), ("b.png", "1")])
    )


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (("picture", "question", "answer"), ROWS, "no image column"),
        (("image", "question", "answer"), [], "no rows below its header"),
        (("image", "question", "answer"), [("", "is it?", "yes")], "must name an image, got ''"),
        (("image", "question", "answer"), [("a.png", "is it?", " ")], "a list of answers that count, got ' ' in row 0"),
        (("image", "question", "answer"), [("z.png", "is it?", "no")], "such as z.png"),
        (("image", "question", "reply"), ROWS, "columns of no benchmark"),
    ],
)
def test_tables_that_cannot_be_read_say_why(header, rows, words, tmp_path):
    assert words in says(dataset, write_table(tmp_path, "own.csv", ",", "utf-8", header, rows))


# --- by hub id


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that is a folder, and the columns of every stream that is opened."""
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import HfApi

    load, opened = datasets.load_dataset, []

    def local(repo, config=None, **options):
        opened.append((config, options["split"], options.get("columns")))
        return load("parquet", data_files=str(tmp_path / "hub" / "data" / f"{options['split']}-*.parquet"),
                    **options | {"split": "train"})  # fmt: skip

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, repo, **options: None)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda repo, config: ["validation", "test", "testdev"])
    monkeypatch.setattr(datasets, "load_dataset", local)
    return opened


def test_questions_of_a_hub_id_are_those_of_its_folder(hub, tmp_path):
    hub_folder(tmp_path / "hub", "vqa")
    read = dataset("someone/vqa", "val", 3)
    own = dataset(tmp_path / "hub", "val", 3)
    assert read.rows.to_dict("records") == own.rows.to_dict("records") and read.fingerprint == own.fingerprint
    assert {split for _, split, _ in hub} == {"validation"}
    plain = [columns for _, _, columns in hub if columns and "image" not in columns]
    assert plain and all("image" not in columns or columns == ["image"] for _, _, columns in hub if columns)


def test_a_long_split_is_read_to_the_last_image_that_is_drawn(hub, tmp_path, monkeypatch):
    from edgelib.data.readers import hub as reader

    hub_folder(tmp_path / "hub", "vqa")
    monkeypatch.setattr(reader, "LONG", 3)
    first = dataset("someone/vqa", "val", 2)
    assert first.rows["image_id"].unique().tolist() == VQA.rows["image_id"].unique()[:2].tolist()
    assert len(first) == VQA.rows["image_id"].isin(first.rows["image_id"]).sum()
    longer = dataset("someone/vqa", "val", 3)
    assert longer.rows["item"].tolist()[: len(first)] == first.rows["item"].tolist()


def test_a_cached_download_is_read_offline_as_the_folder_it_is(tmp_path, monkeypatch):
    import huggingface_hub

    hub_folder(tmp_path / "hub", "pope")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(tmp_path / "hub"))
    data = dataset("someone/POPE:Full", "random", offline=True)
    assert data.name == "someone/POPE:Full" and set(data.rows["category"]) == {"random"}
    assert len(dataset("someone/POPE", offline=True)) == len(POPE)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_an_image_folder_of_the_hub_has_its_table_in_each_split(ending, tmp_path):
    for split in ("train", "test"):
        official._pictures(tmp_path / split, VQA, lambda place: f"{place}.png", official.png)
        rows = [{"file_name": f"{i}.png", "question": f"{split} {i}?", "answer": str(i)} for i in range(4)]
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (tmp_path / split / f"metadata.{ending}").write_text(
            "\n".join(lines if ending == "csv" else map(json.dumps, rows))
        )
    data = dataset(tmp_path)
    assert data.rows["question"].tolist() == [f"test {i}?" for i in range(4)] and data.rows["answer"][3] == ["3"]
    assert (
        torch.equal(data.images[[2]][0], VQA.images[2]) and dataset(tmp_path, "train").rows["question"][0] == "train 0?"
    )
    for split in ("train", "test"):
        (tmp_path / split / f"metadata.{ending}").unlink()
    assert "has the folders test, train, which are splits and no classes" in says(dataset, tmp_path)


def test_a_file_of_the_hubs_cache_keeps_its_name_though_it_is_a_link(tmp_path):
    write_vqa(tmp_path / "snapshot", VQA)
    [file] = (tmp_path / "snapshot").glob("*_questions.json")
    (tmp_path / "blobs").mkdir()
    file.symlink_to(file.rename(tmp_path / "blobs" / "688cba3d"))
    assert len(dataset(file, "validation")) == len(VQA)


def test_scripts_and_archives_of_the_hub_are_named(tmp_path):
    folder = tmp_path / "VQAv2"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "val.tar.gz").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out: data/val.tar.gz"):
        assert "holds no images; unpack val.tar.gz" in says(dataset, folder)
    shutil.rmtree(folder / "data")
    (folder / "VQAv2.py").write_text("raise SystemExit")
    assert "VQAv2.py is a script that loads data, which is never run" in says(dataset, folder)
