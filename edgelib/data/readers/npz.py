"""Labelled images as arrays: npz archives with images, labels and class_names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgelib.data.readers.arrays import Stored, array_images, open_arrays
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

_NAMES = "class_names"


def open_npz(files: Sequence[Path], root: Path) -> Source:
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
    return Source(name, {split: partial(_read_npz, parts[0], split) for split, parts in by_split.items()})


def _read_npz(file: Path, split: str, options: Options) -> Labelled:
    """Arrays images, labels and class_names (texts); other arrays with one value per image become columns."""
    refuse_images(options, file.name)
    arrays = open_arrays(file)
    if options.columns:
        called = role_names(list(arrays), options.columns, file.name)
        arrays = {called[name]: array for name, array in arrays.items()}
    image = pick_column(arrays, options.image_column, IMAGE_COLUMNS, "image", file.name)
    label = pick_column(arrays, options.label_column, LABEL_COLUMNS, "label", file.name)
    others = {name: array for name, array in arrays.items() if name not in (image, label, _NAMES)}
    return _labelled(arrays[image], arrays[label], others, arrays.get(_NAMES), split, options)


def _labelled(
    images: Stored, labels: Stored, others: dict[str, Stored], named: Stored | None, split: str, options: Options
) -> Labelled:
    """Labelled images from headers that fit together; the values of other arrays stay where they are."""
    where = images.file.name
    fetch = array_images(images, where)
    count = images.shape[0]
    if len(labels.shape) == 1 and labels.shape[0] != count:
        raise EdgelibError(f"{where} holds {count} images and {labels.shape[0]} labels; save one label per image")
    stored = [] if named is None else named.read().reshape(-1).tolist()
    stored = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in stored]
    class_names = indexed_names(
        first_given(options.class_names, stored or None, read_names_file(images.file.parent)), where
    )
    columns = {name: array.read() for name, array in others.items() if array.shape == (count,)}
    found = integer_labels(
        labels.read() if len(labels.shape) == 1 else np.broadcast_to(0, labels.shape), class_names, where
    )
    return Labelled(label_rows(split, found, columns), class_names, fetch)
