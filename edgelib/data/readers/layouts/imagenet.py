"""ImageNet-1k and ImageNet-C as they are downloaded: flat validation images with a labels file, folders of synsets.

Class names are those that lie beside the images (class_names.json, LOC_synset_mapping.txt), or the first word of each
synset in WordNet's own list, which timm ships.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgelib.data.readers.folders import labelled_files, read_class_folders
from edgelib.data.readers.layouts.files import Listing, first_names, text_of
from edgelib.data.readers.sources import (
    SPLIT_NAMES,
    UNSPLIT,
    Labelled,
    Options,
    Source,
    canonical_split,
    first_given,
    folder_names,
    read_names_file,
    refuse_columns,
    refuse_images,
)
from edgelib.errors import EdgelibError

LOOKS_LIKE = "ImageNet-1k"
CORRUPTED = frozenset(
    """gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness
    contrast elastic_transform pixelate jpeg_compression speckle_noise gaussian_blur spatter saturate""".split()
)
_APART = {"n02012849": "crane bird", "n03126707": "construction crane"}  # as CLIP's class names have them
_SEVERITIES = tuple("12345")
SYNSET = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_LABELS = (_SOLUTION, "val.txt", "val_map.txt", "imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")
_DEVKIT, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"  # of the development kit


def open_corrupted(listing: Listing) -> Source | None:
    """Open folders <corruption>/<severity>/<class>: a split for each, such as "fog:3"."""
    if listing.path.is_file():
        return None
    found = [f for f in listing.inside if f.name in _SEVERITIES and f.parent.name in CORRUPTED]
    if not found:
        return None
    once = {(f.parent.name, f.name): f for f in found}
    if len(once) < len(found):
        again = next(f for f in found if once[f.parent.name, f.name] != f)
        both = (again, once[again.parent.name, again.name])
        places = ", ".join(f.relative_to(listing.root).as_posix() for f in both)
        raise EdgelibError(
            f"{listing.name!r} holds {again.parent.name}:{again.name} more than once ({places}); point to one"
        )
    classes = sorted({child.name for folder in found for child in listing.inside.get(folder, ())})
    made: dict[str, Any] = {
        f"{folder.parent.name}:{folder.name}": partial(
            _read_folders, folder, listing.root, f"{folder.parent.name}:{folder.name}", classes
        )
        for folder in found
    }
    return Source(listing.name, made)


def _read_folders(folder: Path, root: Path, split: str, classes: list[str], options: Options) -> Labelled:
    return read_class_folders(folder, root, split, classes, options, synset_names(classes, root))


def open_validation(listing: Listing) -> Source | None:
    """Open folders of synsets, inside split folders or not, or flat validation images with a file of labels."""
    if listing.path.is_file():
        return None
    flat = next((folder for folder in listing.folders if _first_image(folder)), None)
    if flat is not None:
        return Source(listing.name, {"validation": partial(_read_flat, flat, listing)})
    holders = {f: inner for f, inner in listing.inside.items() if any(SYNSET.fullmatch(child.name) for child in inner)}
    classes = sorted({child.name for inner in holders.values() for child in inner})
    made: dict[str, Any] = {}
    for folder in holders:
        named = folder != listing.root and folder.name.lower() in SPLIT_NAMES
        split = canonical_split(folder.name) if named else UNSPLIT
        if split in made:
            raise EdgelibError(f"{listing.name!r} holds several folders of synsets for {split!r}; point to one of them")
        made[split] = partial(_read_folders, folder, listing.root, split, classes)
    return Source(listing.name, made) if made else None


def _first_image(folder: Path) -> bool:
    return not SYNSET.fullmatch(folder.name) and any(map(_VALIDATION.fullmatch, first_names(folder)))


def _read_flat(folder: Path, listing: Listing, options: Options) -> Labelled:
    where = f"{folder.name} of {listing.name!r}"
    refuse_columns(options, where)
    refuse_images(options, where)
    files = sorted(entry for entry in folder.iterdir() if _VALIDATION.fullmatch(entry.name))
    near = [*listing.files, *(f for f in listing.root.parent.iterdir() if f.is_file())]
    labels_file = next((file for name in _LABELS for file in near if file.name == name), None)
    if labels_file is None:
        labels_file = next((file for file in near if file.name == _DEVKIT and (file.parent / _META).is_file()), None)
    if labels_file is None:
        devkit = any(file.name == _DEVKIT for file in near)
        why = f"{_DEVKIT} counts classes in the order of {_META}, which is not beside it; " if devkit else ""
        raise EdgelibError(
            f"{where} holds {len(files)} validation images of ImageNet without labels: {why}put one of "
            f"{', '.join(_LABELS)} beside the folder, or sort the images into folders of synsets"
        )
    told = _labels(labels_file, [file.name for file in files])
    synsets = _synsets()
    names = folder_names(first_given(options.class_names, read_names_file(listing.root)), synsets, where)
    if names == tuple(synsets):
        meant = synset_names(synsets, listing.root, labels_file.parent)
        names = tuple(meant[synset] for synset in synsets)
    labels = np.array([told[file.name] for file in files], dtype=np.int64)
    return labelled_files(files, labels, names, listing.root, "validation")


def _labels(file: Path, images: Sequence[str]) -> dict[str, int]:
    """Label of each validation image: its synset's place among the sorted thousand. Raises EdgelibError for gaps."""
    place = {synset: i for i, synset in enumerate(_synsets())}
    lines = [line for line in text_of(file).splitlines() if line.strip()]
    if file.name == _DEVKIT:
        order = _devkit_order(file.parent / _META)
        # its numbers are no places among the sorted thousand: one without a synset stays a word
        found = {
            f"ILSVRC2012_val_{i:08d}.JPEG": order.get(line.strip(), f"no. {line}") for i, line in enumerate(lines, 1)
        }
    elif file.name == _SOLUTION:
        pairs = [(line.partition(",")[0], line.partition(",")[2].split()[:1]) for line in lines[1:]]
        found = {f"{image}.JPEG": "".join(text) for image, text in pairs}
    elif all(len(line.split()) == 1 for line in lines[:1]):
        found = {f"ILSVRC2012_val_{i:08d}.JPEG": line.strip() for i, line in enumerate(lines, 1)}
    else:
        found = {line.split()[0].rpartition("/")[2]: "".join(line.split()[1:2]) for line in lines}
    number = re.compile("[0-9]{1,4}")
    labels = {image: place.get(text, int(text) if number.fullmatch(text) else -1) for image, text in found.items()}
    wrong = next((i for i in images if not 0 <= labels.get(i, -1) < len(place)), None)
    if wrong is not None:
        raise EdgelibError(
            f"{file.name} gives {wrong} the label {found.get(wrong)!r}; expected a synset or 0 to {len(place) - 1} for "
            "every image"
        )
    return labels


