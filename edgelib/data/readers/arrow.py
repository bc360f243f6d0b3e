"""Arrow tables in the layout of the Hugging Face hub: parquet files, and data sets of the `datasets` package.

An image cell is {"bytes": ..., "path": ...}, raw bytes or a path; a label column is whole numbers whose names
stand in the "huggingface" entry of the schema's metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from pyarrow import types

from edgelib.data.images import ImageList
from edgelib.data.question_tables import (
    Asked,
    is_question_table,
    question_rows,
    with_images,
)
from edgelib.data.readers.row_groups import cells_at
from edgelib.data.readers.sources import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Labelled,
    Options,
    first_given,
    indexed_names,
    integer_labels,
    label_rows,
    pick_column,
    read_names_file,
    refuse_images,
    role_names,
)
from edgelib.errors import EdgelibError
from edgelib.tasks.benchmarks import task_of
from edgelib.tasks.exact import ANSWERS

_BROKEN = (pa.ArrowException, OSError)
_AT_ONCE = 256  # encoded images that are held to tell them apart
_MOST_BYTES = 2**28  # of a column that nothing asks for: texts that are longer, such as whole documents, stay on disk


@dataclass(frozen=True)
class ArrowRows:
    """A table on disk: its schema, its columns by name, one column's cells at chosen rows, and a column's bytes."""

    schema: pa.Schema
    columns: Callable[[list[str]], pa.Table]
    cells: Callable[[np.ndarray, str], list]
    folder: Path  # where relative image paths and class_names.json are looked up
    place: Callable[[int], str] | None = None  # the file and the row in it of a row of the table
    size: Callable[[str], int] = lambda _: 0  # bytes of a column in memory, as far as the files tell

    def named(self, rows: np.ndarray, names: Sequence[object], where: str) -> list[str]:
        """What errors call the images of some rows: by name, file and row."""
        places = [f"row {row} of {where}" if self.place is None else self.place(row) for row in rows.tolist()]
        return [f"{name} ({place})" for name, place in zip(names, places, strict=True)]


def parquet_rows(files: Sequence[Path]) -> ArrowRows:
    """One table of several parquet files, in the order of their names. Raises EdgelibError for a broken file."""
    files = sorted(files)
    try:
        table = pyarrow.dataset.dataset([str(file) for file in files], format="parquet")
        ends = np.cumsum([part.count_rows() for part in table.get_fragments()])  # opens every file's footer
    except _BROKEN as error:
        raise _unreadable([file.name for file in files[:3]], error) from error
    return ArrowRows(
        table.schema,
        lambda names: _read(table, names, lambda: table.to_table(columns=names)),
        partial(_cells, files, ends),
        files[0].parent,
        partial(_place, [file.name for file in files], ends),
        partial(_size, cache(partial(_sizes, files))),
    )


def _cells(files: Sequence[Path], ends: np.ndarray, rows: np.ndarray, name: str) -> list:
    found = np.empty(len(rows), dtype=object)
    parts = np.searchsorted(ends, rows, side="right")
    for part in np.unique(parts):
        inside, start = np.flatnonzero(parts == part), ends[part - 1] if part else 0
        try:
            cells = cells_at(files[part], rows[inside] - start, name)
        except _BROKEN as error:
            raise _unreadable([files[part].name], error) from error
        for place, cell in zip(inside, cells, strict=True):
            found[place] = cell
    return found.tolist()


def _size(sizes: Callable[[], Mapping[str, int]], name: str) -> int:
    return sizes().get(name, 0)


def _sizes(files: Sequence[Path]) -> Counter[str]:
    """Bytes of every column in memory, as the footers of the files tell."""
    total: Counter[str] = Counter()
    for file in files:
        footer = pyarrow.parquet.read_metadata(file)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                total[chunk.path_in_schema] += chunk.total_uncompressed_size
    return total


def _place(names: Sequence[str], ends: np.ndarray, row: int) -> str:
    at = int(np.searchsorted(ends, row, side="right"))
    return f"row {row - (int(ends[at - 1]) if at else 0)} of {names[at]}"


def _read(table: pyarrow.dataset.Dataset, names: list[str], read: Callable):
    """Return read(). Raises EdgelibError naming the file whose data pages of the columns `names` are damaged."""
    try:
        return read()
    except _BROKEN as error:  # footers were read before, pages only now; the error itself names no file
        fragments = list(table.get_fragments())
        broken = [fragment for fragment in fragments if _is_broken(fragment, names)] or fragments
        raise _unreadable([Path(fragment.path).name for fragment in broken[:3]], error) from error


def _is_broken(fragment: pyarrow.dataset.Fragment, names: list[str]) -> bool:
    try:
        for _ in fragment.to_batches(columns=names):
            pass
    except _BROKEN:
        return True
    return False


def _unreadable(names: list[str], error: Exception) -> EdgelibError:
    reason = " ".join(str(error).split())
    return EdgelibError(
        f"cannot read the parquet file(s) {', '.join(names)} ({reason}); restore or remove the broken file"
    )


def huggingface_rows(data, folder: Path) -> ArrowRows:
    """The table of a `datasets.Dataset`, its rows in the data set's own order, images left encoded."""
    data = data.with_format("arrow")
    return ArrowRows(
        data.features.arrow_schema,
        lambda names: data.select_columns(names)[:],
        lambda positions, name: data.select_columns([name]).select(positions)[:][name].to_pylist(),
        folder,
    )


