"""easy-VQA: `train/questions.json` and `test/questions.json`, lists of (question, answer, image), with `images/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, parsed
from edgelib.data.readers.sources import Options, Source, canonical_split, refuse_images, split_in_name
from edgelib.errors import EdgelibError
from edgelib.tasks.exact import EXACT

LOOKS_LIKE = "easy-VQA"
_QUESTIONS = "questions.json"


def open_easy_vqa(listing: Listing) -> Source | None:
    """Open folders named by split that hold `questions.json` and `images/`."""
    found = {
        canonical_split(file.parent.name): file
        for file in listing.files
        if file.name == _QUESTIONS and split_in_name(file.parent.name) and (file.parent / "images").is_dir()
    }
    return Source(listing.name, {s: partial(_read, listing, f, s) for s, f in found.items()}) if found else None


def _read(listing: Listing, file: Path, split: str, options: Options) -> Asked:
    where = f"{file.parent.name}/{file.name} of {listing.name!r}"
    refuse_images(options, where)
    rows = parsed(file)
    if not isinstance(rows, list) or not rows or any(not isinstance(r, list) or len(r) != 3 for r in rows):
        raise EdgelibError(f"{where} must hold lists of a question, an answer and the number of an image; restore it")
    table = pd.DataFrame(rows, columns=["question", "answer", "image_id"])
    table["question_id"] = [str(i) for i in range(len(table))]
    paths = [file.parent / "images" / f"{image}.png" for image in table["image_id"]]
    return asked(table, EXACT, paths, options, split, where)
