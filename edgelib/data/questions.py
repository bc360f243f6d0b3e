"""Questions about images under one schema, whatever benchmark and source they come from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.images import Images, image_digests, select_images, size_batches, told_images
from edgelib.errors import EdgelibError
from edgelib.ground.checks import whole_number
from edgelib.tasks.base import Task

IMAGE_SEEN = "image_seen"  # column of a calibration set: whether the question is asked with its image


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions with reference answers and the images they are about.

    name: what tables and figures call it; never a machine's path.
    task: the benchmark, one of `edgelib.tasks.benchmarks.TASKS` or of your own.
    rows: one per question, columns item (unique text), image (position in `images`), image_id (text, the cluster of
        every test), question (as it is asked), and those of the task. A calibration set may have image_seen (bool).
    images: uint8 tensor [N, 3, H, W], or an `ImageList` decoded when indexed; several questions may share one.
    split: the split the questions come from.

    Raises EdgelibError if the task is none, it is empty, an item repeats, a column is missing, an image position is out
    of range or one image has two ids.
    """

    name: str
    task: Task
    rows: pd.DataFrame
    images: Images
    split: str = "test"

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise EdgelibError(
                f"task of question set {self.name!r} must be a Task, such as TASKS['vqa'] of edgelib.tasks.benchmarks, "
                f"got {self.task!r}"
            )
        present = ", ".join(map(str, self.rows.columns))
        for column in ("item", "image", "image_id", "question", *self.task.columns):
            if column not in self.rows:
                raise EdgelibError(
                    f"question set {self.name!r} ({self.task.name}) has no column {column!r}; has: {present}"
                )
        if not len(self.rows):
            raise EdgelibError(f"question set {self.name!r} is empty; choose another split or source")
        repeated = self.rows["item"][self.rows["item"].duplicated()]
        if len(repeated):
            raise EdgelibError(
                f"item {repeated.iloc[0]!r} of {self.name!r} is repeated ({len(repeated)} rows); give every row its own"
            )
        places = self.rows["image"].to_numpy()
        if places.dtype.kind not in "iu" or places.min() < 0 or places.max() >= len(self.images):
            raise EdgelibError(
                f"column 'image' of {self.name!r} must hold positions 0 to {len(self.images) - 1} of its images"
            )
        if self.rows.groupby("image")["image_id"].nunique().max() > 1:
            raise EdgelibError(f"an image of {self.name!r} has two values in 'image_id'; give each image one")
        object.__setattr__(self, "rows", self.rows.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = 64) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (positions int64 [n], images uint8 [m, 3, H, W], which int64 [n]): question i is about image which[i].

        n <= size. All questions of an image come together as far as they fit, so that it is encoded once.
        Raises EdgelibError for a size below 1, and naming an image that cannot be decoded.
        """
        size = whole_number(size, "batch size", at_least=1)
        asked = {place: rows for place, rows in self.rows.groupby("image", sort=False).indices.items()}
        for some in size_batches(self.images, len(self.images)):
            parts = [np.array_split(asked[p], -(-len(asked[p]) // size)) for p in some.tolist() if p in asked]
            waiting: list[np.ndarray] = []
            for part in (part for parts_of_image in parts for part in parts_of_image):
                if waiting and sum(map(len, waiting)) + len(part) > size:
                    yield self._batch(waiting)
                    waiting = []
                waiting.append(part)
            if waiting:
                yield self._batch(waiting)

    def _batch(self, parts: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        positions = np.concatenate(parts)
        places = self.rows["image"].to_numpy()[positions]
        distinct, which = np.unique(places, return_inverse=True)
        return torch.from_numpy(positions), self.images[torch.from_numpy(distinct)], torch.from_numpy(which)

    def subset(self, positions: Sequence[int] | np.ndarray | Tensor) -> QuestionSet:
        """The questions at `positions`, in that order, and their images. Raises EdgelibError for one not there."""
        positions = torch.as_tensor(positions).numpy()
        inside = positions.dtype.kind in "iu" and positions.ndim == 1 and positions.size
        if not inside or positions.min() < 0 or positions.max() >= len(self):
            raise EdgelibError(
                f"positions must be one or more whole numbers from 0 to {len(self) - 1}, got {positions.tolist()[:10]}"
            )
        rows = self.rows.iloc[positions]
        kept, image = np.unique(rows["image"], return_inverse=True)
        return replace(self, rows=rows.assign(image=image), images=select_images(self.images, kept))

    def told(self, positions: Tensor) -> str:
        """What errors call the images that questions are about: the first, and how many more questions there are."""
        return told_images(self.name, self.rows["image_id"].iloc[positions.tolist()], positions)

    def references(self, positions: Sequence[int] | Tensor) -> list[str]:
        """The reference answer of each question: the label, or what most annotators said."""
        given = self.rows[self.task.reference].iloc[torch.as_tensor(positions).numpy()]
        return [value if isinstance(value, str) else Counter(value).most_common(1)[0][0] for value in given]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of pixels, questions and references; equal content, equal fingerprint."""
        columns = ["item", "image_id", "question", *self.task.columns]
        columns += [IMAGE_SEEN] if IMAGE_SEEN in self.rows else []
        digests = image_digests(self.images)
        content = hashlib.sha256(repr((self.task.name, columns)).encode())
        for values, image in zip(self.rows[columns].to_numpy().tolist(), self.rows["image"], strict=True):
            content.update(
                repr([list(v) if isinstance(v, np.ndarray) else v for v in values]).encode() + digests[image]
            )
        return content.hexdigest()

    def calibration_batches(self, size: int = 32) -> Iterator[tuple[bool, Tensor, list[Tensor]]]:
        """Yield (whether the image is shown, positions int64 [n], one image per question), n <= size."""
        seen = self.rows[IMAGE_SEEN].to_numpy(bool) if IMAGE_SEEN in self.rows else np.ones(len(self), bool)
        for positions, images, which in self.batches(size):
            for shown in (True, False):
                own = torch.from_numpy(seen[positions.numpy()] == shown)
                if own.any():
                    yield shown, positions[own], [images[i] for i in which[own].tolist()]
