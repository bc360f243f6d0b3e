"""Images with labels: what every labelled source becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.images import Images, image_digests, select_images, size_batches, told_images
from edgelib.data.readers.sources import checked_names, integer_labels
from edgelib.errors import EdgelibError
from edgelib.ground.checks import whole_number

# Columns of a calibration set that say what its towers see: whether they see the image, and the text or "".
IMAGE_SEEN = "image_seen"


TEXT_SEEN = "text_seen"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels: rows, class names and pixels that belong together.

    name: what tables and figures call it; never a machine's path.
    rows: one per image, columns item (unique text, the cluster of the bootstrap), image (position in `images`),
        label (0..C-1), and whatever else the source knows. A calibration set may have image_seen (bool) and text_seen
        (the text, empty for none) to say what the towers of a model see of an item.
    class_names: C names, in label order.
    images: uint8 tensor [N, 3, H, W], or an `ImageList` decoded when indexed.
    split: the split the images come from.

    Raises EdgelibError if it is empty, the parts differ in length, an item repeats or a label is out of range.
    """

    name: str
    rows: pd.DataFrame
    class_names: tuple[str, ...]
    images: Images
    split: str = "test"
    task: str = "zero-shot"

    def __post_init__(self) -> None:
        if not len(self.rows) or len(self.rows) != len(self.images):
            raise EdgelibError(
                f"data set {self.name!r} needs one row per image and at least one, got {len(self.rows)} rows and "
                f"{len(self.images)} images"
            )
        repeated = self.rows["item"][self.rows["item"].duplicated()]
        if len(repeated):
            raise EdgelibError(
                f"item {repeated.iloc[0]!r} of {self.name!r} is repeated ({len(repeated)} rows); give every row its own"
            )
        rows = self.rows.drop(columns="image", errors="ignore").reset_index(drop=True)
        rows.insert(1, "image", np.arange(len(rows)))
        object.__setattr__(self, "class_names", checked_names(self.class_names, self.name))
        rows["label"] = integer_labels(rows["label"].to_numpy(), self.class_names, self.name)
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (positions int64 [n], images uint8 [n, 3, H, W]), n <= size, every image once, one size a batch.

        Raises EdgelibError for a size below 1, and naming an image that cannot be decoded.
        """
        for positions in size_batches(self.images, whole_number(size, "batch size", at_least=1)):
            yield positions, self.images[positions]

    def subset(self, positions: Sequence[int] | np.ndarray | Tensor) -> Dataset:
        """The rows and images at `positions`, in that order. Raises EdgelibError for a position that is not there."""
        positions = np.array(positions)
        inside = positions.dtype.kind in "iu" and positions.ndim == 1 and positions.size
        if not inside or positions.min() < 0 or positions.max() >= len(self):
            raise EdgelibError(
                f"positions must be one or more whole numbers from 0 to {len(self) - 1}, got {positions.tolist()[:10]}"
            )
        return replace(self, rows=self.rows.iloc[positions], images=select_images(self.images, positions))

    def told(self, positions: Tensor) -> str:
        """What errors call the images at `positions`, which share a size: the first, and how many more there are."""
        return told_images(self.name, self.rows["item"].iloc[positions.tolist()], positions)

    def shown(self) -> Tensor:
        """Positions (int64) of the images that calibration shows: all, unless `image_seen` says otherwise."""
        if IMAGE_SEEN not in self.rows:
            return torch.arange(len(self))
        return torch.from_numpy(self.rows[IMAGE_SEEN].to_numpy(dtype=bool).nonzero()[0])

    def texts(self) -> tuple[list[int], list[str]] | None:
        """Positions and texts that calibration reads out; None for a set that leaves them to the model."""
        if TEXT_SEEN not in self.rows:
            return None
        told = [(i, text) for i, text in enumerate(self.rows[TEXT_SEEN]) if text]
        return [i for i, _ in told], [text for _, text in told]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of pixels, labels, items, class names and what towers see; equal content, equal fingerprint."""
        content = hashlib.sha256(repr((self.task, self.class_names)).encode())
        for item, label, pixels in zip(self.rows["item"], self.rows["label"], image_digests(self.images), strict=True):
            content.update(repr((item, int(label))).encode() + pixels)
        if TEXT_SEEN in self.rows:
            content.update(repr(self.rows[[IMAGE_SEEN, TEXT_SEEN]].to_numpy().tolist()).encode())
        return content.hexdigest()
