"""Data sets in a local file or folder: what it holds, and npz arrays."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgelib.data.images import images_from_array
from edgelib.data.readers.folders import class_folders
from edgelib.data.readers.hub import open_saved
from edgelib.data.readers.layouts.table import LAYOUT_NAMES, recognised
from edgelib.data.readers.parquet import open_parquet
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
    refuse_images,
    role_names,
    split_in_name,
)
from edgelib.errors import EdgelibError

_LAYOUTS = (
    "an .npz with images, labels and class_names; parquet files as on the hub; a .csv, .tsv or .jsonl of image, "
    "question and answer, or of image and label; sub-folders of images named by class, if wanted inside train and test "
    f"folders; a folder written by datasets.save_to_disk; or the files of {LAYOUT_NAMES} as they are downloaded"
)


def open_path(path: Path, config: str | None = None) -> Source:
    """Open a file or folder by what it holds; `config` chooses among the configurations of parquet files.

    Raises EdgelibError naming the accepted layouts if there is none, and what a folder looks like that is part of one.
    """
    path = path.resolve()
    if not path.is_file() and ((path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()):
        return open_saved(path)
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    tables = [f for f in ([path] if path.is_file() else visible(path, "*.parquet")) if f.suffix.lower() == ".parquet"]
    arrays = [file for file in files if file.suffix.lower() == ".npz"]
    if tables and arrays:
        raise _mixed(path, [*arrays, *tables])
    if tables:
        return open_parquet(tables, path, config)
    if config is not None:
        raise EdgelibError(f"{path.name!r} holds no parquet files, so it has no configuration {config!r}; leave it out")
    if arrays:
        return _open_npz(arrays, path)
    found = recognised(path)
    if found is not None:
        return found
    found = None if path.is_file() else class_folders(path)
    if found is not None:
        return found
    if path.is_file():
        raise _mixed(path, files)
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise EdgelibError(f"folder {path.name!r} holds no data set (found: {there}); expected {_LAYOUTS}")


def visible(root: Path, pattern: str) -> list[Path]:
    """Files of a pattern below a folder, sorted, without those in hidden folders such as `.cache`."""
    return sorted(f for f in root.rglob(pattern) if not any(p.startswith(".") for p in f.relative_to(root).parts))


def _mixed(root: Path, files: Sequence[Path]) -> EdgelibError:
    found = ", ".join(file.name for file in files[:4])
    return EdgelibError(f"cannot tell how to read {root.name!r}, which holds {found}; point to one of: {_LAYOUTS}")


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


def _open_npz(files: Sequence[Path], root: Path) -> Source:
    """Sources of npz files, one split per name they begin with."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_in_name(file.stem) or UNSPLIT, []).append(file)
    strangers = [file.name for file in by_split.get(UNSPLIT, []) if not split_in_name(file.stem)]
    if strangers and len(by_split) > 1:
        raise EdgelibError(
            f"{root.name!r} holds splits ({', '.join(by_split)}), and files of none: {', '.join(strangers[:4])}; "
            "point to one file, or name files by split"
        )
    for split, parts in by_split.items():
        if len(parts) > 1:
            raise EdgelibError(
                f"{root.name!r} holds several data sets for the split {split!r} "
                f"({', '.join(part.name for part in parts[:3])}); point to one of them"
            )
    name = root.stem if root.is_file() else root.name
    return Source(name, {split: partial(_read_npz, parts, split) for split, parts in by_split.items()})


def _read_npz(files: Sequence[Path], split: str, options: Options) -> Labelled:
    """Arrays images, labels and class_names (texts); other arrays with one value per image become columns."""
    [file] = files
    refuse_images(options, file.name)
    arrays, where = _load_npz(file), file.name
    if options.columns:
        called = role_names(list(arrays), options.columns, where)
        arrays = {called[name]: array for name, array in arrays.items()}
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
