"""Tables of one's own as text: .csv, .tsv and .jsonl of image, question and answer, or of image and label; also the
`metadata.csv` or `.jsonl` in each split of an image folder of the hub.

An image is the path of a file, from the table, from a folder beside it or from the given one, or its bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from edgelib.data.images import ImageList
from edgelib.data.question_tables import Asked, is_question_table, question_rows, with_images
from edgelib.data.readers.layouts.files import Listing, image_files, image_folder, records_of, text_of
from edgelib.data.readers.sources import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    UNSPLIT,
    Labelled,
    Options,
    Source,
    first_given,
    indexed_names,
    integer_labels,
    label_rows,
    pick_column,
    read_names_file,
    role_names,
    split_in_name,
)
from edgelib.errors import EdgelibError
from edgelib.tasks.base import QUESTION
from edgelib.tasks.benchmarks import task_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
_IMAGES = (*IMAGE_COLUMNS, "file_name", "filename", "image_path", "path", "file")
_BESIDE = "metadata"  # a table of the images that lie in its folder
_WHOLE = re.compile(r"\s*[0-9]{1,18}\s*")  # a whole number in the digits of a file
_LONGEST_PATH = 1024  # a longer cell holds the image itself


def open_texts(listing: Listing) -> Source | None:
    """Open a table file, or a folder with one table a split; None for a folder whose tables are of something else."""
    given = listing.path.is_file()
    files = [f for f in listing.files if f.suffix.lower() in SUFFIXES and (given or _stands_for(f, listing.root))]
    if not given:
        files = [file for file in files if file.suffix.lower() != ".json" and _is_ours(file)]
    if not files:
        return None
    by_split: dict[str, Path] = {}
    for file in files:
        split = split_in_name(file.parent.name if file.stem == _BESIDE else file.stem) or UNSPLIT
        if split in by_split:
            raise EdgelibError(
                f"{listing.name!r} holds several tables for the split {split!r} ({by_split[split].name}, {file.name}); "
                "point to one of them"
            )
        by_split[split] = file
    return Source(listing.name, {split: partial(_read, file, split) for split, file in by_split.items()})


def _stands_for(file: Path, root: Path) -> bool:
    """Whether a table is of the folder, or of one split: the `metadata` of an image folder of the hub."""
    return file.parent == root or (
        file.parent.parent == root and file.stem == _BESIDE and split_in_name(file.parent.name) is not None
    )


def _is_ours(file: Path) -> bool:
    """Whether a table in a folder shows images and says something about them; given by name, any table is read."""
    try:
        names = set(_table(file, header=True).columns)
    except EdgelibError:
        return False
    return bool(names & set(_IMAGES)) and bool(names & {QUESTION, *LABEL_COLUMNS})


def _table(file: Path, header: bool = False) -> pd.DataFrame:
    if file.suffix.lower() in (".jsonl", ".json"):
        return pd.DataFrame(records_of(file))
    text = text_of(file)
    first = text.partition("\n")[0]
    mark = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    names = next(csv.reader([first.rstrip("\r")], delimiter=mark), [])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EdgelibError(f"{file.name} has more than one column {twice!r}; rename one of them")
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        longer = None if header else next((n for n, row in enumerate(rows) if len(row) > len(names)), None)
        if longer is not None:  # pandas would take the first cells for names of rows
            raise ValueError(f"row {longer} has more cells than the header has columns")
        return pd.read_csv(io.StringIO(text), sep=mark, dtype=str, keep_default_na=False, nrows=0 if header else None)
    except (ValueError, csv.Error, pd.errors.ParserError) as error:
        raise EdgelibError(f"{file.name} is no table ({error}); quote cells that hold {mark!r} or line ends") from None


def _read(file: Path, split: str, options: Options) -> Labelled | Asked:
    table, where = _table(file), file.name
    if options.columns:
        table = table.rename(columns=role_names(list(table.columns), options.columns, where))
    image = pick_column(table.columns, options.image_column, _IMAGES, "image", where)
    if not len(table):
        raise EdgelibError(f"{where} has no rows below its header; choose another file")
    cells = table[image]
    wrong = next((row for row, cell in enumerate(cells) if not isinstance(cell, str) or not cell.strip()), None)
    if wrong is not None:
        raise EdgelibError(f"column {image!r} of {where} must name an image, got {cells[wrong]!r} in row {wrong}")
    if is_question_table(table.columns, options):
        return _questions(table, cells, file, split, options)
    label = pick_column(table.columns, options.label_column, LABEL_COLUMNS, "label", where)
    values = table[label].to_numpy()
    numbers = all(isinstance(v, int | np.integer) or (isinstance(v, str) and _WHOLE.fullmatch(v)) for v in values)
    values = np.array([int(v) for v in values]) if numbers else values
    told = first_given(options.class_names, read_names_file(file.parent))
    if told is None and not numbers:
        told = sorted(map(str, set(values)))
    class_names = indexed_names(told, where)
    others = {name: table[name] for name in table.columns if name not in (image, label)}
    rows = label_rows(split, integer_labels(values, class_names, where), others)
    return Labelled(rows, class_names, lambda positions: _fetch(cells, positions, file, options))


def _questions(table: pd.DataFrame, cells: pd.Series, file: Path, split: str, options: Options) -> Asked:
    task = task_of(table.columns, file.name)
    table = table.copy()
    for name in {task.reference, f"{task.reference}s"} & set(table.columns):
        table[name] = [_listed(value) for value in table[name]]
    if task.image_id not in table:
        table[task.image_id] = [_name(cell) for cell in cells]
    rows, first = question_rows(table, task, split, file.name)
    return with_images((rows, first), task, lambda positions: _fetch(cells, positions, file, options))


def _listed(value: Any) -> Any:
    """A list that a cell of text holds as JSON; any other cell as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _name(cell: str) -> str:
    return cell if len(cell) <= _LONGEST_PATH else hashlib.sha256(cell.encode()).hexdigest()[:16]


def _fetch(cells: pd.Series, positions: np.ndarray, file: Path, options: Options) -> ImageList:
    chosen = [cells.iloc[int(p)] for p in positions]
    if all(len(cell) > _LONGEST_PATH for cell in chosen):
        rows = [f"in row {p} of {file.name}" for p in positions]
        return ImageList([_decoded(cell, row) for cell, row in zip(chosen, rows, strict=True)], rows)
    paths = [PurePosixPath(cell.replace("\\", "/")) for cell in chosen]
    if all(path.is_absolute() for path in paths):
        return image_files([Path(path) for path in paths], file.name)
    relative = [path.as_posix() for path in paths]
    folder = image_folder(Listing(file.parent), relative, options, "images that the table names")
    return image_files([folder / name for name in relative], file.name)


def _decoded(cell: str, name: str) -> bytes:
    try:
        return base64.b64decode(cell, validate=True)
    except (ValueError, binascii.Error) as error:
        raise EdgelibError(f"image {name} is neither a path nor base64 ({error}); mend the cell") from None
