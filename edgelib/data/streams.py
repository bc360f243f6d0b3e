"""Images of one size that are not kept: read or drawn whenever they are indexed, so that memory holds one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

HELD_BYTES = 2**26  # images that take no more are made once and kept: about 9,700 of 48 pixels a side


@dataclass(frozen=True, eq=False)
class Stream:
    """Images of one size, made anew by every look: equal positions give equal bytes, in any batch and order.

    make: int64 places in the source [n] -> uint8 [n, 3, H, W]; can be pickled, for processes take it along.
    places: which of the source's images these are, int64 [N]. size: (H, W).
    """

    make: Callable[[np.ndarray], Tensor]
    places: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> torch.Size:
        """That of all images as one tensor, [N, 3, H, W]."""
        return torch.Size((len(self), 3, *self.size))

    @property
    def nbytes(self) -> int:
        """Bytes of all images as one tensor."""
        return self.shape.numel()

    def __getitem__(self, positions: Sequence[int] | np.ndarray | Tensor | slice) -> Tensor:
        """The images at `positions` as uint8 [n, 3, H, W]."""
        chosen = positions if isinstance(positions, slice) else np.asarray(positions, dtype=np.int64)
        return self.make(self.places[chosen])

    def select(self, positions: Sequence[int] | np.ndarray | Tensor) -> Stream:
        """The stream of the images at `positions`, in that order; nothing is made."""
        return replace(self, places=self.places[np.asarray(positions, dtype=np.int64)])


def held(stream: Stream, most: int = HELD_BYTES) -> Tensor | Stream:
    """The images as one tensor where they take at most `most` bytes, else the stream itself."""
    return stream[:] if stream.nbytes <= most else stream
