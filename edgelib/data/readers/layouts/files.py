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
from edgelib.ground.records import shown
from edgelib.tasks.base import Task

_DEEPEST = 4  # folders below the given one
_BESIDE = 2  # folders beside the given one, where images are looked for
_TRIED = 64  # names by which a folder of images is told
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
_LONGEST = 250  # characters of a name that a file can have
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
    folders = [entry.name for entry in entries if os.path.isdir(entry)]  # unlike its own, it takes links that loop
    yield root, [entry.name for entry in entries if os.path.isfile(entry)], folders if depth else []
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
    for find in (os.path.isfile, _with_another_ending):
        for folder in looked:
            if any(find(folder / name) for name in tried):
                return folder
    place = f"{options.images}" if options.images is not None else f"{listing.root.name!r} and beside it"
    raise EdgelibError(
        f"no folder with the images of {listing.name!r} ({what}), such as {names[0][:80]}, was found in {place}; "
        f"{to_unpack(options.images or listing.root)}say where they lie with images=... (in parameter files: images)"
    )


def _with_another_ending(file: Path) -> Path | None:
    """The image of the same name that ends otherwise, .png or .JPEG for .jpg; None where there is none."""
    endings = (ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper()))
    others = (file.parent / f"{file.stem}{ending}" for ending in endings)
    return next((other for other in others if os.path.isfile(other)), None)


def to_unpack(folder: Path) -> str:
    """What an error says of the archives that lie in a folder: "unpack val2014.zip; ", or nothing."""
    files = next((names for _, names, _ in _folders_and_files(folder, 0)), [])
    packed = sorted(name for name in files if name.lower().endswith(ARCHIVES))
    return f"unpack {', '.join(packed[:3])}{' and the others' if packed[3:] else ''}; " if packed else ""


def only(files: Sequence[Path], what: str, listing: Listing) -> Path:
    """The first of the files, where the others are copies of it. Raises EdgelibError for several that differ."""
    first = files[0].read_bytes() if len(files) > 1 else b""
    for other in files[1:]:
        if other.read_bytes() != first:
            places = ", ".join(f.relative_to(listing.root).as_posix() for f in (files[0], other))
            raise EdgelibError(f"{listing.name!r} holds {what} more than once ({places}); point to the folder of one")
    return files[0]


def beside(listing: Listing) -> list[Path]:
    """The folder above, and the folders beside the data, to a small depth."""
    return [listing.root.parent, *_below(listing.root.parent, _BESIDE)]


def _below(root: Path, depth: int) -> list[Path]:
    return [folder / name for folder, _, names in _folders_and_files(root, depth - 1) for name in names]


def asked(table: pd.DataFrame, task: Task, paths: Sequence[Path], options: Options, split: str, where: str) -> Asked:
    """Questions of a benchmark and the image file of each row. Raises EdgelibError as `question_rows`.

    Image files are looked for when they are fetched: all that are missing are counted then, and a warning tells of
    those that end otherwise than their names say.
    """
    refuse_columns(options, where)
    rows, first = question_rows(table, task, split, where)
    found = np.array(paths, dtype=object)

    def fetch(positions: np.ndarray) -> ImageList:
        return image_files([found[p] for p in positions], where)

    return with_images((rows, first), task, fetch)


def image_files(files: list[Path], where: str) -> ImageList:
    """Image files, not yet decoded; one with another ending stands in for one that is missing, and a warning says so.

    Raises EdgelibError counting those that are missing.
    """
    others = {file: other for file in files if not os.path.isfile(file) and (other := _with_another_ending(file))}
    if others:
        named, read = next(iter(others.items()))
        warnings.warn(
            f"{len(others)} of {len(files)} images of {where} end otherwise than it says, such as {read.name} for "
            f"{named.name}; they are read",
            stacklevel=2,
        )
    files = [others.get(file, file) for file in files]
    lost = [file for file in files if not os.path.isfile(file)]
    if lost:
        unpack = to_unpack(lost[0].parent.parent)
        raise EdgelibError(
            f"{len(lost)} of {len(files)} images of {where} are missing, such as {lost[0].name[:80]} in "
            f"{lost[0].parent.name!r}; {unpack}complete the download (nothing is skipped silently)"
        )
    return ImageList(files, [f"{file.name} of {where}" for file in files])


def text_of(file: Path) -> str:
    """The text of a file in UTF-8 or UTF-16; another one is read as Windows-1252, and a warning says so.

    Raises EdgelibError for a file that cannot be read, and for what Git LFS keeps in place of one.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EdgelibError(f"cannot read {file.name} ({error.strerror}); check its rights, or restore it") from None
    if data.startswith(_POINTER):
        raise EdgelibError(
            f"{file.name} is a pointer that Git LFS has left in place of the file; run git lfs pull where it was "
            "cloned, or download the file itself"
        )
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


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {  # of columns that later steps look up or open
    "question_id": ((int, str), "a whole number or a text"),
    "image_id": ((int, str), "a whole number or a text"),
    "file": (str, "the name of a file"),
}


def table_of(records: list[dict], names: dict[str, str], file: Path) -> pd.DataFrame:
    """A table of the fields `names` (name in the file -> name in the table) of records, which must all have them.

    Raises EdgelibError naming the first record without one, or with an id or a name of a file that can be none.
    """
    for field, new in names.items():
        lost = next((i for i, record in enumerate(records) if field not in record), None)
        if lost is not None:
            raise EdgelibError(
                f"record {lost + 1} of {file.name} has no {field!r}; it has {', '.join(map(str, records[lost]))[:200]}"
            )
        if new in _KINDS:
            _require_kind([record[field] for record in records], field, new, file)
    return pd.DataFrame({new: [record[field] for record in records] for field, new in names.items()})


def _require_kind(values: list, field: str, role: str, file: Path) -> None:
    """Raise EdgelibError for the first value that cannot be an id, or cannot name a file."""
    kinds, wanted = _KINDS[role]
    for number, value in enumerate(values, 1):
        named = not isinstance(value, str) or 0 < len(value) <= _LONGEST and value.isprintable()
        if not isinstance(value, kinds) or isinstance(value, bool) or not named:
            raise EdgelibError(
                f"record {number} of {file.name} has {shown(value)} as {field!r}, expected {wanted}; restore it"
            )


def require_once(table: pd.DataFrame, column: str, file: Path) -> None:
    """Raise EdgelibError for a value that a column of a file holds twice."""
    twice = table[column][table[column].duplicated()].tolist()
    if twice:
        raise EdgelibError(f"{file.name} has {column} {twice[0]!r} more than once; download it again")
