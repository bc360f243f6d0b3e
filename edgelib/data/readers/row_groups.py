"""Cells of one parquet column at chosen rows: row groups without such rows stay unread, the others stream through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

_AT_ONCE = 16  # rows decoded together: encoded photographs of a few MB each


def cells_at(file: Path, rows: np.ndarray, column: str) -> list[Any]:
    """Cells of `column` at `rows` of a file, in their order; None where the file lacks the column.

    rows: positions in the file, any order. Memory is that of the chosen cells and of a few rows beside them, however
    large the file and its row groups are. Raises what pyarrow does for a damaged file.
    """
    wanted = np.unique(rows)
    found: dict[int, Any] = {}
    # Without these two, whole column chunks of a row group are held, a gigabyte in some data sets of the hub.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as opened:
        if column in opened.schema_arrow.names:
            for group, start, inside in _groups(opened.metadata, wanted):
                found |= _streamed(opened, group, start, inside, column)
    return [found.get(row) for row in rows.tolist()]


def _groups(metadata: pq.FileMetaData, wanted: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(number, first row, wanted rows) of the row groups that hold any."""
    start = 0
    for group in range(metadata.num_row_groups):
        end = start + metadata.row_group(group).num_rows
        if len(inside := wanted[(wanted >= start) & (wanted < end)]):
            yield group, start, inside
        start = end


def _streamed(opened: pq.ParquetFile, group: int, start: int, wanted: np.ndarray, column: str) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for batch in opened.iter_batches(_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        end = start + batch.num_rows
        inside = wanted[(wanted >= start) & (wanted < end)]
        if len(inside):
            found |= dict(zip(inside.tolist(), batch[column].take(inside - start).to_pylist(), strict=True))
        start = end
        if start > wanted[-1]:
            break
    return found
