"""Turn the channels of each head, so that no one of them sets the scale of all.

QuaRot (Ashkboos et al., NeurIPS 2024, arXiv:2404.00456) turns keys behind their rotary embedding; scores q k^T stay as
they are where k is turned back, or q is turned, too.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from edgelib.ground.rotations import hadamard, rotation

SMALLEST_TURN = 64  # channels, of llama.cpp


def turned(x: Tensor, *, back: bool = False, block: int | None = None) -> Tensor:
    """Return x [..., D] times one random rotation [D, D], or times its inverse, in the dtype of x.

    block: take Sylvester's Hadamard matrix over every `block` channels instead, as llama.cpp does; a power of two that
    divides D. It is its own inverse.
    """
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    if block is None:
        matrix = _matrix(x.shape[-1], dtype, x.device)
        return (x.to(dtype) @ (matrix.T if back else matrix)).to(x.dtype)
    return (x.to(dtype).unflatten(-1, (-1, block)) @ _plain(block, dtype, x.device)).flatten(-2).to(x.dtype)


def hadamard_block(head_dim: int, part: str) -> int | None:
    """Return over how many channels llama.cpp turns part "k" or "v" of a quantized cache, None where it does not.

    64 for values, the largest power of two that divides the head for keys, and no head that 64 does not divide
    (llama_kv_cache of llama-kv-cache.cpp, since pull request 21038).

    >>> [hadamard_block(d, "k") for d in (32, 64, 96, 128, 192)], hadamard_block(128, "v")
    ([None, 64, None, 128, 64], 64)
    """
    if head_dim % SMALLEST_TURN:
        return None
    return SMALLEST_TURN if part == "v" else head_dim & -head_dim


@lru_cache(maxsize=8)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return rotation(size, "cache").to(device=device, dtype=dtype)


@lru_cache(maxsize=8)
def _plain(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = hadamard(size)
    assert matrix is not None
    return (matrix / size**0.5).to(device=device, dtype=dtype)
