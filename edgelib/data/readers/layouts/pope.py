"""POPE from its repository: `coco_pope_random.json` and its like, JSON lines, and the images of COCO val2014."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pandas as pd

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, image_folder, records_of, table_of
from edgelib.data.readers.sources import UNSPLIT, Options, Source
from edgelib.errors import EdgelibError
from edgelib.tasks.pope import POPE

LOOKS_LIKE = "POPE from its repository"
_FILE = re.compile(r"(?:(?P<source>\w+)_)?pope_(?P<category>random|popular|adversarial)\.jsonl?")
_FIELDS = {"question_id": "question_id", "image": "file", "text": "question", "label": "answer"}


def open_pope(listing: Listing) -> Source | None:
    """Open the files of one to three categories as one split, "test"."""
    found = {file: match for file in listing.files if (match := _FILE.fullmatch(file.name))}
    if not found:
        return None
    sources = {(file.parent, match["source"]) for file, match in found.items()}
    if len(sources) > 1:
        raise EdgelibError(
            f"{listing.name!r} holds POPE of several sources ({', '.join(file.name for file in list(found)[:4])}); "
            "point to the folder or file of one"
        )
    return Source(listing.name, {UNSPLIT: partial(_read, listing, {m["category"]: f for f, m in found.items()})})


def _read(listing: Listing, files: dict[str, Path], options: Options) -> Asked:
    order = sorted(files)  # adversarial, popular, random, as the hub has them
    tables = [table_of(records_of(files[name]), _FIELDS, files[name]).assign(category=name) for name in order]
    table = pd.concat(tables, ignore_index=True)
    names = table.pop("file").tolist()
    table["image_source"] = [Path(name).stem for name in names]
    folder = image_folder(listing, names, options, "val2014 of COCO")
    return asked(table, POPE, [folder / name for name in names], options, UNSPLIT, files[order[0]].name)
