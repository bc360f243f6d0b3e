"""One schema from every source: the same ten images as npz, parquet, class folders and `datasets` folders."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgelib.data.datasets import dataset, drawing_order
from edgelib.data.labelled import Dataset
from edgelib.errors import EdgelibError

NAMES = ("ant", "bee", "cat")
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_npz(folder, name="data.npz", **changes):
    arrays = {"images": PIXELS, "labels": LABELS, "class_names": np.array(NAMES), **changes}
    np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})
    return folder


def hub_table(image="img", label="label", cells=None, labels=LABELS, names=NAMES, **extra) -> pa.Table:
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names or ())}}
    table = pa.table(
        {
            image: [{"bytes": png(p), "path": None} for p in PIXELS] if cells is None else cells,
            label: labels,
            **extra,
        }
    )
    described = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": described}) if names else table


def write_parquet(folder, name="test-00000-of-00001.parquet", **changes):
    pq.write_table(hub_table(**changes), folder / name)
    return folder


def write_folders(folder, split="", suffix=".png"):
    for i, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        place = folder / split / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}{suffix}")
    return folder


def write_saved(folder, split=None):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    data = datasets.Dataset.from_dict({"img": [Image.fromarray(p) for p in PIXELS], "label": LABELS}, features=features)
    (datasets.DatasetDict({split: data}) if split else data).save_to_disk(folder / "saved")
    return folder / "saved"


SOURCES = {
    "npz": write_npz,
    "npz channels first": lambda folder: write_npz(folder, images=PIXELS.transpose(0, 3, 1, 2)),
    "parquet": write_parquet,
    "parquet bytes": lambda folder: write_parquet(folder, image="image", cells=[png(p) for p in PIXELS]),
    "class folders": write_folders,
    "split and class folders": lambda folder: write_folders(folder, split="test"),
    "saved": write_saved,
    "saved with splits": lambda folder: write_saved(folder, split="test"),
}


def message(call, *args, **kwargs) -> str:
    """The text of the EdgelibError that a call raises, checked to be one paragraph."""
    with pytest.raises(EdgelibError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def pixels_by_position(data: Dataset, size: int) -> dict[int, bytes]:
    return {
        position: image.numpy().tobytes()
        for positions, images in data.batches(size)
        for position, image in zip(positions.tolist(), images, strict=True)
    }


@pytest.mark.parametrize("write", SOURCES.values(), ids=list(SOURCES))
def test_every_source_gives_the_same_rows_and_pixels(write, tmp_path):
    data = dataset(write(tmp_path))
    assert (data.task, data.split, data.class_names) == ("zero-shot", "test", NAMES)
    assert list(data.rows.columns[:3]) == ["item", "image", "label"]
    assert data.rows["item"].is_unique and len(data) == 10
    assert data.rows["label"].tolist() == LABELS.tolist()
    assert torch.equal(data.images[torch.arange(10)], TENSOR)
    assert data.images[torch.tensor([7, 2])].dtype == torch.uint8


@pytest.mark.parametrize("write", SOURCES.values(), ids=list(SOURCES))
def test_a_subset_keeps_rows_and_pixels_together(write, tmp_path):
    data = dataset(write(tmp_path))
    part = data.subset([8, 1, 5])
    assert part.rows["item"].tolist() == data.rows["item"].iloc[[8, 1, 5]].tolist()
    assert part.rows["image"].tolist() == [0, 1, 2]
    assert torch.equal(part.images[torch.arange(3)], TENSOR[[8, 1, 5]])
    assert part.class_names == data.class_names and part.name == data.name


def test_the_fingerprint_follows_content_and_not_where_it_lies(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for folder in folders:
        folder.mkdir()
    same = dataset(write_npz(folders[0]))
    moved = dataset(write_parquet(folders[1]))
    assert same.fingerprint == moved.fingerprint
    pixel = PIXELS.copy()
    pixel[3, 0, 0, 0] ^= 1
    changed = [
        dataset(write_npz(folders[2], images=pixel)),
        dataset(write_npz(folders[3], labels=LABELS[::-1])),
        dataset(folders[0], class_names=["ant", "bee", "cow"]),
        dataset(folders[0], n=9),
        same.subset([1, 0, *range(2, 10)]),
    ]
    assert len({same.fingerprint, *(data.fingerprint for data in changed)}) == 1 + len(changed)


def test_scenes_are_the_generated_world_itself():
    from edgelib.data.scenes.records import scene_dataset

    data = dataset("scenes", "validation", n=7, seed=3)
    rows, images, names = scene_dataset("validation", 7, 3)
    assert torch.equal(data.images, images) and data.class_names == names
    pd.testing.assert_frame_equal(data.rows.drop(columns="image"), rows)
    assert torch.equal(dataset("scenes", "validation", n=3, seed=3).images, images[:3])


# Choosing n items


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(-(2**40), 2**40),
    balanced=st.booleans(),
    backwards=st.booleans(),
)
def test_a_drawing_order_is_a_permutation(counts, seed, balanced, backwards):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = drawing_order(labels, seed, balanced=balanced, backwards=backwards)
    assert sorted(order) == list(range(len(labels)))


@given(size=st.integers(1, 30), classes=st.integers(1, 7), seed=st.integers(0, 10**6), data=st.data())
def test_equal_classes_never_differ_by_more_than_one(size, classes, seed, data):
    labels = np.tile(np.arange(classes), size)
    n = data.draw(st.integers(1, len(labels)))
    counts = np.bincount(labels[drawing_order(labels, seed)[:n]], minlength=classes)
    assert counts.max() - counts.min() <= 1


def test_every_item_is_as_likely_as_any_other():
    labels = np.repeat([0, 1, 2], [50, 9, 1])
    n, seeds = 13, 800
    hits = np.bincount(np.concatenate([drawing_order(labels, seed)[:n] for seed in range(seeds)]), minlength=60)
    expected = n / 60
    spread = np.sqrt(expected * (1 - expected) / seeds)
    assert np.abs(hits / seeds - expected).max() < 5 * spread + 0.02  # 0.02: merging classes rounds their shares


def test_backwards_and_forwards_draws_of_equal_classes_stay_apart():
    labels = np.tile(np.arange(5), 20)
    forwards = drawing_order(labels, 4)[:60]
    backwards = drawing_order(labels, 4, balanced=True, backwards=True)[:40]
    assert not set(forwards) & set(backwards)


def test_a_draw_begins_with_every_smaller_draw(tmp_path):
    write_npz(tmp_path)
    whole = dataset(tmp_path, n=10, seed=5)
    for n in (1, 4, 9):
        part = dataset(tmp_path, n=n, seed=5)
        assert part.rows["item"].tolist() == whole.rows["item"].tolist()[:n]
        assert torch.equal(part.images, whole.images[:n])
    assert sorted(whole.rows["item"]) == sorted(dataset(tmp_path).rows["item"])
    assert dataset(tmp_path, n=6, seed=6).rows["item"].tolist() != whole.rows["item"].tolist()[:6]


@pytest.mark.parametrize("write", SOURCES.values(), ids=list(SOURCES))
def test_drawn_rows_carry_their_own_pixels(write, tmp_path):
    data = dataset(write(tmp_path), n=6, seed=1)
    by_pixels = {image.numpy().tobytes(): label for image, label in zip(TENSOR, LABELS, strict=True)}
    found = [by_pixels[data.images[torch.tensor([i])][0].numpy().tobytes()] for i in range(6)]
    assert found == data.rows["label"].tolist()


# Images


def test_images_of_several_sizes_come_in_batches_of_one_size(tmp_path):
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5), (6, 4), (4, 6)]
    (tmp_path / "ant").mkdir()
    for i, shape in enumerate(shapes):
        Image.fromarray(np.full((*shape, 3), i, dtype=np.uint8)).save(tmp_path / "ant" / f"{i}.png")
    data = dataset(tmp_path)
    for positions, images in data.batches(2):
        assert len(positions) == len(images) <= 2
        for position, image in zip(positions.tolist(), images, strict=True):
            assert image.shape == (3, *shapes[position]) and (image == position).all()
    assert sorted(pixels_by_position(data, 2)) == list(range(6))


@pytest.mark.parametrize("write", [write_npz, write_folders], ids=["tensor", "files"])
def test_batch_size_changes_nothing(write, tmp_path):
    data = dataset(write(tmp_path))
    assert pixels_by_position(data, 1) == pixels_by_position(data, 4) == pixels_by_position(data, 99)


def test_changing_a_batch_does_not_change_the_data(tmp_path):
    data = dataset(write_npz(tmp_path))
    for _, images in data.batches(4):
        images.zero_()
    assert torch.equal(data.images, TENSOR)


def test_pixel_modes_become_rgb(tmp_path):
    grey = PIXELS[0, :, :, 0]
    rgba = np.dstack([PIXELS[0], np.full((6, 5), 7, dtype=np.uint8)])
    palette = Image.fromarray(PIXELS[0]).quantize(16)
    (tmp_path / "ant").mkdir()
    Image.fromarray(grey).save(tmp_path / "ant" / "a_grey.png")
    Image.fromarray(rgba).save(tmp_path / "ant" / "b_rgba.png")
    palette.save(tmp_path / "ant" / "c_palette.png", transparency=bytes([0, 128]))
    images = dataset(tmp_path).images[[0, 1, 2]]
    assert torch.equal(images[0], torch.from_numpy(grey).expand(3, 6, 5))
    assert torch.equal(images[1], TENSOR[0])
    assert torch.equal(images[2], torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))


def test_photographs_are_turned_upright(tmp_path):
    (tmp_path / "ant").mkdir()
    picture, exif = Image.fromarray(np.repeat(PIXELS[0], 8, 0).repeat(8, 1)), Image.Exif()
    picture.save(tmp_path / "ant" / "0.jpg", quality=100)
    exif[0x0112] = 6  # held sideways: turn 90 degrees clockwise to see it upright
    picture.save(tmp_path / "ant" / "1.jpg", quality=100, exif=exif)
    data = dataset(tmp_path)
    assert data.images.sizes == [(48, 40), (40, 48)]
    upright, turned = (data.images[[i]][0] for i in (0, 1))
    assert torch.equal(turned, torch.rot90(upright, -1, (1, 2)))


@pytest.mark.parametrize("shape", [(10, 6, 5), (10, 6, 5, 1), (10, 1, 6, 5)], ids=str)
def test_grey_arrays_get_three_equal_channels(shape, tmp_path):
    data = dataset(write_npz(tmp_path, images=PIXELS[..., 0].reshape(shape)))
    assert torch.equal(data.images, TENSOR[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (PIXELS / 255.0, "(images * 255).round()"),
        (PIXELS.astype(np.float32), "clip(0, 255)"),
        (PIXELS / 255.0 * np.nan, "NaN"),
        (PIXELS.astype(np.int64), "astype(numpy.uint8)"),
        (PIXELS[0], "6 images and 10 labels"),
        (PIXELS.reshape(10, -1), "shape (10, 90)"),
        (PIXELS[..., :2], "no axis"),
        (PIXELS[:, :3, :, :], "both axis 1 and axis 3"),
        (PIXELS[:, :0], "shape (10, 0, 5, 3)"),
        (PIXELS[:9], "9 images and 10 labels"),
    ],
    ids=[
        "unit floats",
        "floats",
        "nan",
        "int64",
        "one image",
        "flat",
        "two channels",
        "ambiguous",
        "no pixels",
        "short",
    ],
)
def test_wrong_arrays_say_how_to_convert(images, says, tmp_path):
    assert says in message(dataset, write_npz(tmp_path, images=images))


@pytest.mark.parametrize("write", [write_folders, write_parquet], ids=["files", "parquet"])
def test_a_broken_image_is_named_and_never_skipped(write, tmp_path):
    write(tmp_path)
    if write is write_folders:
        (tmp_path / "bee" / "5.png").write_bytes(png(PIXELS[5])[:60])
        name = "bee/5.png"
    else:
        write_parquet(tmp_path, cells=[png(p)[: 60 if i == 5 else None] for i, p in enumerate(PIXELS)])
        name = "test/000005"
    data = dataset(tmp_path)
    assert name in message(lambda: list(data.batches(4)))
    assert name in message(lambda: data.fingerprint)


def test_sixteen_bit_and_vanished_images_are_named(tmp_path):
    write_folders(tmp_path)
    Image.fromarray(np.full((6, 5), 1000, dtype=np.uint16)).save(tmp_path / "ant" / "0.png")
    assert "ant/0.png" in message(lambda: dataset(tmp_path).images[[0]])
    data = dataset(tmp_path)
    (tmp_path / "cat" / "9.png").unlink()
    assert "cat/9.png" in message(lambda: data.images[[9]])


def test_other_files_in_class_folders_are_named_in_a_warning(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "ant" / "notes.txt").write_text("mine")
    (tmp_path / "ant" / ".DS_Store").write_text("")
    with pytest.warns(UserWarning, match=r"1 file.*ant/notes.txt"):
        assert len(dataset(tmp_path)) == 10


def test_a_folder_around_everything_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(write_folders(tmp_path / "work") / "ant")
    for name in ("../..", "/", "~"):
        assert "a data set lies in a folder of its own" in message(dataset, name)


def test_one_folder_is_no_class(tmp_path):
    write_folders(tmp_path / "download")
    assert "one folder, 'download', and others in it, ant, bee, cat" in message(dataset, tmp_path)
    assert len(dataset(tmp_path / "download")) == 10


# Labels, class names, columns


def test_class_names_come_from_the_argument_the_source_or_a_file(tmp_path):
    write_npz(tmp_path, class_names=None)
    assert "class_names=[...]" in message(dataset, tmp_path)
    (tmp_path / "class_names.json").write_text(json.dumps(NAMES))
    assert dataset(tmp_path).class_names == NAMES
    (tmp_path / "class_names.json").write_text(json.dumps({"0": "x", "1": "y", "2": "z"}))
    assert dataset(tmp_path).class_names == ("x", "y", "z")
    assert dataset(tmp_path, class_names=["1", "2", "3"]).class_names == ("1", "2", "3")
    (tmp_path / "class_names.json").write_text("[")
    assert "not valid JSON" in message(dataset, tmp_path)


def test_class_folders_can_be_renamed(tmp_path):
    write_folders(tmp_path)
    renamed = {"ant": "an ant", "bee": "a bee", "cat": "a cat"}
    assert dataset(tmp_path, class_names=renamed).class_names == tuple(renamed.values())
    assert dataset(tmp_path, class_names=list("xyz")).class_names == ("x", "y", "z")
    assert "miss its folder(s) cat" in message(dataset, tmp_path, class_names={"ant": "a", "bee": "b"})
    assert "3 class folders, got 2" in message(dataset, tmp_path, class_names=["a", "b"])


def test_text_labels_are_looked_up_among_the_class_names(tmp_path):
    texts = [NAMES[label] for label in LABELS]
    write_parquet(tmp_path, labels=texts, names=None)
    assert dataset(tmp_path, class_names=NAMES).rows["label"].tolist() == LABELS.tolist()
    assert "'bee'" in message(dataset, tmp_path, class_names=["ant", "beer", "cat"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": LABELS + 1}, "label 3 of data.npz (row 7, one of 3) is out of range"),
        ({"labels": LABELS - 1}, "label -1"),
        ({"labels": LABELS.astype(float)}, "astype(numpy.int64)"),
        ({"labels": LABELS > 0}, "type bool"),
        ({"labels": LABELS[:, None]}, "reshape(-1)"),
        ({"labels": np.array(list(LABELS), dtype=object)}, "can run code"),
        ({"class_names": np.array(NAMES, dtype=object)}, "dtype='U'"),
        ({"class_names": np.arange(3)}, "list of texts"),
        ({"labels": None}, "no label column: looked for one of label"),
        ({"images": None}, "present: labels"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "is empty"),
    ],
    ids=[
        "too big",
        "negative",
        "float",
        "bool",
        "column",
        "object labels",
        "object names",
        "number names",
        "no labels",
        "no images",
        "empty",
    ],
)
def test_wrong_labels_and_columns_say_what_is_there(changes, says, tmp_path):
    assert says in message(dataset, write_npz(tmp_path, **changes))


def test_columns_can_be_named_and_others_are_kept(tmp_path):
    write_parquet(tmp_path, image="picture", label="kind", weight=np.arange(10.0), label_=LABELS)
    text = message(dataset, tmp_path)
    assert "image column" in text and "picture, kind, weight" in text
    assert "did you mean 'picture'" in message(dataset, tmp_path, image_column="pictures")
    data = dataset(tmp_path, image_column="picture", label_column="kind", n=4, seed=2)
    assert data.class_names == NAMES and {"weight", "label_"} <= set(data.rows.columns)
    assert torch.equal(data.images[range(4)], TENSOR[data.rows["weight"].astype(int).tolist()])
    assert "holds double" in message(dataset, tmp_path, image_column="weight", label_column="kind")
    assert "no columns" in message(dataset, "scenes", n=2, label_column="texture")


def test_a_column_named_label_survives_beside_the_chosen_one(tmp_path):
    data = dataset(write_parquet(tmp_path, coarse=LABELS // 2), label_column="coarse", class_names=NAMES)
    assert data.rows["label"].tolist() == (LABELS // 2).tolist()
    assert data.rows["source_label"].tolist() == LABELS.tolist()


def test_missing_cells_are_counted_and_named(tmp_path):
    write_parquet(tmp_path, labels=pa.array([None, *LABELS[1:].tolist()]))
    assert "misses 1 of its 10 labels" in message(dataset, tmp_path)
    write_parquet(tmp_path, cells=[None if i == 3 else png(p) for i, p in enumerate(PIXELS)])
    assert "test/000003" in message(dataset, tmp_path)


def test_an_item_column_names_the_rows_and_must_not_repeat(tmp_path):
    write_npz(tmp_path, item=np.array([f"photo {i}" for i in range(10)]))
    assert dataset(tmp_path).rows["item"].tolist()[3] == "photo 3"
    write_npz(tmp_path, item=np.array(["same"] * 10))
    assert "'same'" in message(dataset, tmp_path)


# Names, paths, splits, numbers


def test_splits_are_read_from_file_and_folder_names(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        write_parquet(
            tmp_path / "hub", f"{split}-00000-of-00001.parquet", labels=LABELS if split == "test" else LABELS[::-1]
        )
        write_folders(tmp_path / "folders", split)
    write_folders(tmp_path / "folders", "val")
    assert dataset(tmp_path / "hub", "train").rows["label"].tolist() == LABELS[::-1].tolist()
    assert dataset(tmp_path / "folders", "validation").split == "validation"
    assert dataset(tmp_path / "folders", "val").rows["item"][0] == "val/ant/0.png"
    assert dataset(tmp_path / "folders", "val").split == "validation"
    text = message(dataset, tmp_path / "hub", "tst")
    assert "did you mean 'test'" in text and "present: test, train" in text


def test_class_labels_do_not_depend_on_which_classes_a_split_holds(tmp_path):
    write_folders(tmp_path, "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(tmp_path / "test" / "cat" / "0.png")
    data = dataset(tmp_path, "test")
    assert data.class_names == NAMES and data.rows["label"].tolist() == [2]


def test_parquet_shards_are_one_table_in_name_order(tmp_path):
    for shard, part in enumerate((slice(0, 4), slice(4, 10))):
        cells = [png(p) for p in PIXELS[part]]
        write_parquet(tmp_path, f"test-0000{shard}-of-00002.parquet", cells=cells, labels=LABELS[part])
    data = dataset(tmp_path)
    assert data.rows["label"].tolist() == LABELS.tolist() and torch.equal(data.images[range(10)], TENSOR)
    drawn = dataset(tmp_path, n=7)
    assert torch.equal(drawn.images[range(7)], TENSOR[[int(item[-6:]) for item in drawn.rows["item"]]])


def test_an_unsplit_source_is_its_own_test_split(tmp_path):
    write_npz(tmp_path, "cifar_train_part.npz")
    assert len(dataset(tmp_path)) == len(dataset(tmp_path / "cifar_train_part.npz")) == 10
    assert "present: test" in message(dataset, tmp_path, "train")


def test_the_name_is_never_a_path(tmp_path):
    (tmp_path / "photos").mkdir()
    write_npz(tmp_path / "photos")
    assert dataset(tmp_path / "photos").name == "photos"
    assert dataset(tmp_path / "photos" / "data.npz").name == "data"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("scene", "did you mean 'scenes'"),
        ("cifar10", "uoft-cs/cifar10"),
        ("", "unknown data set"),
        ("a b/c d", "hub id"),
    ],
)
def test_unknown_names_say_what_is_possible(name, says):
    assert says in message(dataset, name)


def test_a_missing_path_says_where_it_goes_wrong(tmp_path):
    write_npz(tmp_path, "photos.npz")
    assert "did you mean 'photos.npz'" in message(dataset, tmp_path / "photo.npz")
    assert "no 'nowhere'" in message(dataset, tmp_path / "nowhere" / "deep")
    assert "holds nothing" in message(dataset, tmp_path / "photos.npz" / "x")


def test_folders_without_a_data_set_say_what_was_found(tmp_path):
    assert "found: nothing" in message(dataset, tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    assert "found: readme.txt" in message(dataset, tmp_path)
    assert "cannot tell how to read" in message(dataset, tmp_path / "readme.txt")
    (tmp_path / "ant").mkdir()
    assert "holds no images" in message(dataset, tmp_path)


def test_a_folder_of_several_data_sets_asks_for_one(tmp_path):
    write_npz(tmp_path, "one.npz")
    write_npz(tmp_path, "two.npz")
    assert "one.npz, two.npz" in message(dataset, tmp_path)
    (tmp_path / "two.npz").rename(tmp_path / "train.npz")
    assert "files of none: one.npz" in message(dataset, tmp_path)
    (tmp_path / "train.npz").unlink()
    write_parquet(tmp_path)
    assert "point to one of" in message(dataset, tmp_path)


@pytest.mark.parametrize("name", ["data.npz", "test.parquet"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"], ids=["empty", "garbage", "cut off"])
def test_broken_files_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert name in message(dataset, tmp_path)


@pytest.mark.parametrize("column", ["img", "label"])
def test_damaged_pages_are_named(column, tmp_path):
    for shard in range(3):
        write_parquet(tmp_path, f"test-0000{shard}-of-00003.parquet")
    path = tmp_path / "test-00001-of-00003.parquet"
    group, content = pq.ParquetFile(path).metadata.row_group(0), bytearray(path.read_bytes())
    for chunk in (group.column(i) for i in range(group.num_columns)):
        if chunk.path_in_schema.split(".")[0] == column:
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    text = message(lambda: list(dataset(tmp_path).batches(30)))
    assert path.name in text and "00000-of" not in text and "00002-of" not in text


@pytest.mark.parametrize("described", ["{", b"\xff\xfe", "[1]", '{"info": null}', '{"info": {"features": [2]}}'])
def test_bad_metadata_of_a_schema_is_no_crash(described, tmp_path):
    pq.write_table(hub_table().replace_schema_metadata({"huggingface": described}), tmp_path / "test.parquet")
    assert "pass class_names=[...]" in message(dataset, tmp_path)
    assert dataset(tmp_path, class_names=NAMES).class_names == tuple(NAMES)


def test_truncated_files_are_named(tmp_path):
    write_npz(tmp_path)
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(whole[: len(whole) // 2])
    assert "data.npz" in message(dataset, tmp_path)


@pytest.mark.parametrize("n", [0, -3, 2.0, "5", True])
def test_n_must_be_a_positive_whole_number(n, tmp_path):
    assert "n must be a whole number of at least 1" in message(dataset, write_npz(tmp_path), n=n)


def test_more_items_than_there_are_is_an_error(tmp_path):
    assert "has 10; ask for at most 10" in message(dataset, write_npz(tmp_path), n=11)


def test_a_name_is_a_text_or_a_path():
    assert "got int" in message(dataset, 7)


def test_wrong_seeds_batch_sizes_and_positions_are_refused(tmp_path):
    data = dataset(write_npz(tmp_path))
    assert "seed" in message(dataset, tmp_path, seed=0.5)
    assert "batch size" in message(lambda: next(data.batches(0)))
    for positions in ([10], [-1], [], [0.5], [[0]]):
        assert "positions" in message(data.subset, positions)


def test_a_data_set_checks_that_its_parts_belong_together():
    rows = pd.DataFrame({"item": ["a", "b"], "label": [0, 1]})
    assert "2 rows and 3 images" in message(Dataset, "x", rows, NAMES, TENSOR[:3])
    assert "out of range" in message(Dataset, "x", rows, ("only",), TENSOR[:2])
    assert "0 rows" in message(Dataset, "x", rows[:0], NAMES, TENSOR[:0])


# The hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A hub whose name cannot be looked up, and an empty cache."""
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import HfApi

    asked = []

    def refuse(self, repo, **options):
        asked.append((repo, options))
        raise OSError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return asked


