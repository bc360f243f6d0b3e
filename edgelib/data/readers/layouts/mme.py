"""MME from its authors: a folder a sub-task, a text file an image with its two questions, a tab before each answer.

Five of the fourteen keep texts in `questions_answers_YN/` and images in `images/`, the others side by side.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from edgelib.data.question_tables import Asked
from edgelib.data.readers.layouts.files import Listing, asked, text_of
from edgelib.data.readers.sources import IMAGE_SUFFIXES, UNSPLIT, Options, Source, refuse_images
from edgelib.errors import EdgelibError
from edgelib.tasks.mme import MME, SUB_TASKS

LOOKS_LIKE = "MME from its authors"
_TEXTS, _IMAGES = "questions_answers_YN", "images"


def open_mme(listing: Listing) -> Source | None:
    """Open folders of sub-tasks as one split, "test"; None for a folder without text files in such folders."""
    if listing.path.is_file():
        return None
    texts = [f for f in listing.files if f.suffix == ".txt" and _folder(f).name in SUB_TASKS]
    roots = sorted({_folder(file).parent for file in texts})
    if not roots:
        return None
    if len(roots) > 1:
        raise EdgelibError(
            f"{listing.name!r} holds MME more than once ({', '.join(root.name for root in roots[:3])}); point to one"
        )
    return Source(listing.name, {UNSPLIT: partial(_read, listing.name, texts)})


def _folder(file: Path) -> Path:
    return file.parent.parent if file.parent.name == _TEXTS else file.parent


def _read(name: str, texts: list[Path], options: Options) -> Asked:
    refuse_images(options, name)
    rows, paths, images = [], [], {}
    for file in sorted(texts, key=lambda f: (SUB_TASKS.index(_folder(f).name), f.name)):
        folder = _folder(file)
        if folder not in images:
            images[folder] = _by_stem(folder)
        image = images[folder].get(file.stem)
        if image is None:
            raise EdgelibError(
                f"{folder.name}/{file.name} of {name!r} has no image beside it or in {folder.name}/{_IMAGES}; complete "
                "the download"
            )
        for question, answer in _questions(file):
            identity = f"{folder.name}/{image.name}"
            rows.append((identity, question, answer, folder.name))
            paths.append(image)
    table = pd.DataFrame(rows, columns=["question_id", "question", "answer", "category"])
    return asked(table, MME, paths, options, UNSPLIT, name)


def _by_stem(folder: Path) -> dict[str, Path]:
    places = [place for place in (folder, folder / _IMAGES) if place.is_dir()]
    found: dict[str, Path] = {}
    for image in (f for place in places for f in sorted(place.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES):
        if image.name.startswith("."):
            continue
        if image.stem in found:
            raise EdgelibError(
                f"{folder.name} has two images for the questions of {image.stem}.txt, {found[image.stem].name} and "
                f"{image.name}; remove the one that is not of MME"
            )
        found[image.stem] = image
    return found


def _questions(file: Path) -> list[tuple[str, str]]:
    where = f"{_folder(file).name}/{file.name}"
    pairs = [
        tuple(part.strip() for part in line.strip().split("\t")) for line in text_of(file).splitlines() if line.strip()
    ]
    if len(pairs) != 2 or any(len(pair) != 2 for pair in pairs):
        raise EdgelibError(
            f"{where} must hold two lines, a question, a tab and its answer each, got {len(pairs)} lines of "
            f"{', '.join(str(len(pair)) for pair in pairs[:4])} parts; restore it"
        )
    return pairs  # type: ignore[return-value]
