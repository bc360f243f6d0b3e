"""Turn the channels of each head, so that no one of them sets the scale of all.

QuaRot (Ashkboos et al., NeurIPS 2024, arXiv:2404.00456) turns keys behind their rotary embedding; scores q k^T stay as
they are where k is turned back, or q is turned, too.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from edgelib.ground.rotations import rotation


def turned(x: Tensor, *, back: bool = False) -> Tensor:
    """Return x [..., D] times one random rotation [D, D], or times its inverse, in the dtype of x."""
    matrix = _matrix(x.shape[-1], x.dtype if x.dtype == torch.float64 else torch.float32, x.device)
    return (x.to(matrix.dtype) @ (matrix.T if back else matrix)).to(x.dtype)


@lru_cache(maxsize=8)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return rotation(size, "cache").to(device=device, dtype=dtype)
