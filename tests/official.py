"""Tiny copies of benchmarks, in the layouts in which their own sites and the hub hand them out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from edgelib.data.questions import QuestionSet
from edgelib.tasks.mme import SUB_TASKS

IN_TWO_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")  # of MME: texts and images apart


def jpeg(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def coco(number: int) -> str:
    return f"COCO_val2014_{number:012d}"


def _pictures(folder: Path, data: QuestionSet, name, encode=jpeg) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(len(data.images)):
        (folder / name(place)).write_bytes(encode(data.images[[place]][0]))


def write_vqa(root: Path, data: QuestionSet, images: str | None = "val2014") -> Path:
    """As on visualqa.org: image 458 has the questions 458000, 458001, ..."""
    root.mkdir(parents=True, exist_ok=True)
    questions, annotations = [], []
    asked = data.rows.groupby("image").cumcount()
    for (_, row), k in zip(data.rows.iterrows(), asked, strict=True):
        ids = {"image_id": 458 + row["image"], "question_id": (458 + row["image"]) * 1000 + k}
        questions.append({"image_id": ids["image_id"], "question": row["question"], "question_id": ids["question_id"]})
        given = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(row["answers"], 1)]
        annotations.append(
            {
                "question_type": row["question_type"],
                "multiple_choice_answer": row["answers"][0],
                "answers": given,
                "image_id": ids["image_id"],
                "answer_type": row["answer_type"],
                "question_id": ids["question_id"],
            }
        )
    head = {"info": {}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco"}
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**head, "task_type": "Open-Ended", "questions": questions})
    )
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**head, "annotations": annotations[::-1]}))
    if images:
        _pictures(root / images, data, lambda place: f"{coco(458 + place)}.jpg")
    return root


def write_pope(root: Path, data: QuestionSet, images: str | None = "val2014") -> Path:
    """As in its repository: a file of JSON lines for each category."""
    root.mkdir(parents=True, exist_ok=True)
    for category, rows in data.rows.groupby("category"):
        lines = [
            {
                "question_id": i,
                "image": f"{coco(row['image'])}.jpg",
                "text": row["question"],
                "label": row["answer"].lower(),
            }
            for i, (_, row) in enumerate(rows.iterrows(), 1)
        ]
        (root / f"coco_pope_{category}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if images:
        _pictures(root / images, data, lambda place: f"{coco(place)}.jpg")
    return root


def write_mme(root: Path, data: QuestionSet) -> Path:
    """As its authors hand it out: fourteen folders, five of which keep texts and images apart."""
    for place, rows in data.rows.groupby("image"):
        category = rows["category"].iloc[0]
        assert category in SUB_TASKS
        folder, apart = root / category, category in IN_TWO_FOLDERS
        texts = folder / "questions_answers_YN" if apart else folder
        pictures = folder / "images" if apart else folder
        for made in (texts, pictures):
            made.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{q} Please answer yes or no.\t{a.capitalize()}"
            for q, a in zip(rows["question"], rows["answer"], strict=True)
        ]
        (texts / f"{place:04d}.txt").write_bytes("\r\n".join(lines).encode())
        (pictures / f"{place:04d}.{'jpg' if apart else 'png'}").write_bytes(
            (jpeg if apart else png)(data.images[[place]][0])
        )
    return root


def write_parquet(file: Path, rows: list[dict]) -> Path:
    """Rows whose `image` is encoded bytes, in the cells of the hub."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "image": {"bytes": row["image"], "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def hub_rows(data: QuestionSet, columns: list[str], **named: str) -> list[dict]:
    """Rows of a question set with a picture in each; named: column there -> column here."""
    table: pd.DataFrame = data.rows.rename(columns={own: there for there, own in named.items()})
    pictures = [png(data.images[[i]][0]) for i in range(len(data.images))]
    return [
        {**{name: row[name] for name in columns}, "image": pictures[place]}
        for row, place in zip(table.to_dict("records"), data.rows["image"], strict=True)
    ]


def write_cache(root: Path) -> None:
    """What `hf download --local-dir` leaves beside the files."""
    folder = root / ".cache" / "huggingface" / "download" / "data"
    folder.mkdir(parents=True)
    (folder / "test-00000-of-00001.parquet.metadata").write_text("0\n0\n0\n")
    (folder / "half.parquet").write_bytes(b"PAR1")
    (root / ".cache" / "huggingface" / ".gitignore").write_text("*")
    (root / ".gitattributes").write_text("*.parquet filter=lfs")
