"""LLaVA-Bench from its repositories, questions and the answers of GPT-4 in JSON lines: in the wild with its images, and
the questions about 30 images of COCO val2014, which lie elsewhere."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import (
    Listing,
    asked,
    image_folder,
    only,
    records_of,
    require_once,
    table_of,
)
from edgelib.data.readers.sources import UNSPLIT, Options, Source
from edgelib.errors import EdgelibError
from edgelib.tasks.llava_bench import LLAVA_BENCH

LOOKS_LIKE = "LLaVA-Bench"
_ANSWERS = {"questions.jsonl": "answers_gpt4.jsonl", "qa90_questions.jsonl": "qa90_gpt4_answer.jsonl"}
_FIELDS = {"question_id": "question_id", "image": "file", "text": "question", "category": "category"}
_NUMBERED = re.compile(r"\d{12}\.jpg")  # how the questions about COCO name images, without the name of its part


def open_llava_bench(listing: Listing) -> Source | None:
    """Open a folder with questions and the answers of GPT-4 as one split, "test".

    Raises EdgelibError for questions that look like its own and lie there without the answers.
    """
    asked_in = [file for file in listing.files if file.name in _ANSWERS]
    answered = [file for file in asked_in if (file.parent / _ANSWERS[file.name]).is_file()]
    if answered:
        return Source(listing.name, {UNSPLIT: partial(_read, listing, only(answered, LOOKS_LIKE, listing))})
    lonely = next((file for file in asked_in if _is_ours(file)), None) if listing.path.is_dir() else None
    if lonely is not None:
        raise EdgelibError(
            f"{listing.name!r} looks like {LOOKS_LIKE} without {_ANSWERS[lonely.name]}, which answers are scored "
            f"against; download it from where {lonely.name} came from"
        )
    return None


def _is_ours(file: Path) -> bool:
    """Whether the first record has the fields of the benchmark, and no answer of its own."""
    try:
        return set(records_of(file)[0]) == set(_FIELDS)
    except EdgelibError:
        return False


def _read(listing: Listing, file: Path, options: Options) -> Asked:
    answers = file.with_name(_ANSWERS[file.name])
    table = table_of(records_of(file), _FIELDS, file)
    given = table_of(records_of(answers), {"question_id": "question_id", "text": "gpt_answer"}, answers)
    for told, where in ((table, file), (given, answers)):
        require_once(told, "question_id", where)
    lost = set(table["question_id"]) - set(given["question_id"])
    if lost:
        raise EdgelibError(
            f"{answers.name} lacks the answer to question {min(lost, key=str)} of {file.name}; download both again"
        )
    table = table.merge(given, on="question_id", validate="one_to_one")
    names = table.pop("file").tolist()
    table["image_id"] = names
    try:
        folder = image_folder(listing, names, options, "the images of its site")
    except EdgelibError:
        if not all(map(_NUMBERED.fullmatch, names)):
            raise
        names = [f"COCO_val2014_{name}" for name in names]
        folder = image_folder(listing, names, options, "val2014 of COCO")
    return asked(table, LLAVA_BENCH, [folder / name for name in names], options, UNSPLIT, file.name)
