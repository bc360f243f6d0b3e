"""The layouts that are known, in the order in which they are tried."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from edgelib.data.readers.layouts import cifar, easy_vqa, imagenet, llava_bench, mme, pope, texts, textvqa, vqa
from edgelib.data.readers.layouts.files import Listing
from edgelib.data.readers.sources import Source
from edgelib.errors import EdgelibError

_OPENERS = (
    vqa.open_vqa,
    pope.open_pope,
    textvqa.open_textvqa,
    llava_bench.open_llava_bench,
    easy_vqa.open_easy_vqa,
    mme.open_mme,
    cifar.open_cifar,
    cifar.open_corrupted,
    imagenet.open_corrupted,
    imagenet.open_validation,
    texts.open_texts,
)
LAYOUT_NAMES = (
    "VQAv2, POPE, MME, TextVQA, LLaVA-Bench, easy-VQA, CIFAR-10, CIFAR-100 and their corrupted versions, ImageNet and "
    "ImageNet-C"
)
_COCO = re.compile(r"COCO_(train2014|val2014|test2015)_\d{12}\.jpg")


def recognised(path: Path) -> Source | None:
    """Open a file or folder in the layout of a benchmark's own site, or None if it is in none.

    Raises EdgelibError for images of COCO without questions, which are no classes.
    """
    listing = Listing(path)
    for opener in _OPENERS:
        source = opener(listing)
        if source is not None:
            return source
    if path.is_dir():
        _refuse_bare_images(listing)
    return None


def _refuse_bare_images(listing: Listing) -> None:
    for folder in listing.folders[:16]:
        first = next((e for e in islice(folder.iterdir(), 64) if _COCO.fullmatch(e.name)), None)
        if first is not None:
            part = _COCO.fullmatch(first.name)[1]  # type: ignore[index]
            raise EdgelibError(
                f"{listing.name!r} looks like the images of COCO {part}, which have no classes and no questions of "
                "their own. VQAv2 and POPE ask about them: name the folder of their JSON files (parameters vqa and "
                "pope of the chapter vlm_accuracy), and this one as images if it does not lie below or beside it"
            )
