"""The layouts that are known, in the order in which they are tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgelib.data.readers.layouts import cifar, easy_vqa, imagenet, llava_bench, mme, pope, texts, textvqa, vqa
from edgelib.data.readers.layouts.files import Listing, first_names
from edgelib.data.readers.sources import LABELS, Source
from edgelib.errors import EdgelibError

# What opens a layout, what its files hold, and what they look like.
_OPENERS: tuple[tuple[Callable[[Listing], Source | None], str | None, str], ...] = (
    (vqa.open_vqa, "vqa", vqa.LOOKS_LIKE),
    (pope.open_pope, "pope", pope.LOOKS_LIKE),
    (textvqa.open_textvqa, "textvqa", textvqa.LOOKS_LIKE),
    (llava_bench.open_llava_bench, "llava-bench", llava_bench.LOOKS_LIKE),
    (easy_vqa.open_easy_vqa, "exact", easy_vqa.LOOKS_LIKE),
    (mme.open_mme, "mme", mme.LOOKS_LIKE),
    (cifar.open_cifar, LABELS, cifar.LOOKS_LIKE),
    (cifar.open_corrupted, LABELS, "CIFAR-10-C or CIFAR-100-C"),
    (imagenet.open_corrupted, LABELS, "ImageNet-C"),
    (imagenet.open_validation, LABELS, imagenet.LOOKS_LIKE),
    (texts.open_texts, None, ""),
)
LAYOUT_NAMES = (
    "VQAv2, POPE, MME, TextVQA, LLaVA-Bench, easy-VQA, CIFAR-10, CIFAR-100 and their corrupted versions, ImageNet and "
    "ImageNet-C"
)
_COCO = re.compile(r"COCO_(train2014|val2014|test2015)_\d{12}\.jpg")


def recognised(path: Path, wanted: str | None = None) -> Source | None:
    """Open a file or folder in the layout of a benchmark's own site, or None if it is in none.

    wanted: the one benchmark that is looked for, such as "pope", where a folder holds the files of several; the first
    of `_OPENERS` otherwise. Raises EdgelibError for images of COCO without questions, which are no classes.
    """
    listing = Listing(path)
    for opener, kind, looks_like in _OPENERS:
        source = opener(listing) if wanted in (None, kind) else None
        if source is not None:
            return replace(source, kind=kind, looks_like=looks_like)
    if path.is_dir() and wanted is None:
        _refuse_bare_images(listing)
    return None


def kinds() -> list[str]:
    """The benchmarks that `recognised` can look for."""
    return list(dict.fromkeys(kind for _, kind, _ in _OPENERS if kind not in (None, LABELS)))


def _refuse_bare_images(listing: Listing) -> None:
    for folder in listing.folders[:16]:
        part = next((match[1] for match in map(_COCO.fullmatch, first_names(folder)) if match), None)
        if part is not None:
            raise EdgelibError(
                f"{listing.name!r} looks like the images of COCO {part}, which have no classes and no questions of "
                "their own. VQAv2 and POPE ask about them: name the folder of their JSON files (parameters vqa and "
                "pope of the chapter vlm_accuracy), and this one as images if it does not lie below or beside it"
            )
