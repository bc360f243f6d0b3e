"""What layouts share: what a folder holds near its top, where the images lie that files name, texts of any encoding."""

from __future__ import annotations

import codecs
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edgelib.data.images import ImageList
from edgelib.data.question_tables import Asked, question_rows, with_images
from edgelib.data.readers.sources import IMAGE_SUFFIXES, Options, refuse_columns
from edgelib.errors import EdgelibError
from edgelib.tasks.base import Task

_DEEPEST = 4  # folders below the given one
_BESIDE = 2  # folders beside the given one, where images are looked for
_TRIED = 64  # names by which a folder of images is told
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Listing:
    """A file, or what a folder holds: files that are no images, and folders, to a small depth, hidden ones left out."""

    path: Path

    @property
    def name(self) -> str:
        """What tables and errors call it."""
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def root(self) -> Path:
        """The folder."""
        return self.path.parent if self.path.is_file() else self.path

    @cached_property
    def _walked(self) -> tuple[list[Path], list[Path]]:
        files, folders = [], [self.root]
        for folder in _folders_and_files(self.root, _DEEPEST):
            for entry in folder[1]:
                if not entry.lower().endswith(IMAGE_SUFFIXES):
                    files.append(folder[0] / entry)
            folders += [folder[0] / name for name in folder[2]]
        return sorted(files), sorted(folders)

    @property
    def files(self) -> list[Path]:
        """Files that are no images, sorted by path."""
        return [self.path] if self.path.is_file() else self._walked[0]

    @cached_property
    def inside(self) -> dict[Path, list[Path]]:
        """The folders in each folder that has any, sorted."""
        found: dict[Path, list[Path]] = {}
        for folder in self.folders:
            if folder != self.root:
                found.setdefault(folder.parent, []).append(folder)
        return found

    @property
    def folders(self) -> list[Path]:
        """The folder and those below it, sorted by path."""
        return self._walked[1]


def _folders_and_files(root: Path, depth: int) -> Iterator[tuple[Path, list[str], list[str]]]:
    try:
        entries = [entry for entry in os.scandir(root) if not entry.name.startswith((".", "__"))]
    except OSError:
        return
    folders = [entry.name for entry in entries if entry.is_dir()]
    yield root, [entry.name for entry in entries if not entry.is_dir()], folders if depth else []
    for name in folders if depth else []:
        yield from _folders_and_files(root / name, depth - 1)


def first_names(folder: Path) -> list[str]:
    """Some names of what a folder holds, enough to tell what it is; none of one that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, _TRIED)]
    except OSError:
        return []


def image_folder(listing: Listing, names: Sequence[str], options: Options, what: str) -> Path:
    """The folder that holds the image files of these names: as given, below the data, or beside it.

    Raises EdgelibError naming the first file, where it was looked for and the parameter that says where it lies.
    """
    tried = [names[i] for i in sorted({int(i) for i in np.linspace(0, len(names) - 1, _TRIED)})]
    if options.images is not None:
        looked = [options.images, *_below(options.images, _DEEPEST)]
    else:
        looked = [*listing.folders, *beside(listing)]
    for folder in looked:
        if any((folder / name).is_file() for name in tried):
            return folder
    place = f"{options.images}" if options.images is not None else f"{listing.root.name!r} and beside it"
    raise EdgelibError(
        f"no folder with the images of {listing.name!r} ({what}), such as {names[0]}, was found in {place}; say where "
        "they lie with images=... (in parameter files: images)"
    )


def beside(listing: Listing) -> list[Path]:
    """The folder above, and the folders beside the data, to a small depth."""
    return [listing.root.parent, *_below(listing.root.parent, _BESIDE)]


def _below(root: Path, depth: int) -> list[Path]:
    return [folder / name for folder, _, names in _folders_and_files(root, depth - 1) for name in names]


def asked(table: pd.DataFrame, task: Task, paths: Sequence[Path], options: Options, split: str, where: str) -> Asked:
    """Questions of a benchmark and the image file of each row. Raises EdgelibError as `question_rows`.

    Image files are looked for when they are fetched, and all that are missing are counted then.
    """
    refuse_columns(options, where)
    rows, first = question_rows(table, task, split, where)
    found = np.array(paths, dtype=object)

    def fetch(positions: np.ndarray) -> ImageList:
        return image_files([found[p] for p in positions], where)

    return with_images((rows, first), task, fetch)


def image_files(files: list[Path], where: str) -> ImageList:
    """Image files, not yet decoded. Raises EdgelibError counting those that are missing."""
    lost = [file for file in files if not file.is_file()]
    if lost:
        raise EdgelibError(
            f"{len(lost)} of {len(files)} images of {where} are missing, such as {lost[0].name} in "
            f"{lost[0].parent.name!r}; complete the download (nothing is skipped silently)"
        )
    return ImageList(files, [f"{file.name} of {where}" for file in files])


def text_of(file: Path) -> str:
    """The text of a file in UTF-8 or UTF-16; another one is read as Windows-1252, and a warning says so.

    Raises EdgelibError for a file that cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EdgelibError(f"cannot read {file.name} ({error.strerror}); check its rights, or restore it") from None
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        warnings.warn(f"{file.name} is not UTF-8; read as Windows-1252: save it as UTF-8 to be sure", stacklevel=2)
        return data.decode("cp1252", errors="replace")


def parsed(file: Path, **how: Any) -> Any:
    """What a JSON file holds. Raises EdgelibError for one that is no JSON."""
    try:
        return json.loads(text_of(file), **how)
    except (ValueError, RecursionError) as error:
        raise EdgelibError(f"{file.name} is not JSON ({error}); download it again") from None


def records_of(file: Path) -> list[dict]:
    """Records of a file of JSON lines, or of one JSON list. Raises EdgelibError naming the first line that is none."""
    text = text_of(file)
    if text.lstrip()[:1] == "[":
        records = parsed(file)
    else:
        records = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise EdgelibError(f"line {number} of {file.name} is not JSON ({error}); restore it") from None
    wrong = next((i for i, record in enumerate(records) if not isinstance(record, dict)), None)
    if wrong is not None or not records:
        problem = "is empty" if wrong is None else f"holds {str(records[wrong])[:40]!r} as record {wrong + 1}"
        raise EdgelibError(f"{file.name} {problem}; expected records, one a line or in a list")
    return records


def table_of(records: list[dict], names: dict[str, str], file: Path) -> pd.DataFrame:
    """A table of the fields `names` (name in the file -> name in the table) of records, which must all have them."""
    for field in names:
        lost = next((i for i, record in enumerate(records) if field not in record), None)
        if lost is not None:
            raise EdgelibError(
                f"record {lost + 1} of {file.name} has no {field!r}; it has {', '.join(map(str, records[lost]))[:200]}"
            )
    return pd.DataFrame({new: [record[field] for record in records] for field, new in names.items()})
