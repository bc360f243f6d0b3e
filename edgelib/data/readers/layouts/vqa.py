"""VQAv2 and VQA from visualqa.org: questions and annotations in JSON, images of COCO."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, beside, image_folder, parsed, require_once, table_of
from edgelib.data.readers.sources import Options, Source
from edgelib.errors import EdgelibError
from edgelib.tasks.vqa import VQA

LOOKS_LIKE = "VQAv2 from visualqa.org"
_QUESTIONS = re.compile(r"(v2_)?OpenEnded_mscoco_(?P<part>[\w-]+)_questions\.json")
_SPLITS = {"train2014": "train", "val2014": "validation", "test2015": "test", "test-dev2015": "testdev"}


def open_vqa(listing: Listing) -> Source | None:
    """Open `v2_OpenEnded_mscoco_<part>_questions.json` with `v2_mscoco_<part>_annotations.json`, one split a part."""
    found: dict[str, Path] = {}
    for file in listing.files:
        match = _QUESTIONS.fullmatch(file.name)
        split = _SPLITS.get(match["part"]) if match else None
        if split in found:
            raise EdgelibError(
                f"{listing.name!r} holds the questions of several data sets ({found[split].name}, {file.name}); point "
                "to one of these files"
            )
        if split:
            found[split] = file
    return Source(listing.name, {s: partial(_read, listing, f, s) for s, f in found.items()}) if found else None


def _read(listing: Listing, file: Path, split: str, options: Options) -> Asked:
    name = file.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    folders = (*listing.folders, *beside(listing))
    paths = [folder / name for folder in folders if (folder / name).is_file()]
    if not paths:
        raise EdgelibError(
            f"{file.name} asks questions without answers: there is no {name} in {listing.root.name!r} or beside it; "
            "download the annotations, or take the validation split, as those of test2015 are not published"
        )
    questions = table_of(_list(file, "questions"), {n: n for n in ("question_id", "image_id", "question")}, file)
    kept = ("question_id", "question_type", "answer_type", "answers", "multiple_choice_answer")
    given = table_of(_list(paths[0], "annotations"), {n: n for n in kept}, paths[0])
    for asked_once, told in ((questions, file), (given, paths[0])):
        require_once(asked_once, "question_id", told)
    wrong = next((i for i in questions["image_id"].tolist() if not isinstance(i, int) or i < 0), None)
    if wrong is not None:
        raise EdgelibError(f"{file.name} has image_id {wrong!r}, expected the number of an image of COCO; restore it")
    lost = set(questions["question_id"]) ^ set(given["question_id"])
    if lost:
        one = min(lost, key=str)
        raise EdgelibError(
            f"{file.name} and {name} are of different questions, such as {one}; download both of one release"
        )
    table = questions.merge(given, on="question_id", validate="one_to_one")
    part = _QUESTIONS.fullmatch(file.name)["part"].replace("-dev", "")  # type: ignore[index]
    names = [f"COCO_{part}_{image:012d}.jpg" for image in table["image_id"]]
    folder = image_folder(listing, names, options, f"{part} of COCO")
    return asked(table, VQA, [folder / name for name in names], options, split, file.name)


def _list(file: Path, key: str) -> list[dict]:
    records = parsed(file, object_hook=_small).get(key)
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise EdgelibError(f"{file.name} holds no list {key!r}; download it again")
    return records


def _small(record: dict) -> dict | str:
    """Of an annotator the text alone, one object for equal texts: a split has two million annotators."""
    if "answer_id" in record and isinstance(record.get("answer"), str):
        return sys.intern(record["answer"])
    return record
