"""What every labelled source is turned into: rows, class names and a way to fetch the images of chosen rows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edgelib.data.images import Images
from edgelib.errors import EdgelibError, did_you_mean

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
LABELS = "labels"
UNSPLIT = "test"  # the name under which a source without splits is read
CLASS_NAMES_FILE = "class_names.json"
SHARD = re.compile(r"(?P<split>\w[\w.]*)-(?P<place>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?")


@dataclass(frozen=True)
class Options:
    """What the caller says about a source; None means that the source tells.

    columns: role -> the name of its column, such as {"question": "q", "answer": "gt", "image": "path"}.
    images: folder of the image files that a source names. most: how many images the caller will draw at most, so that a
    source that streams may stop there; None is all.
    """

    image_column: str | None = None
    label_column: str | None = None
    class_names: Sequence[str] | Mapping | None = None
    columns: Mapping[str, str] | None = None
    images: Path | None = None
    most: int | None = None

    @property
    def labelled(self) -> bool:
        """Whether the caller names a column of labels."""
        return self.label_column is not None or "label" in (self.columns or {})


@dataclass(frozen=True)
class Labelled:
    """One split of a source, before any image is decoded: rows (item, label, others), names, fetch(positions).

    beginning: whether it is the beginning of a longer split, of which a draw takes the first items.
    """

    rows: pd.DataFrame
    class_names: tuple[str, ...]
    fetch: Callable[[np.ndarray], Images]
    beginning: bool = False


@dataclass(frozen=True)
class Source:
    """A named source and a reader for each of its splits, which returns Labelled, or Asked for questions.

    kind: the benchmark whose questions it holds, `LABELS` for labelled images, or None where that shows only when it is
    read. looks_like: what its files are, in words, where they tell.
    """

    name: str
    splits: Mapping[str, Callable[[Options], Any]]
    kind: str | None = None
    looks_like: str = ""

    def read(self, split: str, options: Options) -> Any:
        """Read one split. Raises EdgelibError for a split that is not there, naming those present."""
        wanted = canonical_split(split)
        if wanted not in self.splits:
            raise EdgelibError(
                f"data set {self.name!r} has no split {split!r}{did_you_mean(split, self.splits)}; present: "
                f"{', '.join(sorted(self.splits))} (a source without splits is read as {UNSPLIT!r})"
            )
        return self.splits[wanted](options)


def canonical_split(name: str) -> str:
    """'val', 'valid', 'dev' -> 'validation' and so on; other names stay as they are."""
    return SPLIT_NAMES.get(str(name).lower(), str(name))


def split_in_name(stem: str) -> str | None:
    """The split that a file or folder is named for ('test', 'testdev-00000-of-00001' -> 'testdev'), or None."""
    shard = SHARD.fullmatch(stem)
    if shard:
        return canonical_split(shard["split"])
    word = re.match(r"(?:partial-)?([a-z]+)(?:$|[-_.]\d)", stem.lower())  # partial: of what the hub converted in part
    return SPLIT_NAMES.get(word[1]) if word else None


def source_name(name_or_path: object) -> str:
    """A name or path as text. Raises EdgelibError for anything else."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise EdgelibError(f"a data set is named by a text or a path, got {type(name_or_path).__name__}")
    return os.fspath(name_or_path)


def pick_column(present: Iterable[str], wanted: str | None, aliases: Sequence[str], kind: str, where: str) -> str:
    """The name of the image or label column. Raises EdgelibError naming the columns that are there."""
    present = list(present)
    if wanted is None:
        for alias in aliases:
            if alias in present:
                return alias
        looked_for = f"one of {', '.join(aliases)}"
    elif wanted in present:
        return wanted
    else:
        looked_for = f"{wanted!r}{did_you_mean(wanted, present)}"
    raise EdgelibError(
        f"{where} has no {kind} column: looked for {looked_for}; present: {', '.join(present) or 'nothing'}; "
        f"name it with {kind}_column=..."
    )