def test_an_unreachable_hub_says_how_to_use_a_local_folder(no_network):
    text = message(dataset, "uoft-cs/cifar10")
    assert "'uoft-cs/cifar10' could not be reached" in text and "--local-dir ./cifar10" in text and "offline" in text
    [(repo, options)] = no_network
    assert repo == "uoft-cs/cifar10" and options["timeout"] <= 10


def test_offline_never_asks_the_hub(no_network):
    text = message(dataset, "uoft-cs/cifar10:plain_text", offline=True)
    assert "local cache" in text and "--repo-type dataset uoft-cs/cifar10 " in text and not no_network


def test_offline_reads_what_the_cache_holds(no_network, tmp_path):
    import datasets

    files = {"test": str(write_parquet(tmp_path) / "test-00000-of-00001.parquet")}
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "made"))
    [made] = [path for path in (tmp_path / "made" / "parquet").glob("*/*/*") if path.is_dir()]
    cached = tmp_path / "cache" / "someone___insects" / "default" / made.parent.name / "abc"
    cached.parent.mkdir(parents=True)
    made.rename(cached)
    (cached / "parquet-test.arrow").rename(cached / "insects-test.arrow")
    info = json.loads((cached / "dataset_info.json").read_text())
    (cached / "dataset_info.json").write_text(json.dumps({**info, "config_name": "default", "dataset_name": "insects"}))
    data = dataset("someone/insects", offline=True)
    assert torch.equal(data.images[range(10)], TENSOR) and data.class_names == NAMES and not no_network
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_id_is_streamed_split_by_split(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import HfApi

    from edgelib.data.readers import hub

    write_parquet(tmp_path, "test-00000-of-00001.parquet")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"never read")
    load, calls = datasets.load_dataset, []

    def local(repo, config=None, **options):
        calls.append((repo, config, options["split"], options["streaming"]))
        return load(str(tmp_path), data_files={"test": "test-*.parquet"}, **options)

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, repo, **options: None)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda repo, config: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", local)
    data = dataset("someone/insects:plain", n=4)
    assert set(calls) == {("someone/insects", "plain", "test", True)} and data.name == "someone/insects:plain"
    assert data.fingerprint == dataset(tmp_path / "test-00000-of-00001.parquet", n=4).fingerprint
    assert "present: test, train" in message(dataset, "someone/insects", "validation")
    monkeypatch.setattr(hub, "LONG", 5)
    begun = dataset("someone/insects", n=7)
    assert begun.rows["item"].tolist() == [f"test/{i:06d}" for i in range(7)]
    assert torch.equal(begun.images[range(7)], TENSOR[:7])
    assert "say how many with n" in message(dataset, "someone/insects")
    assert "is sorted by class: its first 4 rows hold 1 of 3" in message(dataset, "someone/insects", n=4)
