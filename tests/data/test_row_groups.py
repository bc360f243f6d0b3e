"""Rows of parquet files are read by row group and column: what was not asked for stays on disk."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgelib import dataset
from edgelib.data.readers import arrow
from edgelib.data.readers.arrow import parquet_rows
from edgelib.errors import EdgelibError

ROWS, GROUP = 53, 7


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two files with row groups of seven rows; a cell is named after its row."""
    folder = tmp_path_factory.mktemp("shards")
    for number, rows in enumerate((range(30), range(30, ROWS))):
        cells = [{"bytes": b"%d" % i, "path": None if i % 3 else "p"} for i in rows]
        pq.write_table(pa.table({"image": cells}), folder / f"test-{number:05d}-of-00002.parquet", row_group_size=GROUP)
    return sorted(folder.iterdir())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_cells_come_in_the_order_of_the_rows_that_were_asked_for(shards, rows):
    cells = parquet_rows(shards).cells(np.array(rows, dtype=int), "image")
    assert [int(cell["bytes"]) for cell in cells] == rows
    assert [cell["path"] for cell in cells] == [None if row % 3 else "p" for row in rows]


def _picture(colour: int) -> bytes:
    Image.new("RGB", (8, 8), (colour, colour, colour)).save(made := io.BytesIO(), "PNG")
    return made.getvalue()


def test_a_damaged_row_group_matters_only_to_its_own_rows(tmp_path):
    file = tmp_path / "test.parquet"
    table = pa.table({"image": [b"%04d" % i * 500 for i in range(20)]})
    pq.write_table(table, file, row_group_size=10, compression="none", use_dictionary=False)
    place = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[place : place + 40] = b"\xff" * 40
    file.write_bytes(data)
    read = parquet_rows([file]).cells
    assert [cell[:4] for cell in read(np.array([9, 0]), "image")] == [b"0009", b"0000"]
    with pytest.raises(EdgelibError, match=r"cannot read the parquet file\(s\) test.parquet"):
        read(np.array([0, 15]), "image")


def test_long_texts_that_nothing_asks_for_stay_on_disk(tmp_path, monkeypatch):
    (tmp_path / "class_names.json").write_text(json.dumps(["dark", "bright"]))
    rows = {"image": [_picture(20), _picture(200)], "label": [0, 1], "document": ["x" * 5000] * 2, "note": ["a", "b"]}
    pq.write_table(pa.table(rows), tmp_path / "test.parquet", use_dictionary=False)
    monkeypatch.setattr(arrow, "_MOST_BYTES", 4000)
    data = dataset(tmp_path)
    assert "note" in data.rows and "document" not in data.rows and len(data.images) == 2
