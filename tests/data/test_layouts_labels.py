"""Labelled images as they are downloaded: CIFAR and its corrupted versions, ImageNet and ImageNet-C."""

from __future__ import annotations

import io
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from edgelib.data.datasets import dataset
from edgelib.data.readers.layouts.cifar import CIFAR10, CIFAR100
from edgelib.errors import EdgelibError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
IMAGES = torch.from_numpy(PIXELS.reshape(-1, 3, 32, 32).copy())


def says(call, *args, **kwargs) -> str:
    with pytest.raises(EdgelibError) as error:
        call(*args, **kwargs)
    return str(error.value)


# --- pickles of CIFAR


def python2(data: np.ndarray, **lists) -> bytes:
    """A batch as Python 2 and numpy 1 wrote it, opcode by opcode: texts of bytes, an array by _reconstruct."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
    array += number(len(data)) + number(data.shape[1]) + b"\x86" + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    out = b"\x80\x02}(" + text(b"data") + array
    for name, values in lists.items():
        items = b"".join(number(v) if isinstance(v, int) else text(v) for v in values)
        out += text(name.encode()) + b"](" + items + b"e"
    return out + b"u."


def write_cifar(folder, dump=python2):
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(dump(PIXELS[2 * i - 2 : 2 * i], labels=[i, 0]))
    (folder / "test_batch").write_bytes(dump(PIXELS, labels=list(range(10))))
    names = [name.encode() for name in CIFAR10]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names, b"num_vis": 3072}, 2))
    (folder / "readme.html").write_text("<meta>")
    return folder


DUMPS = {"python 2": python2} | {
    f"protocol {p}": (
        lambda data, p=p, **lists: pickle.dumps({b"data": data} | {k.encode(): v for k, v in lists.items()}, p)
    )
    for p in (2, 3, 4, 5)
}


@pytest.mark.parametrize("dump", list(DUMPS.values())[:4], ids=list(DUMPS)[:4])
def test_cifar_is_read_from_its_python_batches(dump, tmp_path):
    assert (pickle.loads(dump(PIXELS, labels=[1]), encoding="bytes")[b"data"] == PIXELS).all()
    root = write_cifar(tmp_path / "cifar-10-batches-py", dump)
    for data in (dataset(root), dataset(tmp_path)):
        assert data.class_names == CIFAR10 and data.rows["label"].tolist() == list(range(10))
        assert torch.equal(data.images[range(10)], IMAGES)
    train = dataset(root, "train", 5)
    assert len(dataset(root, "train")) == 10 and len(train) == 5
    (root / "data_batch_3").unlink()
    assert "has no data_batch_3" in says(dataset, root, "train")


def test_cifar_100_has_its_fine_labels(tmp_path):
    for split in ("train", "test"):
        lists = {"fine_labels": list(range(90, 100)), "coarse_labels": [0] * 10}
        (tmp_path / split).write_bytes(python2(PIXELS, **lists))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [n.encode() for n in CIFAR100]}, 2))
    data = dataset(tmp_path)
    assert len(CIFAR100) == len(set(CIFAR100)) == 100 and list(CIFAR100) == sorted(CIFAR100)
    assert data.class_names == CIFAR100 and data.rows["label"].tolist() == list(range(90, 100))


class Runs:
    """Code that a pickle runs when it is read."""

    def __init__(self, call, *given):
        self.call = call, given

    def __reduce__(self):
        return self.call


def test_a_pickle_cannot_run_code(tmp_path, monkeypatch):
    import os

    root, mark = write_cifar(tmp_path / "cifar-10-batches-py"), tmp_path / "ran"
    eval_mark = f"open({str(mark)!r}, 'w').close()"
    bad = {
        "system": pickle.dumps({b"data": Runs(os.system, f"touch {mark}")}),
        "eval": pickle.dumps({b"data": Runs(eval, eval_mark)}),
        "exec in labels": pickle.dumps({b"data": PIXELS, b"labels": [Runs(exec, eval_mark)]}),
        "numpy loads pickles": pickle.dumps({b"data": Runs(np.load, "x")}),
        "an array of objects": pickle.dumps({b"data": np.array([Runs(eval, eval_mark)], dtype=object)}, 2),
        "an attribute path": b"\x80\x04\x8c\x05numpy\x8c\x10core.os.makedirs\x93\x8c\x03ran\x85R.",
        "a stand-in that is changed": b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.",
        "a class that is made": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02Pname\n.",
        "too long a shape": python2(PIXELS, labels=[1]).replace(b"K\x0aM", b"K\xf0M"),
        "cut off": python2(PIXELS, labels=[1])[:-40],
        "garbage": b"garbage",
        "empty": b"",
        "a list": pickle.dumps([1]),
    }
    for name, content in bad.items():
        (root / "test_batch").write_bytes(content)
        text = says(dataset, root)
        assert "test_batch" in text and not mark.exists(), name
        assert ("is refused" in text and "save images, labels and class_names as .npz" in text) or name == "a list"
    pickle.loads(bad["eval"])
    assert mark.exists(), "the file would have run code"


def test_batches_of_a_wrong_kind_are_named(tmp_path):
    root = write_cifar(tmp_path / "cifar-10-batches-py")
    (root / "test_batch").write_bytes(python2(PIXELS[:, :30], labels=list(range(10))))
    assert "must hold 'data', uint8 [n, 3072]" in says(dataset, root)
    (root / "test_batch").write_bytes(python2(PIXELS, labels=[1, 2]))
    assert "one value in 'labels' for each of its 10 images" in says(dataset, root)


# --- corrupted CIFAR


@pytest.mark.parametrize(("name", "classes"), [("CIFAR-10-C", CIFAR10), ("CIFAR-100-C", CIFAR100)])
def test_corrupted_cifar_has_a_split_for_each_condition(name, classes, tmp_path):
    root = tmp_path / name
    root.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for corruption in ("fog", "jpeg_compression"):
        np.save(root / f"{corruption}.npy", pixels if corruption == "fog" else 255 - pixels)
    np.save(root / "labels.npy", np.tile([3, 1, 4, 1], 5).astype(np.uint8))
    data = dataset(root, "fog:3")
    assert data.class_names == classes and data.split == "fog:3" and data.rows["label"].tolist() == [3, 1, 4, 1]
    assert torch.equal(data.images[range(4)], torch.from_numpy(pixels[8:12]).permute(0, 3, 1, 2))
    assert len(dataset(root, "jpeg_compression:5", 2)) == 2
    assert "did you mean 'fog:3'" in says(dataset, root, "fogg:3")
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "labels.npy", np.arange(7))
    assert f"several data sets ({name}, other)" in says(dataset, tmp_path, "fog:3")
    np.save(root / "labels.npy", np.arange(7))
    assert "got 20 images and" in says(dataset, root, "fog:1")


# --- ImageNet

SYNSETS = {"n01440764": "tench", "n02012849": "crane, crane bird", "n03126707": "crane, hoisting"}


def picture(place: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 20 * place, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_synsets(folder):
    for place, synset in enumerate(SYNSETS):
        (folder / synset).mkdir(parents=True)
        (folder / synset / f"ILSVRC2012_val_0000000{place}.JPEG").write_bytes(picture(place))
    return folder


def test_folders_of_synsets_have_the_names_of_wordnet(tmp_path):
    write_synsets(tmp_path / "imagenet" / "val")
    data = dataset(tmp_path / "imagenet", "validation")
    assert data.class_names[0] == "tench" and data.rows["label"].tolist() == [0, 1, 2]
    assert data.class_names[1:] == ("crane bird", "construction crane")
    assert dataset(tmp_path / "imagenet" / "val").class_names == data.class_names
    lines = [f"{synset} {words}" for synset, words in {**SYNSETS, "n01440764": "a fish, Tinca"}.items()]
    (tmp_path / "imagenet" / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    own = dataset(tmp_path / "imagenet", "validation").class_names
    assert own == ("a fish", "crane, crane bird", "crane, hoisting")
    (tmp_path / "imagenet" / "val" / "n99999999").mkdir()
    assert "nothing says what the synset n99999999 is" in says(dataset, tmp_path / "imagenet", "validation")


def test_corrupted_imagenet_has_a_split_for_each_condition(tmp_path):
    for severity in (1, 3):
        write_synsets(tmp_path / "ImageNet-C" / "weather" / "fog" / str(severity))
    data = dataset(tmp_path / "ImageNet-C", "fog:3")
    assert data.class_names[0] == "tench" and data.rows["item"][0].startswith("weather/fog/3/n01440764/")
    assert "present: fog:1, fog:3" in says(dataset, tmp_path / "ImageNet-C")
    write_synsets(tmp_path / "ImageNet-C" / "again" / "fog" / "3")
    assert "holds fog:3 more than once (again/fog/3, weather/fog/3)" in says(dataset, tmp_path / "ImageNet-C", "fog:3")


LABELS = {
    "val.txt": "ILSVRC2012_val_00000001.JPEG 134\nILSVRC2012_val_00000002.JPEG 0\n",
    "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
    "ILSVRC2012_val_00000001,n02012849 1 2 3 4 \n",
    "synset_labels.txt": "n02012849\nn01440764\n",
}


@pytest.mark.parametrize(("name", "content"), LABELS.items(), ids=LABELS)
@pytest.mark.parametrize("inner", ["val", "Data/CLS-LOC/val"])
def test_flat_validation_images_are_labelled_by_a_file(inner, name, content, tmp_path):
    folder = tmp_path / inner
    folder.mkdir(parents=True)
    for place in (1, 2):
        (folder / f"ILSVRC2012_val_0000000{place}.JPEG").write_bytes(picture(place))
    assert "without labels: put one of LOC_val_solution.csv" in says(dataset, tmp_path, "validation")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n")
    assert "counts classes in the order of meta.mat, which is not beside it" in says(dataset, tmp_path, "validation")
    (tmp_path / name).write_text(content)
    data = dataset(tmp_path, "val")
    assert len(data.class_names) == len(set(data.class_names)) == 1000
    assert [data.class_names[label].partition(",")[0] for label in data.rows["label"]] == ["crane bird", "tench"]
    if name == "val.txt":
        (tmp_path / name).write_text("ILSVRC2012_val_00000001.JPEG 1000\n")
        assert "gives ILSVRC2012_val_00000001.JPEG the label '1000'" in says(dataset, tmp_path, "val")
    for damaged in ("", content[: len(content) // 2], content.replace("0", "²"), "\n".join("²٣9")):
        (tmp_path / name).write_text(damaged, encoding="utf-8")
        assert f"{name} gives ILSVRC2012_val_0000000" in says(dataset, tmp_path, "val")


def test_flat_validation_images_are_labelled_by_the_development_kit(tmp_path):
    for place in (1, 2, 3):
        (tmp_path / f"ILSVRC2012_val_0000000{place}.JPEG").write_bytes(picture(place))
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n2\n")
    synsets = [(1, "n02012849", 0), (2, "n01440764", 0), (3, "n00001740", 5)]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    savemat(kit / "meta.mat", {"synsets": np.array(synsets, dtype=fields).reshape(-1, 1)})
    data = dataset(tmp_path, "val")
    assert [data.class_names[label] for label in data.rows["label"]] == ["tench", "crane bird", "tench"]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n2\n")
    assert "gives ILSVRC2012_val_00000002.JPEG the label" in says(dataset, tmp_path, "val")
    (kit / "meta.mat").write_bytes(b"cut")
    assert "cannot read meta.mat of ImageNet" in says(dataset, tmp_path, "val")
