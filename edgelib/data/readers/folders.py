"""Class folders of images, in a folder itself or inside folders named by split."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np

from edgelib.data.images import ImageList
from edgelib.data.readers.layouts.files import to_unpack
from edgelib.data.readers.sources import (
    IMAGE_SUFFIXES,
    LABELS,
    SPLIT_NAMES,
    UNSPLIT,
    Labelled,
    Options,
    Source,
    first_given,
    folder_names,
    label_rows,
    read_names_file,
    refuse_columns,
    refuse_images,
)
from edgelib.errors import EdgelibError


def class_folders(root: Path) -> Source | None:
    """Open class folders of images; None for a folder that holds no folders.

    Raises EdgelibError for folders of splits with images in them and no classes.
    """
    folders = sub_folders(root)
    splits = {SPLIT_NAMES[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_NAMES and sub_folders(f)}
    splits = splits or {UNSPLIT: root}
    classes = sorted({folder.name for split_root in splits.values() for folder in sub_folders(split_root)})
    if not classes:
        return None
    if len(classes) > 1 and all(name.lower() in SPLIT_NAMES for name in classes):
        raise EdgelibError(
            f"{root.name!r} has the folders {', '.join(classes)}, which are splits and no classes: sort the images of "
            "each into folders of classes, or write a metadata.csv of file_name and label into each"
        )
    return Source(root.name, {s: partial(read_class_folders, f, root, s, classes) for s, f in splits.items()}, LABELS)


def read_class_folders(
    folder: Path, root: Path, split: str, classes: list[str], options: Options, named: dict[str, str] | None = None
) -> Labelled:
    """Read the images of one split; `named` says what its folders mean, where no one else does."""
    where = f"image folder {root.name!r}"
    refuse_columns(options, where)
    refuse_images(options, where)
    inside = [f.name for f in sub_folders(folder / classes[0])] if len(classes) == 1 else []
    if inside:
        raise EdgelibError(
            f"{where} has one folder, {classes[0]!r}, and others in it, {', '.join(inside[:4])}; if these are the "
            "classes or splits, point to it"
        )
    class_names = folder_names(first_given(options.class_names, read_names_file(root), named), classes, where)
    files, labels = [], []
    for label, name in enumerate(classes):
        found = _image_files(folder / name, root)
        files += found
        labels += [label] * len(found)
    if not files:
        packed = "".join(to_unpack(folder / name) for name in classes)
        raise EdgelibError(f"split {split!r} of {where} holds no images; {packed}accepted: {', '.join(IMAGE_SUFFIXES)}")
    return labelled_files(files, np.array(labels, dtype=np.int64), class_names, root, split)


def labelled_files(
    files: list[Path], labels: np.ndarray, class_names: tuple[str, ...], root: Path, split: str
) -> Labelled:
    """Image files with their labels; an item is named by its path below the root."""
    items = [file.relative_to(root).as_posix() for file in files]
    names = [f"{item} of {root.name} (row {row})" for row, item in enumerate(items)]

    def fetch(positions: np.ndarray) -> ImageList:
        return ImageList(files, names).select(positions)

    return Labelled(label_rows(split, labels, {"item": items}), class_names, fetch)


def sub_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _image_files(folder: Path, root: Path) -> list[Path]:
    """Image files below a class folder, sorted; other files are named in a warning."""
    if not folder.is_dir():
        return []
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    other = [f.relative_to(root).as_posix() for f in files if f.suffix.lower() not in IMAGE_SUFFIXES]
    if other:
        warnings.warn(f"{len(other)} file(s) that are not images were left out: {', '.join(other[:3])}", stacklevel=2)
    return [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