def _devkit_order(file: Path) -> dict[str, str]:
    """The synset of each number of the development kit, of classes without others below them."""
    from scipy.io import loadmat

    try:
        held = loadmat(file, squeeze_me=True)["synsets"]
        columns = (held["ILSVRC2012_ID"], held["WNID"], held["num_children"])
        return {str(int(n)): str(synset) for n, synset, below in zip(*columns, strict=True) if int(below) == 0}
    except Exception as error:  # a damaged file raises many types
        raise EdgelibError(f"cannot read {file.name} of ImageNet ({type(error).__name__}); unpack it again") from None


def _synsets() -> list[str]:
    from timm.data import ImageNetInfo

    return sorted(ImageNetInfo().label_names())


@cache
def _wordnet(synsets: tuple[str, ...]) -> dict[str, str]:
    """The words of those synsets that are among ImageNet's thousand, or among its 21,841."""
    from timm.data import ImageNetInfo

    words: dict[str, str] = {}
    for subset in ("imagenet-1k", "imagenet-22k"):
        missing = set(synsets) - set(words)
        if missing:
            info = ImageNetInfo(subset)
            found = missing & set(info.label_names())
            words |= {name: info.label_name_to_description(name, detailed=False) for name in found}
    return words


def synset_names(classes: Sequence[str], *folders: Path) -> dict[str, str]:
    """What synsets mean, by the mapping file in a folder or else by WordNet's list; other folders mean their name.

    Two synsets with one first word keep all of their words; the cranes are told apart as by CLIP. Raises
    EdgelibError for a synset that is nowhere.
    """
    file = next((f / _MAPPING for f in folders for f in (f, f.parent) if (f / _MAPPING).is_file()), None)
    if file is not None:
        words = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in text_of(file).splitlines()}
    elif any(SYNSET.fullmatch(name) for name in classes):
        words = _wordnet(tuple(classes))
    else:
        words = {}
    lost = [name for name in classes if SYNSET.fullmatch(name) and not words.get(name)]
    if lost:
        raise EdgelibError(f"nothing says what the synset {lost[0]} is; put {_MAPPING} or class_names.json beside it")
    first = {name: words.get(name, name).split(",")[0].strip() for name in classes}
    count = Counter(first.values())
    told = {name: word if count[word] == 1 else words.get(name, name) for name, word in first.items()}
    count = Counter(told.values())
    return {name: word if count[word] == 1 else _APART.get(name, f"{word} {name}") for name, word in told.items()}
