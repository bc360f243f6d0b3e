"""CIFAR-10 and CIFAR-100 as they are downloaded: the python version, and the corrupted test sets as .npy files.

The corrupted sets hold a file a corruption, five severities one after the other; a split is named as a condition is,
such as "fog:3".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgelib.data.readers.arrays import array_images, open_arrays
from edgelib.data.readers.layouts.files import Listing, only
from edgelib.data.readers.layouts.pickles import read_pickle
from edgelib.data.readers.sources import (
    Labelled,
    Options,
    Source,
    first_given,
    indexed_names,
    integer_labels,
    label_rows,
    read_names_file,
    refuse_columns,
    refuse_images,
)
from edgelib.errors import EdgelibError

LOOKS_LIKE = "CIFAR-10 or CIFAR-100"
SEVERITIES = 5
CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)
_TEN = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_HUNDRED = {"train": ["train"], "test": ["test"]}


def open_cifar(listing: Listing) -> Source | None:
    """Open `cifar-10-batches-py` or `cifar-100-python`, splits train and test. Raises EdgelibError for both at once."""
    found = []
    for meta, parts, names, labels in (
        ("batches.meta", _TEN, "label_names", "labels"),
        ("meta", _HUNDRED, "fine_label_names", "fine_labels"),
    ):
        metas = [f for f in listing.files if f.name == meta and (f.parent / parts["test"][0]).is_file()]
        if metas:
            folder = only(metas, LOOKS_LIKE, listing).parent
            made = {
                s: partial(_read, folder, [folder / n for n in p], (meta, names, labels), s) for s, p in parts.items()
            }
            found.append((folder, Source(listing.name, made)))
    if len(found) > 1:
        raise _several(listing, [folder for folder, _ in found])
    return found[0][1] if found else None


def _several(listing: Listing, folders: Sequence[Path]) -> EdgelibError:
    places = ", ".join(folder.relative_to(listing.root).as_posix() for folder in folders[:3])
    return EdgelibError(f"{listing.name!r} holds several data sets ({places}); point to the folder of one")


def _read(folder: Path, files: Sequence[Path], keys: tuple[str, str, str], split: str, options: Options) -> Labelled:
    where, (meta, names, label) = f"{folder.name} ({split})", keys
    _refuse(options, where)
    lost = [file.name for file in files if not file.is_file()]
    if lost:
        raise EdgelibError(f"{folder.name} has no {', '.join(lost)}; unpack the archive again")
    parts = [read_pickle(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        pixels = part.get("data")
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            raise EdgelibError(f"{file.name} must hold 'data', uint8 [n, 3072], and '{label}'; download it again")
        if not isinstance(part.get(label), list) or len(part[label]) != len(pixels):
            raise EdgelibError(f"{file.name} must hold one value in '{label}' for each of its {len(pixels)} images")
    told = [str(n, "latin1") if isinstance(n, bytes) else n for n in read_pickle(folder / meta).get(names, [])]
    class_names = indexed_names(first_given(options.class_names, read_names_file(folder), told or None), where)
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    labels = integer_labels(np.array([v for part in parts for v in part[label]]), class_names, where)
    return Labelled(label_rows(split, labels), class_names, lambda rows: torch.from_numpy(images[rows].copy()))


def open_corrupted(listing: Listing) -> Source | None:
    """Open `CIFAR-10-C` or `CIFAR-100-C`: a split for each corruption and severity, "fog:1" to "fog:5" and so on."""
    folders = [file.parent for file in listing.files if file.name == "labels.npy"]
    if len(folders) > 1:
        raise _several(listing, folders)
    folder = folders[0] if folders else None
    arrays = [] if folder is None else [f for f in listing.files if f.parent == folder and f.suffix == ".npy"]
    arrays = [file for file in arrays if file.name != "labels.npy"]
    if not arrays or folder is None:
        return None
    made: dict[str, Any] = {
        f"{file.stem}:{s}": partial(_read_corrupted, folder, file, s)
        for file in arrays
        for s in range(1, SEVERITIES + 1)
    }
    return Source(listing.name, made)


def _read_corrupted(folder: Path, file: Path, severity: int, options: Options) -> Labelled:
    where = f"{file.name} of {folder.name!r}"
    _refuse(options, where)
    images, told = (next(iter(open_arrays(path).values())) for path in (file, folder / "labels.npy"))
    fetch = array_images(images, where)
    if images.shape[0] % SEVERITIES or told.shape != images.shape[:1]:
        raise EdgelibError(
            f"{where} must hold {SEVERITIES} severities of the same images and labels.npy one label for each, got "
            f"{images.shape[0]} images and {told.shape[0] if told.shape else 1} labels; download both again"
        )
    size = images.shape[0] // SEVERITIES
    part = slice((severity - 1) * size, severity * size)
    labels = told.read()
    hundred = (labels.dtype.kind in "iu" and labels.max(initial=0) >= len(CIFAR10)) or "100" in folder.name
    known = CIFAR100 if hundred else CIFAR10
    class_names = indexed_names(first_given(options.class_names, read_names_file(folder), known), where)
    rows = label_rows(f"{file.stem}:{severity}", integer_labels(labels[part], class_names, where))
    return Labelled(rows, class_names, lambda positions: fetch(part.start + positions))


def _refuse(options: Options, where: str) -> None:
    refuse_columns(options, where)
    refuse_images(options, where)
