"""A cell as bytes that cannot lie: Parquet whose metadata say what it holds, under a digest of every byte."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FORMAT = 2
ITEM = "item"  # the column that names what a row is about
_SPEC, _SHAPE, _DIGEST = b"edgelib.spec", b"edgelib.shape", b"edgelib.digest"
_EMPTY = b"0" * 64
_MISSHAPEN = "its columns, rows or items are not those that it names"
# In a Parquet footer a key is followed by the field and the length of its value: 64 characters.
_MARK = _DIGEST + b"\x18\x40"


class Damaged(ValueError):
    """Bytes that are not the cell that was asked for; its text says in what."""


def spec_text(spec: Mapping) -> bytes:
    """The spec as it is written into a cell: equal specs, equal text."""
    return json.dumps(spec, sort_keys=True).encode()


def seal(spec: Mapping, rows: pd.DataFrame) -> bytes:
    """The file of a cell: its rows, and in the metadata its spec, columns, number of rows and of unique items.

    The digest is SHA-256 of the whole file with 64 zeros in the place of the digest. Equal rows give equal bytes.
    """
    table = pa.Table.from_pandas(rows, preserve_index=False)
    shape = json.dumps(_shape(table) | {"items": _items(table)}, sort_keys=True).encode()
    metadata = {**(table.schema.metadata or {}), _SPEC: spec_text(spec), _SHAPE: shape, _DIGEST: _EMPTY}
    stream = io.BytesIO()
    # cells are short and read whole: dictionaries and statistics would cost more than they save
    how = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table.replace_schema_metadata(metadata), stream, **how)
    data = bytearray(stream.getbuffer())
    at = data.rfind(_MARK) + len(_MARK)
    data[at : at + 64] = _digest(data, at).encode()
    return bytes(data)


def unseal(data: bytes, text: bytes | None) -> pa.Table:
    """The rows of a cell, as an Arrow table. text: `spec_text` of what the cell must say it is, None: of any.

    Raises Damaged where the bytes are not those that `seal` made of that spec.
    """
    return _open(data, text)[0]


def read_spec(data: bytes) -> bytes:
    """The `spec_text` that a sealed cell says it is of, its items counted. Raises Damaged as `unseal` does."""
    table, told, shape = _open(data, None)
    if shape["items"] != _items(table):
        raise Damaged(_MISSHAPEN)
    return told


def _open(data: bytes, text: bytes | None) -> tuple[pa.Table, bytes, dict]:
    """The rows, the text of the spec, and the shape that is told, whose items are not counted again."""
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK):
        raise Damaged("it is of an older format" if data[:4] == data[-4:] == b"PAR1" else "it is no whole Parquet file")
    if data[at : at + 64] != _digest(data, at).encode():
        raise Damaged("its digest does not match")
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        metadata = table.schema.metadata
        told, shape = metadata.pop(_SPEC), json.loads(metadata.pop(_SHAPE))
        del metadata[_DIGEST]
        table = table.replace_schema_metadata(metadata)
        found = _shape(table) | {"items": shape["items"]}
    except (pa.ArrowException, ValueError, LookupError, TypeError, OSError) as error:
        raise Damaged(f"it cannot be decoded ({error})") from None
    if shape != found:
        raise Damaged(_MISSHAPEN)
    if text is not None and told != text:
        raise Damaged("it holds another cell")
    return table, told, shape


def _digest(data: bytes | bytearray, at: int) -> str:
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], _EMPTY, view[at + 64 :]):
        digest.update(part)
    return digest.hexdigest()


def _shape(table: pa.Table) -> dict:
    return {"format": FORMAT, "columns": table.column_names, "rows": table.num_rows}


def _items(table: pa.Table) -> int | None:
    return pc.count_distinct(table[ITEM], mode="all").as_py() if ITEM in table.column_names else None
