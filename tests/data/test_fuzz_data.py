"""Whatever a file of data holds, reading it gives the data or one paragraph that names it: damage of every kind."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from edgelib.data.datasets import dataset
from edgelib.errors import EdgelibError

NAMES = ("ant", "bee")
LABELS = np.array([0, 1, 0, 1])
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 18, 20, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
CHECKED = ("PNG", "npz", "compressed")  # kinds whose files carry checksums: they are right, or refused
HEADERS = [
    *("{}", "{'descr': '|u1'", "()", "[" * 200, "{'descr': '|O', 'fortran_order': False, 'shape': (4,)}"),
    *(
        f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}}}"
        for kind in ("|u1", "<f8", "<U1000000000", "|V0", "<i3", "|O")
        for order in (True, False)
        for shape in ("(4, 18, 20, 3)", "(10000000000000, 32, 32, 3)", "(-4, 18, 20, 3)", "()", "(0,)", "4", "(True,)")
    ),
]


def encoded(kind: str, pixels: np.ndarray = PIXELS[0]) -> bytes:
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def archive(kind: str) -> bytes:
    save = np.savez_compressed if kind == "compressed" else np.savez
    save(buffer := io.BytesIO(), images=PIXELS, labels=LABELS, class_names=np.array(NAMES))
    return buffer.getvalue()


def table(kind: str) -> bytes:
    cells = [{"bytes": encoded("PNG", pixels), "path": None} for pixels in PIXELS]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}
    described = json.dumps({"info": {"features": features}})
    rows = pa.table({"image": cells, "label": LABELS}).replace_schema_metadata({"huggingface": described})
    pq.write_table(rows, buffer := io.BytesIO(), compression=None if kind == "plain" else "snappy")
    return buffer.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with a few bits turned, an end cut off, a part repeated, or a piece overwritten."""
    changed, how = bytearray(data), rng.integers(5)
    if how == 0:
        return data[: rng.integers(len(data))]
    if how == 1:
        at, size = rng.integers(len(data)), rng.integers(1, 32)
        changed[at : at + size] = rng.bytes(size)
        return bytes(changed)
    if how == 2:
        at = rng.integers(len(data))
        return data[:at] + data[at // 2 :]
    near = rng.integers(2)  # to the header, or anywhere
    for _ in range(rng.integers(1, 4)):
        changed[rng.integers(min(len(data), 64) if near else len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def looked_at(path) -> torch.Tensor | None:
    """All images of a data set, or None where it is refused in one paragraph that names it."""
    try:
        data = dataset(path)
        found = [images for _, images in data.batches(2)]
    except EdgelibError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        named = ("data.npz", "test.parquet", "picture", "labels.npy", path.name)
        assert any(name in str(error) for name in named), error
        return None
    return torch.cat(found) if len({image.shape[1:] for image in found}) == 1 else None


@pytest.mark.filterwarnings("ignore")  # what Pillow says of a picture's details
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_damaged_pictures_are_read_or_named(kind, tmp_path):
    rng, data, refused = np.random.default_rng(len(kind)), encoded(kind), 0
    (tmp_path / "ant").mkdir()
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "whole.png").write_bytes(encoded("PNG"))
    for _ in range(30):
        (tmp_path / "ant" / "picture.png").write_bytes(broken := damaged(data, rng))
        found = looked_at(tmp_path)
        refused += found is None
        if found is not None and kind in CHECKED and broken != data:
            assert torch.equal(found[0], TENSOR[0])
    assert refused


@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_damaged_archives_are_right_or_named(kind, tmp_path):
    rng, data, refused = np.random.default_rng(len(kind)), archive(kind), 0
    for _ in range(120):
        (tmp_path / "data.npz").write_bytes(damaged(data, rng))
        found = looked_at(tmp_path)
        refused += found is None
        assert found is None or torch.equal(found, TENSOR)
    assert refused > 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "snappy"])
def test_damaged_tables_are_read_or_named(kind, tmp_path):
    rng, data, refused = np.random.default_rng(len(kind)), table(kind), 0
    for _ in range(50):
        (tmp_path / "test.parquet").write_bytes(damaged(data, rng))
        refused += looked_at(tmp_path) is None
    assert refused > 10


@pytest.mark.parametrize("where", ["images", "labels"])
@pytest.mark.parametrize("packed", [False, True], ids=["stored", "deflated"])
def test_headers_that_lie_are_refused_before_anything_is_allocated(where, packed, tmp_path):
    good = {"images": PIXELS, "labels": LABELS, "class_names": np.array(NAMES)}
    for header in HEADERS:
        text = header.encode().ljust(118) + b"\n"
        lie = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + good[where].tobytes()
        with zipfile.ZipFile(
            tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        ) as file:
            for name, array in good.items():
                np.save(buffer := io.BytesIO(), array)
                file.writestr(f"{name}.npy", lie if name == where else buffer.getvalue())
        honest = where == "images" and "'|u1', 'fortran_order': False, 'shape': (4, 18, 20, 3)" in header
        found = looked_at(tmp_path)
        if found is not None:  # in Fortran's order the same bytes are other pictures of the same shape
            assert honest or (where == "images" and "'|u1', 'fortran_order': True" in header), header
        assert not honest or torch.equal(found, TENSOR)


@pytest.mark.parametrize("rows", ["a.png,x,y\nb.png\n", "a.png,x,y\nb.png,x,y\n"], ids=["one row", "all rows"])
def test_a_row_of_more_cells_than_the_header_is_named(rows, tmp_path):
    (tmp_path / "set.csv").write_text("image,label\n" + rows)
    with pytest.raises(EdgelibError, match="row 1 has more cells than the header has columns"):
        dataset(tmp_path / "set.csv")
