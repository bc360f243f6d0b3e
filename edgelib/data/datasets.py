"""Labelled images, or questions about images, from a generated world, a local file or folder, or the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.hub import HUB_ID, open_hub
from edgelib.data.images import Images, image_digests, select_images, size_batches
from edgelib.data.local import missing_path, open_path
from edgelib.data.question_tables import Asked
from edgelib.data.questions import QuestionSet
from edgelib.data.scenes.sets import DEFAULT_LENGTH, GENERATED
from edgelib.data.sources import Labelled, Options, Source, canonical_split, checked_names, integer_labels, source_name
from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.checks import whole_number
from edgelib.ground.randomness import address, keys_for, uniform

# Columns of a calibration set that say what its towers see: whether they see the image, and the text or "".
IMAGE_SEEN, TEXT_SEEN = "image_seen", "text_seen"


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


def dataset(
    name_or_path: str | os.PathLike,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    *,
    offline: bool = False,
    label_column: str | None = None,
    image_column: str | None = None,
    class_names: Sequence[str] | Mapping | None = None,
) -> Dataset | QuestionSet:
    """Load labelled images by a generated set's name ("scenes"), a local path or a hub id ("owner/name[:config]").

    A path may be an npz (images, labels, class_names), parquet files as on the hub, class folders of images (inside
    split folders or not), or a folder written by `datasets`. A source without splits is its own "test" split.
    Tables with the columns of lmms-lab/VQAv2, lmms-lab/POPE or lmms-lab/MME, and "scenes-vqa", "scenes-pope" and
    "scenes-mme", give a `QuestionSet`.
    n: how many items, in the order of `drawing_order`, so that the first k rows of a draw are the draw of k; None is
        the whole split in its own order (of a generated set, the first 1000). Of questions, how many images: all
        questions about an image come along, and the sub-tasks of MME take turns.
    seed: which items are drawn, or for a generated set which world.
    offline: never ask the hub, use what its local cache holds.
    label_column, image_column: column names, where the usual ones do not fit.
    class_names: names in label order, or folder -> name for class folders, instead of the source's own.

    Raises EdgelibError, naming what is there and the fix, for an unknown name, path, split or column, for images or
    labels of a wrong kind, for missing class names, for n below 1 or beyond what there is, and for an unreachable hub.
    """
    count = None if n is None else whole_number(n, "n", at_least=1)
    seed = whole_number(seed, "seed")
    options = Options(image_column, label_column, class_names)
    name = source_name(name_or_path)
    if name in GENERATED:
        source = GENERATED[name](count or DEFAULT_LENGTH, seed)
        table = source.read(split, options)
        return _chosen(source, table, split, np.arange(_length(table)))
    source = open_source(name, offline)
    table = source.read(split, options)
    total = _length(table)
    if total == 0:
        raise EdgelibError(f"split {split!r} of data set {source.name!r} is empty; choose another split or data set")
    if count is None:
        return _chosen(source, table, split, np.arange(total))
    if count > total:
        raise EdgelibError(
            f"n={count} {'images' if isinstance(table, Asked) else 'items'} were asked of {source.name!r}, whose split "
            f"{split!r} has {total}; ask for at most {total}"
        )
    strata = table.strata if isinstance(table, Asked) else table.rows["label"].to_numpy()
    return _chosen(source, table, split, drawing_order(strata, seed)[:count])


def open_source(name: str, offline: bool = False) -> Source:
    """Open a local path or a hub id. Raises EdgelibError for a name that is neither."""
    path = Path(name).expanduser()
    if name and path.exists():
        return open_path(path)
    written_as_path = name.startswith((".", "/", "~", "\\")) or path.suffix in (".npz", ".parquet")
    if written_as_path or (len(path.parts) > 1 and Path(path.parts[0]).is_dir()):
        raise missing_path(path)
    if HUB_ID.fullmatch(name):
        return open_hub(name, offline)
    raise EdgelibError(
        f"unknown data set {name!r}{did_you_mean(name, GENERATED)}; it is no generated set ({', '.join(GENERATED)}),"
        ' nor a path that exists, nor a hub id of the form "owner/name" such as "uoft-cs/cifar10"'
    )


def drawing_order(labels: np.ndarray, seed: int, *, balanced: bool = False, backwards: bool = False) -> np.ndarray:
    """A random order of all items in which every beginning is spread over the classes.

    Within a class, items come in an order given by (seed, label, index). Classes are merged by (rank + offset) / size,
    with one uniform offset a class, so that any beginning holds close to each class's share (the expected count is
    proportional, and equal classes differ by at most one). `balanced` drops the size: one item of each class a round,
    until a class is used up. `backwards` walks each class from its other end, which keeps two draws apart.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        base = address("dataset", seed, int(label))
        keys = keys_for(base, torch.arange(len(members))).numpy()
        offset = uniform(keys_for(base, torch.tensor([-1])), 1).item()
        rank = np.argsort(np.argsort(-keys if backwards else keys))
        place[members] = (rank + offset) / (1 if balanced else len(members))
    return np.argsort(place, kind="stable")


def _length(table: Labelled | Asked) -> int:
    return int(table.rows["image"].max()) + 1 if isinstance(table, Asked) and len(table.rows) else len(table.rows)


def _chosen(source: Source, table: Labelled | Asked, split: str, positions: np.ndarray) -> Dataset | QuestionSet:
    if isinstance(table, Asked):
        return QuestionSet(source.name, table.task, *table.chosen(positions), canonical_split(split))
    images = table.fetch(positions)
    return Dataset(source.name, table.rows.iloc[positions], table.class_names, images, canonical_split(split))
