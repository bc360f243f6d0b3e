"""The images that a model is timed on: sizes of drawn ones, or those of a folder, by size."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

from edgelib.data.images import ImageList
from edgelib.errors import EdgelibError
from edgelib.ground.memory import require_free
from edgelib.ground.paths import from_home
from edgelib.ground.randomness import address

MOST_SIZES = 4  # of a folder; the sizes that most of its images have
LARGEST = 8192  # side of an image in pixels
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
_SIZE = re.compile(r"(\d+)(?:x(\d+))?", re.ASCII)


@dataclass(frozen=True)
class Shown:
    """Images by size. sizes: "height x width" -> uint8 [3, H, W] each; said: where they come from, in words."""

    sizes: Mapping[str, list[Tensor]]
    said: str

    def batch(self, size: str, count: int) -> list[Tensor]:
        """So many images of a size, again from the first where there are fewer."""
        return list(islice(cycle(self.sizes[size]), count))

    @property
    def digest(self) -> str:
        """SHA-256 of all pixels."""
        digest = hashlib.sha256()
        for size, images in self.sizes.items():
            digest.update(size.encode())
            for image in images:
                digest.update(image.contiguous().numpy().data)
        return digest.hexdigest()


def shown(images: str | Path, most: int = 4) -> Shown:
    """Return the images that `images` names: a folder, or sizes such as "224,448x672" (height x width in pixels).

    most: images that are kept of a size. Of a folder, the images in it and below it, of its most frequent sizes.
    Raises EdgelibError for a folder that is not there or holds no images, a file that cannot be decoded, and sizes that
    no image has.
    """
    text = str(images).strip()
    parts = [part.strip() for part in text.split(",")]
    sizes = [match for part in parts if (match := _SIZE.fullmatch(part)) is not None]
    if len(sizes) == len(parts):
        return _drawn(sizes, most)
    folder = from_home(text)
    if not text or not folder.is_dir():
        raise EdgelibError(
            f"no images {text!r}: it is neither a folder nor sizes in pixels (height x width), such as 224,448x672"
        )
    return _found(folder, most)


def _drawn(parts: list[re.Match], most: int) -> Shown:
    sizes = {}
    for part in parts:
        height, width = part.groups()
        height, width = int(height), int(width or height)
        if not (1 <= height <= LARGEST and 1 <= width <= LARGEST):
            raise EdgelibError(f"an image of {part.group()} pixels cannot be shown; its sides go from 1 to {LARGEST}")
        require_free(most * 3 * height * width, f"{most} images of {part.group()}", "name a smaller size or batch")
        generator = torch.Generator().manual_seed(address("timing", height, width) % 2**63)
        pixels = torch.randint(0, 256, (most, 3, height, width), dtype=torch.uint8, generator=generator)
        sizes[f"{height}x{width}"] = list(pixels)
    return Shown(sizes, "drawn at random")


def _found(folder: Path, most: int) -> Shown:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        kinds = Counter(path.suffix or path.name for path in folder.rglob("*") if path.is_file())
        holds = ", ".join(f"{n} of {kind}" for kind, n in kinds.most_common(4)) or "nothing"
        raise EdgelibError(f"{folder} holds no images ({holds}); images are files of {', '.join(_SUFFIXES)}")
    every = ImageList(files, [str(path) for path in files])
    counts = Counter(every.sizes)
    sizes = {}
    for size, _ in sorted(counts.most_common(MOST_SIZES)):
        positions = [i for i, found in enumerate(every.sizes) if found == size][:most]
        sizes[f"{size[0]}x{size[1]}"] = every.decoded(positions)
    kept = f"its {len(sizes)} most frequent sizes of {len(counts)}" if len(counts) > len(sizes) else "all its sizes"
    return Shown(sizes, f"{folder.name}, {kept}")