def role_names(present: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """What each column that is present is called once those of `columns` (role -> column) have their roles as names.

    A column that has a role's name and is not meant by it becomes source_<name>. Raises EdgelibError for a column that
    is not there, and for one with two roles.
    """
    for role, column in columns.items():
        if column not in present:
            raise EdgelibError(
                f"columns = {{{role}: {column}}}: {where} has no column {column!r}{did_you_mean(column, present)}; "
                f"present: {', '.join(present) or 'nothing'}"
            )
    roles = {column: role for role, column in columns.items()}
    if len(roles) < len(columns):
        twice = next(c for c in roles if list(columns.values()).count(c) > 1)
        raise EdgelibError(f"columns names {twice!r} of {where} for two roles; a column can have one")
    return {name: roles.get(name, f"source_{name}" if name in columns else name) for name in present}


def refuse_columns(options: Options, where: str) -> None:
    """Raise EdgelibError if the caller names columns of a source that has none."""
    if options.image_column or options.label_column or options.columns:
        raise EdgelibError(f"{where} has no columns to choose from; leave out image_column, label_column and columns")


def refuse_images(options: Options, where: str) -> None:
    """Raise EdgelibError if the caller names a folder of images for a source that brings its own."""
    if options.images is not None:
        raise EdgelibError(f"{where} holds its own images; leave out images={str(options.images)!r}")


def first_given(*candidates):
    """The first candidate that is not None, or None."""
    return next((candidate for candidate in candidates if candidate is not None), None)


def checked_names(names: Iterable[object], where: str) -> tuple[str, ...]:
    """Return class names as a tuple of texts. Raises EdgelibError if one is not a text, or is empty."""
    names = () if isinstance(names, str) else tuple(names)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise EdgelibError(f"class names of {where} must be a list of texts, none of them empty, got {names[:5]!r}")
    return tuple(str(name) for name in names)


def read_names_file(folder: Path) -> list | dict | None:
    """The content of class_names.json (a list, or an object from folder or index to name), or None if there is none."""
    path = folder / CLASS_NAMES_FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgelibError(f"{path} is not valid JSON ({error}); write a list of class names") from error
    if not isinstance(names, list | dict):
        raise EdgelibError(f"{path} holds a {type(names).__name__}; write a list of class names, or folder -> name")
    return names


def indexed_names(given: Sequence[str] | Mapping | None, where: str) -> tuple[str, ...]:
    """Class names by label. Takes a list, or a mapping from 0..C-1; None is an error that says how to give them."""
    if given is None:
        raise EdgelibError(
            f"{where} does not say what its labels mean; pass class_names=[...] in label order, or write that list to "
            f"{CLASS_NAMES_FILE} beside the data"
        )
    if isinstance(given, Mapping):
        by_label = {str(key): name for key, name in given.items()}
        if set(by_label) != {str(i) for i in range(len(by_label))}:
            keys = ", ".join(sorted(by_label)[:10])
            raise EdgelibError(f"class names of {where} must map 0..{len(by_label) - 1} to names, got keys {keys}")
        given = [by_label[str(i)] for i in range(len(by_label))]
    return checked_names(given, where)


def folder_names(given: Sequence[str] | Mapping | None, folders: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names of sorted class folders: their own, a list in their order, or a mapping from folder to name."""
    if given is None:
        return tuple(folders)
    if isinstance(given, Mapping):
        missing = [folder for folder in folders if folder not in given]
        if missing:
            raise EdgelibError(f"class names of {where} miss its folder(s) {', '.join(missing[:5])}; name them all")
        given = [given[folder] for folder in folders]
    names = checked_names(given, where)
    if len(names) != len(folders):
        raise EdgelibError(
            f"{where} has {len(folders)} class folders, got {len(names)} class names; "
            "give one per folder, in sorted order"
        )
    return names


def integer_labels(values: np.ndarray, class_names: tuple[str, ...], where: str) -> np.ndarray:
    """Labels as int64 [N] in 0..C-1; texts are looked up among the class names.

    Raises EdgelibError for another type or shape, a text that is no class name, or a label out of range.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise EdgelibError(
            f"labels of {where} have shape {values.shape}, expected one per image, [N]; save labels.reshape(-1)"
        )
    if values.dtype.kind in "UO" and all(isinstance(value, str) for value in values):
        index = {name: i for i, name in enumerate(class_names)}
        unknown = sorted(set(values) - set(index))
        if unknown:
            raise EdgelibError(
                f"label {unknown[0]!r} of {where} is not a class name{did_you_mean(unknown[0], class_names)}; "
                f"classes: {', '.join(class_names[:20])}"
            )
        values = np.array([index[value] for value in values], dtype=np.int64)
    if values.dtype.kind not in "iu":
        raise EdgelibError(
            f"labels of {where} have type {values.dtype}, expected whole numbers 0..{len(class_names) - 1} with none "
            "missing; save them with labels.astype(numpy.int64)"
        )
    wrong = np.flatnonzero((values < 0) | (values >= len(class_names)))
    if len(wrong):
        raise EdgelibError(
            f"label {values[wrong[0]]} of {where} (row {wrong[0]}, one of {len(wrong)}) is out of range: there are "
            f"{len(class_names)} class names, so labels go from 0 to {len(class_names) - 1}; mend the one or the other"
        )
    return values.astype(np.int64)


def label_rows(split: str, labels: np.ndarray, others: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Rows (item, label, others); without an `item` column among the others, item is 'split/index'.

    Other columns called label or image, which a row here has already, become source_label and source_image.
    """
    columns = {f"source_{name}" if name in ("label", "image") else name: v for name, v in (others or {}).items()}
    items: Any = columns.pop("item", None)
    if items is None:
        items = [f"{split}/{i:06d}" for i in range(len(labels))]
    return pd.DataFrame({"item": [str(item) for item in items], "label": labels, **columns})
