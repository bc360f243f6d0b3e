"""Data sets in a local file or folder: npz arrays, parquet files, class folders of images, `datasets` folders."""

from __future__ import annotations

import difflib
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgelib.data.images import ImageList, images_from_array
from edgelib.data.question_tables import Asked
from edgelib.data.readers.arrow import parquet_rows, read_arrow
from edgelib.data.readers.hub import open_saved
from edgelib.data.readers.sources import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    UNSPLIT,
    Labelled,
    Options,
    Source,
    first_given,
    folder_names,
    indexed_names,
    integer_labels,
    label_rows,
    pick_column,
    read_names_file,
    refuse_columns,
    split_in_name,
)
from edgelib.errors import EdgelibError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_LAYOUTS = (
    "an .npz with images, labels and class_names; parquet files with image and label columns; sub-folders of images "
    "named by class, if wanted inside train and test folders; or a folder written by datasets.save_to_disk"
)


def open_path(path: Path) -> Source:
    """Open a file or folder by what it holds. Raises EdgelibError naming the accepted layouts if there is none."""
    path = path.resolve()
    if path.is_file():
        return _open_files([path], path)
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return open_saved(path)
    tables = sorted(path.rglob("*.parquet")) + sorted(path.glob("*.npz"))
    if tables:
        return _open_files(tables, path)
    return _open_image_folders(path)


def missing_path(path: Path) -> EdgelibError:
    """The error for a path that does not exist: how far it is right, and the closest name there."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    wrong = path.relative_to(parent).parts[0]
    present = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    close = difflib.get_close_matches(wrong, present, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it holds {', '.join(present[:8]) or 'nothing'}"
    return EdgelibError(
        f"data set path {str(path)!r} does not exist: there is no {wrong!r} in {str(parent.resolve())!r}; {hint}"
    )


def _open_files(files: Sequence[Path], root: Path) -> Source:
    """Sources of table files, one split per name they begin with or folder they lie in."""
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1 or kinds[0] not in (".npz", ".parquet"):
        found = ", ".join(file.name for file in files[:4])
        raise EdgelibError(f"cannot tell how to read {root.name!r}, which holds {found}; point to one of: {_LAYOUTS}")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, root) or UNSPLIT, []).append(file)
    unnamed = by_split.get(UNSPLIT, []) if len(by_split) > 1 else []
    strangers = [file.name for file in unnamed if not _split_of(file, root)]
    if strangers:
        raise EdgelibError(
            f"{root.name!r} holds splits ({', '.join(by_split)}), and files of none: {', '.join(strangers[:4])}; "
            "point to one file, or name files by split"
        )
    for split, parts in by_split.items():
        if len({part.parent for part in parts}) > 1 or (kinds[0] == ".npz" and len(parts) > 1):
            raise EdgelibError(
                f"{root.name!r} holds several data sets for the split {split!r} "
                f"({', '.join(str(part.relative_to(root)) for part in parts[:4])}); point to one of them"
            )
    read = _read_npz if kinds[0] == ".npz" else _read_parquet
    name = root.stem if root.is_file() else root.name
    return Source(name, {split: partial(read, parts, split) for split, parts in by_split.items()})


def _split_of(file: Path, root: Path) -> str | None:
    folders = file.relative_to(root).parts[:-1] if root.is_dir() else ()
    found = [split_in_name(part) for part in (*folders, file.stem)]
    return next((split for split in reversed(found) if split), None)


def _read_parquet(files: Sequence[Path], split: str, options: Options) -> Labelled | Asked:
    return read_arrow(parquet_rows(files), split, options, files[0].name)


def _read_npz(files: Sequence[Path], split: str, options: Options) -> Labelled:
    """Arrays images, labels and class_names (texts); other arrays with one value per image become columns."""
    [file] = files
    arrays, where = _load_npz(file), file.name
    image = pick_column(arrays, options.image_column, IMAGE_COLUMNS, "image", where)
    label = pick_column(arrays, options.label_column, LABEL_COLUMNS, "label", where)
    images = images_from_array(arrays[image], where)
    named = arrays.pop("class_names", np.array([])).reshape(-1).tolist()
    stored = [name.decode() if isinstance(name, bytes) else name for name in named]
    class_names = indexed_names(first_given(options.class_names, stored or None, read_names_file(file.parent)), where)
    labels = integer_labels(arrays[label], class_names, where)
    if len(labels) != len(images):
        raise EdgelibError(f"{where} holds {len(images)} images and {len(labels)} labels; save one label per image")
    others = {n: a for n, a in arrays.items() if n not in (image, label) and a.ndim == 1 and len(a) == len(images)}

    def fetch(positions: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(images[positions].transpose(0, 3, 1, 2)))

    return Labelled(label_rows(split, labels, others), class_names, fetch)


def _load_npz(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Pickled objects are refused: reading them could run code."""
    try:
        with zipfile.ZipFile(file):
            pass  # numpy would try a file that is no archive as a pickle
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
            return {name: _array(archive, name, file) for name in names}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise EdgelibError(
            f"{file.name} is not a readable npz archive ({error}); restore it, or save it again"
        ) from error


def _array(archive, name: str, file: Path) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        raise EdgelibError(
            f"array {name!r} of {file.name} cannot be read ({error}); pickled objects are refused because reading them "
            "can run code: save images and labels as plain numbers, and texts as numpy.array(texts, dtype='U')"
        ) from error


def _open_image_folders(root: Path) -> Source:
    """Class folders of images, either in the folder itself or inside folders named by split."""
    folders = _sub_folders(root)
    splits = {SPLIT_NAMES[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_NAMES and _sub_folders(f)}
    splits = splits or {UNSPLIT: root}
    classes = sorted({folder.name for split_root in splits.values() for folder in _sub_folders(split_root)})
    if not classes:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
        raise EdgelibError(f"folder {root.name!r} holds no data set (found: {found}); expected {_LAYOUTS}")
    return Source(root.name, {s: partial(_read_image_folders, f, root, s, classes) for s, f in splits.items()})


def _read_image_folders(folder: Path, root: Path, split: str, classes: list[str], options: Options) -> Labelled:
    where = f"image folder {root.name!r}"
    refuse_columns(options, where)
    class_names = folder_names(first_given(options.class_names, read_names_file(root)), classes, where)
    files, labels = [], []
    for label, name in enumerate(classes):
        found = _image_files(folder / name, root)
        files += found
        labels += [label] * len(found)
    if not files:
        raise EdgelibError(f"split {split!r} of {where} holds no images; accepted: {', '.join(IMAGE_SUFFIXES)}")
    items = [file.relative_to(root).as_posix() for file in files]
    rows = label_rows(split, np.array(labels, dtype=np.int64), {"item": items})
    names = [f"{item} of {root.name}" for item in items]

    def fetch(positions: np.ndarray) -> ImageList:
        return ImageList(files, names).select(positions)

    return Labelled(rows, class_names, fetch)


def _sub_folders(folder: Path) -> list[Path]:
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
