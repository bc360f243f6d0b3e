"""easy-VQA: `train/questions.json` and `test/questions.json`, lists of (question, answer, image), with `images/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, only, parsed
from edgelib.data.readers.sources import Options, Source, canonical_split, refuse_images, split_in_name
from edgelib.errors import EdgelibError
from edgelib.ground.records import shown
from edgelib.tasks.exact import EXACT

LOOKS_LIKE = "easy-VQA"
_QUESTIONS = "questions.json"


def open_easy_vqa(listing: Listing) -> Source | None:
    """Open folders named by split that hold `questions.json` and `images/`."""
    held: dict[str, list[Path]] = {}
    for file in listing.files:
        if file.name == _QUESTIONS and split_in_name(file.parent.name) and (file.parent / "images").is_dir():
            held.setdefault(canonical_split(file.parent.name), []).append(file)
    found = {split: only(files, LOOKS_LIKE, listing) for split, files in held.items()}
    return Source(listing.name, {s: partial(_read, listing, f, s) for s, f in found.items()}) if found else None


def _read(listing: Listing, file: Path, split: str, options: Options) -> Asked:
    where = f"{file.parent.name}/{file.name} of {listing.name!r}"
    refuse_images(options, where)
    rows = parsed(file)
    if not isinstance(rows, list) or not rows or any(not isinstance(r, list) or len(r) != 3 for r in rows):
        raise EdgelibError(f"{where} must hold lists of a question, an answer and the number of an image; restore it")
    wrong = next((row[2] for row in rows if not isinstance(row[2], int)), None)
    if wrong is not None:
        raise EdgelibError(f"{where} names an image {shown(wrong)}, expected its number; restore it")
    table = pd.DataFrame(rows, columns=["question", "answer", "image_id"])
    table["question_id"] = [str(i) for i in range(len(table))]
    paths = [file.parent / "images" / f"{image}.png" for image in table["image_id"]]
    return asked(table, EXACT, paths, options, split, where)
