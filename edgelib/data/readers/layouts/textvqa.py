"""TextVQA from textvqa.org: `TextVQA_0.5.1_val.json`, and the images of OpenImages."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, image_folder, parsed, table_of
from edgelib.data.readers.sources import Options, Source, canonical_split
from edgelib.errors import EdgelibError
from edgelib.tasks.textvqa import TEXTVQA

LOOKS_LIKE = "TextVQA from textvqa.org"
_FILE = re.compile(r"TextVQA_[\d.]+_(?P<split>train|val|test)\.json")


def open_textvqa(listing: Listing) -> Source | None:
    """Open one JSON file a split, of one version."""
    found: dict[str, Path] = {}
    for file in listing.files:
        match = _FILE.fullmatch(file.name)
        if match:
            found[canonical_split(match["split"])] = file  # the later of two versions
    return Source(listing.name, {s: partial(_read, listing, f, s) for s, f in found.items()}) if found else None


def _read(listing: Listing, file: Path, split: str, options: Options) -> Asked:
    content = parsed(file)
    records = content.get("data") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise EdgelibError(f"{file.name} holds no list 'data'; download it again")
    if "answers" not in records[0]:
        raise EdgelibError(f"{file.name} has no answers, as the test split of TextVQA; take the validation split")
    kept = ("question_id", "image_id", "question", "answers")
    table = table_of(records, {name: name for name in kept}, file)
    names = [f"{image}.jpg" for image in table["image_id"]]
    folder = image_folder(listing, names, options, "OpenImages")
    return asked(table, TEXTVQA, [folder / name for name in names], options, split, file.name)