def read_arrow(table: ArrowRows, split: str, options: Options, where: str) -> Labelled | Asked:
    """Read the labels, or the questions and answers, and the other plain columns of a table; images come later.

    Raises EdgelibError for a missing column, a column of the wrong kind, bad labels or missing class names.
    """
    table = _renamed(table, options.columns, where)
    names = table.schema.names
    image = pick_column(names, options.image_column, IMAGE_COLUMNS, "image", where)
    asked = is_question_table(names, options)
    label = "" if asked else pick_column(names, options.label_column, LABEL_COLUMNS, "label", where)
    kind = table.schema.field(image).type
    if not (_is_bytes(kind) or _is_text(kind) or types.is_struct(kind)):
        raise EdgelibError(
            f"column {image!r} of {where} holds {kind}, expected encoded images: bytes, a path, or "
            '{"bytes", "path"}; name another with image_column=..., or save arrays as npz'
        )
    if _is_bytes(kind):
        refuse_images(options, where)
    elif options.images is not None:
        table = replace(table, folder=options.images)
    if asked:
        return _read_questions(table, image, split, where)
    others = [name for name in _plain(table) if name not in (image, label)]
    plain = table.columns([label, *others])
    given = options.class_names
    if given is None:
        given = first_given(_names_in(table.schema, label, where), read_names_file(table.folder))
    class_names = indexed_names(given, where)
    labels = integer_labels(_label_values(plain[label], label, where), class_names, where)
    rows = label_rows(split, labels, {name: plain[name].to_pandas() for name in others})

    def fetch(positions: np.ndarray) -> ImageList:
        cells = table.cells(positions, image)
        items = table.named(positions, [rows["item"][p] for p in positions], where)
        return ImageList([_cell(c, table.folder, i) for c, i in zip(cells, items, strict=True)], items)

    return Labelled(rows, class_names, fetch)


def _read_questions(table: ArrowRows, image: str, split: str, where: str) -> Asked:
    names = table.schema.names
    task = task_of(names, where)
    wanted = [name for name in (*task.wanted, ANSWERS) if name in names]
    plain = [name for name in _plain(table, wanted) if name != image]
    columns = table.columns(list(dict.fromkeys([*wanted, *plain])))
    own = {
        name: columns[name].to_pandas() if name in plain else columns[name].to_pylist() for name in columns.column_names
    }
    if task.image_id not in own:
        own[task.image_id] = _image_ids(table, image, len(columns))
    rows, first = question_rows(pd.DataFrame(own), task, split, where)

    def fetch(positions: np.ndarray) -> ImageList:
        cells = table.cells(positions, image)
        items = table.named(positions, [rows["image_id"][p] for p in positions], where)
        return ImageList([_cell(c, table.folder, i) for c, i in zip(cells, items, strict=True)], items)

    return with_images((rows, first), task, fetch)


def _renamed(table: ArrowRows, columns: Mapping[str, str] | None, where: str) -> ArrowRows:
    """The table with columns called by their roles."""
    if not columns:
        return table
    named = role_names(table.schema.names, columns, where)  # name there -> name here
    back = {new: old for old, new in named.items()}

    def read(names: list[str]) -> pa.Table:
        return table.columns([back[name] for name in names]).rename_columns(list(names))

    schema = pa.schema([field.with_name(named[field.name]) for field in table.schema], table.schema.metadata)
    return replace(
        table,
        schema=schema,
        columns=read,
        cells=lambda rows, name: table.cells(rows, back[name]),
        size=lambda name: table.size(back[name]),
    )


def _image_ids(table: ArrowRows, image: str, length: int) -> list[str]:
    """What tells the images of a table apart that names none: the path in a cell, else a digest of its bytes."""
    if _is_text(table.schema.field(image).type):
        return table.columns([image])[image].to_pylist()
    ids = []
    for start in range(0, length, _AT_ONCE):
        for cell in table.cells(np.arange(start, min(start + _AT_ONCE, length)), image):
            data = cell.get("bytes") or str(cell.get("path")).encode() if isinstance(cell, dict) else cell
            ids.append(hashlib.sha256(data or b"").hexdigest()[:16])
    return ids


def _cell(cell: Any, folder: Path, name: str) -> Path | bytes:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        cell = folder / cell
    if cell is None:
        raise EdgelibError(f"image {name} is missing: its cell is empty; remove the row, or restore the image")
    return cell


def _label_values(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    if column.null_count:
        raise EdgelibError(
            f"column {name!r} of {where} misses {column.null_count} of its {len(column)} labels; remove those rows"
        )
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.to_pandas().to_numpy()


def _names_in(schema: pa.Schema, label: str, where: str) -> list[str] | dict | None:
    """Class names from the hub's own description of a column, or None. Raises EdgelibError if that is not JSON."""
    described = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(described) if described else None
    except ValueError as error:
        raise EdgelibError(
            f"the 'huggingface' entry in the schema metadata of {where} is not valid JSON ({error}); "
            "write it anew, or pass class_names=[...]"
        ) from error
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, list | dict) else None


def _plain(table: ArrowRows, wanted: Sequence[str] = ()) -> list[str]:
    """Columns of texts and numbers: those that are wanted, and what else is small enough to hold."""
    plain = [field.name for field in table.schema if _is_plain(field.type)]
    return [name for name in plain if name in wanted or table.size(name) <= _MOST_BYTES]


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return _is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
