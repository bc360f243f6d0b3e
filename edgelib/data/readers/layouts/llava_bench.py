"""LLaVA-Bench (in the wild) from its repository: questions.jsonl, answers_gpt4.jsonl, images."""

from __future__ import annotations

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

LOOKS_LIKE = "LLaVA-Bench (in the wild)"
_QUESTIONS, _ANSWERS = "questions.jsonl", "answers_gpt4.jsonl"
_FIELDS = {"question_id": "question_id", "image": "file", "text": "question", "category": "category"}


def open_llava_bench(listing: Listing) -> Source | None:
    """Open a folder with `questions.jsonl` and `answers_gpt4.jsonl` as one split, "test".

    Raises EdgelibError for questions that look like its own and lie there without the answers.
    """
    asked_in = [file for file in listing.files if file.name == _QUESTIONS]
    answered = [file for file in asked_in if (file.parent / _ANSWERS).is_file()]
    if answered:
        return Source(listing.name, {UNSPLIT: partial(_read, listing, only(answered, LOOKS_LIKE, listing).parent)})
    if listing.path.is_dir() and any(_is_ours(file) for file in asked_in):
        raise EdgelibError(
            f"{listing.name!r} looks like {LOOKS_LIKE} without {_ANSWERS}, which answers are scored against; download "
            f"it from where {_QUESTIONS} came from"
        )
    return None


def _is_ours(file: Path) -> bool:
    """Whether the first record has the fields of the benchmark, and no answer of its own."""
    try:
        return set(records_of(file)[0]) == set(_FIELDS)
    except EdgelibError:
        return False


def _read(listing: Listing, folder: Path, options: Options) -> Asked:
    table = table_of(records_of(folder / _QUESTIONS), _FIELDS, folder / _QUESTIONS)
    given = table_of(
        records_of(folder / _ANSWERS), {"question_id": "question_id", "text": "gpt_answer"}, folder / _ANSWERS
    )
    for told, name in ((table, _QUESTIONS), (given, _ANSWERS)):
        require_once(told, "question_id", folder / name)
    lost = set(table["question_id"]) - set(given["question_id"])
    if lost:
        raise EdgelibError(
            f"{_ANSWERS} lacks the answer to question {min(lost, key=str)} of {_QUESTIONS}; download both again"
        )
    table = table.merge(given, on="question_id", validate="one_to_one")
    names = table.pop("file").tolist()
    table["image_id"] = names
    images = image_folder(listing, names, options, "in the wild")
    return asked(table, LLAVA_BENCH, [images / name for name in names], options, UNSPLIT, _QUESTIONS)
