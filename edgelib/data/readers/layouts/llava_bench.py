"""LLaVA-Bench (in the wild) from its repository: questions.jsonl, answers_gpt4.jsonl, images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, image_folder, records_of, table_of
from edgelib.data.readers.sources import UNSPLIT, Options, Source
from edgelib.errors import EdgelibError
from edgelib.tasks.llava_bench import LLAVA_BENCH

LOOKS_LIKE = "LLaVA-Bench (in the wild)"
_QUESTIONS, _ANSWERS = "questions.jsonl", "answers_gpt4.jsonl"
_FIELDS = {"question_id": "question_id", "image": "file", "text": "question", "category": "category"}


def open_llava_bench(listing: Listing) -> Source | None:
    """Open a folder with `questions.jsonl` and `answers_gpt4.jsonl` as one split, "test"."""
    folders = [f.parent for f in listing.files if f.name == _QUESTIONS and (f.parent / _ANSWERS).is_file()]
    return Source(listing.name, {UNSPLIT: partial(_read, listing, folders[0])}) if folders else None


def _read(listing: Listing, folder: Path, options: Options) -> Asked:
    table = table_of(records_of(folder / _QUESTIONS), _FIELDS, folder / _QUESTIONS)
    given = table_of(
        records_of(folder / _ANSWERS), {"question_id": "question_id", "text": "gpt_answer"}, folder / _ANSWERS
    )
    lost = set(table["question_id"]) - set(given["question_id"])
    if lost:
        raise EdgelibError(f"{_ANSWERS} lacks the answer to question {min(lost)} of {_QUESTIONS}; download both again")
    table = table.merge(given, on="question_id", validate="one_to_one")
    names = table.pop("file").tolist()
    table["image_id"] = names
    images = image_folder(listing, names, options, "in the wild")
    return asked(table, LLAVA_BENCH, [images / name for name in names], options, UNSPLIT, _QUESTIONS)
