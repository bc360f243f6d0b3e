"""Images that are not kept: the same bytes as those that are, in any batch, order and process; and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import edgelib
from edgelib.data import streams
from edgelib.data.datasets import dataset
from edgelib.data.scenes import questions
from edgelib.data.streams import Stream
from edgelib.errors import EdgelibError

N = 40


@pytest.fixture
def nothing_held(monkeypatch):
    """As if every set were too large to keep."""
    monkeypatch.setattr(streams.held, "__defaults__", (0,))
    monkeypatch.setattr(questions, "HELD_BYTES", 0)


@pytest.fixture(scope="module")
def kept():
    return {name: dataset(name, n=N) for name in ("scenes", "scenes-pope")}


@pytest.mark.parametrize("name", ["scenes", "scenes-pope"])
def test_scenes_drawn_again_are_the_scenes_that_are_kept(name, kept, nothing_held):
    data = dataset(name, n=N)
    assert isinstance(data.images, Stream) and isinstance(kept[name].images, torch.Tensor)
    assert data.images.shape == kept[name].images.shape and data.images.nbytes == kept[name].images.nbytes
    assert data.fingerprint == kept[name].fingerprint
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.images[order], kept[name].images[order])
    assert torch.equal(torch.cat([data.images[[i]] for i in range(N)]), kept[name].images)
    sent = pickle.loads(pickle.dumps(data)).images
    assert torch.equal(sent.select([7, 3])[:], kept[name].images[[7, 3]])
    assert data.subset([5, 1]).fingerprint == kept[name].subset([5, 1]).fingerprint


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_arrays_are_read_image_by_image(save, kept, nothing_held, tmp_path):
    images = kept["scenes"].images
    unrelated = np.zeros(3)
    save(tmp_path / "data.npz", images=images.permute(0, 2, 3, 1), labels=np.arange(N) % 2, other=unrelated)
    data = dataset(tmp_path, class_names=["a", "b"])
    assert isinstance(data.images, Stream) and torch.equal(data.images[[9, 2]], images[[9, 2]])
    assert torch.equal(pickle.loads(pickle.dumps(data)).images[:], images)


def test_an_array_beyond_memory_is_refused_with_its_size(monkeypatch, tmp_path):
    np.savez_compressed(tmp_path / "data.npz", images=np.zeros((4, 99, 99, 3), np.uint8), labels=np.zeros(4, int))
    monkeypatch.setattr("edgelib.ground.memory.free_bytes", lambda: 2**15)
    with pytest.raises(EdgelibError, match=r"'images' of data.npz .* takes 229.* KiB of memory, and 32.0 KiB are free"):
        dataset(tmp_path, class_names=["a"])


def test_a_sparse_file_of_terabytes_is_refused(tmp_path):
    with (tmp_path / "fog.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 32, 32, 3)}
        )
        file.truncate(file.tell() + 10**9 * 32 * 32 * 3)
    np.save(tmp_path / "labels.npy", np.zeros(10**3, np.int64))
    with pytest.raises(EdgelibError, match=r"fog.npy is not readable: it claims 2.8 TiB"):
        dataset(tmp_path, "fog:1")


def unusable(kind, file):
    picture = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    if kind == "animated":
        picture.save(file, "GIF", save_all=True, append_images=[Image.fromarray(np.full((20, 20, 3), 9, np.uint8))])
    elif kind == "16 bits":
        Image.fromarray(np.full((20, 20), 999, np.uint16)).save(file, "PNG")
    elif kind == "script":
        file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
    else:
        file.write_bytes({"empty": b"", "text": b"not found"}[kind])


SAID = {
    "animated": r"holds several pictures \(an animated or many-page GIF\)",
    "16 bits": "not 8 bits a channel",
    "script": "is no image of a kind that is read here",
    "bomb": "has more pixels than one may have",
    "empty": r"is empty \(0 bytes\)",
    "text": "is no image of a kind that is read here",
}


@pytest.mark.parametrize("kind", SAID)
def test_a_picture_that_cannot_be_used_is_named_by_file_and_row(kind, tmp_path):
    folder = tmp_path / "photos" / "ant"
    folder.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / name)
    unusable(kind, folder / "1.png")
    with pytest.raises(EdgelibError, match=rf"image ant/1.png of photos \(row 1\) .*{SAID[kind]}"):
        list(dataset(tmp_path / "photos").batches())
    if kind == "bomb":
        return
    cells = [(folder / name).read_bytes() or b"\0" for name in ("0.png", "1.png")]
    for shard in range(2):
        table = pa.table({"image": [cells[0], cells[shard]], "label": [0, 0]})
        pq.write_table(table, tmp_path / f"test-0000{shard}-of-00002.parquet")
    with pytest.raises(EdgelibError, match=r"image test/000003 \(row 1 of test-00001-of-00002.parquet\) "):
        list(dataset(tmp_path, class_names=["a"]).batches())


def test_images_that_a_corruption_cannot_take_are_named(tmp_path):
    for name, side in (("0.png", 48), ("1.png", 8)):
        (tmp_path / "ring").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "ring" / name)
    model, data = edgelib.load("scenes-clip"), dataset(tmp_path)
    with pytest.raises(EdgelibError, match=r"image 'ring/1.png' of .* \(row 1\): images must be at least 16 pixels"):
        edgelib.evaluate(model, data, corruption="fog", severity=1)


def test_long_images_are_refused_before_a_map_is_drawn():
    with pytest.raises(EdgelibError, match=r"fog on images of 20,000 x 16 pixels needs a map of 32,768 x 32,768"):
        edgelib.corrupt(torch.zeros(1, 3, 16, 20_000, dtype=torch.uint8), "fog", 3)
    assert edgelib.corrupt(torch.zeros(1, 3, 16, 20_000, dtype=torch.uint8), "contrast", 3).shape[-1] == 20_000
