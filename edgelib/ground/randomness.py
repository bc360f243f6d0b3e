"""Randomness with an address: the same numbers for the same key, in any batch, order, process or device.

A counter-based generator: element i of the stream of a 64-bit key is a hash of (key, i). Nothing is
drawn "next", so there is no state to share, save or restore. The integer part is exact on every device;
floats derived from it can differ in the last bit between CPU and GPU.
The mixing constants are those of splitmix64 (Steele et al., 2014) and of the 32-bit finalizer
"lowbias32" (Wellons, 2018).
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgelib.ground.checks import seed_number

_GOLDEN64 = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_GOLDEN32 = -1640531527  # 0x9E3779B9 as a signed 32-bit integer


def address(*key: object) -> int:
    """Return a signed 64-bit integer that names `key` (strings, numbers, tuples of them), stable across runs.

    A numpy number counts as the Python number of its value: np.int64(1) has the address of 1. Raises EdgelibError for
    a whole number, such as a seed, of more than 64 bits.
    """
    digest = hashlib.blake2b(repr(_plain(key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _plain(part: object) -> object:
    if type(part) is tuple:
        return tuple(_plain(inner) for inner in part)
    part = part.item() if isinstance(part, np.generic) else part
    if isinstance(part, int) and not -(2**63) <= part < 2**64:
        seed_number(part)
    return part


def _fold(x: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """x ^= x >> shift without sign extension, in place; `scratch` is a tensor like x to work in."""
    if x.device.type == "cpu":  # NumPy shifts unsigned integers, which saves a pass
        word, spare = (each.numpy().view(f"u{each.element_size()}") for each in (x, scratch))
        np.bitwise_xor(word, np.right_shift(word, shift, out=spare), out=word)
        return x
    mask = (1 << (8 * x.element_size() - shift)) - 1
    return x.bitwise_xor_(torch.bitwise_right_shift(x, shift, out=scratch).bitwise_and_(mask))


def _mix64(x: Tensor) -> Tensor:
    """The splitmix64 finalizer on int64, in place."""
    scratch = torch.empty_like(x)
    _fold(x, 30, scratch).mul_(-4658895280553007687)
    _fold(x, 27, scratch).mul_(-7723592293110705685)
    return _fold(x, 31, scratch)


@lru_cache(maxsize=16)
def _ramp(count: int, step: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (0, 1, .. count - 1) * step, wrapped; kept, because the streams of one shape are drawn many times."""
    return torch.arange(count, dtype=dtype, device=device) * step


def keys_for(base: int, index: Tensor) -> Tensor:
    """Return one int64 key per entry of `index` [N], for the stream family named by `base`."""
    return _mix64(index.to(torch.int64) * _GOLDEN64 + base)


def content_keys(base: int, images: Tensor) -> Tensor:
    """Return one int64 key [N] per uint8 image [N, ...] from its bytes, so that an image's noise follows the image."""
    flat = images.reshape(len(images), -1)
    padding = -flat.shape[1] % 8
    if padding:
        flat = torch.nn.functional.pad(flat, (0, padding))
    words = flat.contiguous().view(torch.int64)
    position = _ramp(words.shape[1] + 1, _GOLDEN64, torch.int64, images.device)[1:]
    return _mix64(_mix64(words + position).sum(dim=1) + base)


def bits(keys: Tensor, count: int) -> Tensor:
    """Return int32 [N, count] of uniformly distributed bits: element i of row n is hash(keys[n], i)."""
    low, high = keys.to(torch.int32)[:, None], (keys >> 32).to(torch.int32)[:, None]
    x = _ramp(count, _GOLDEN32, torch.int32, keys.device) ^ low
    scratch = torch.empty_like(x)
    _fold(x, 16, scratch).mul_(0x7FEB352D).add_(high)
    _fold(x, 15, scratch).mul_(-2073319285)  # 0x846CA68B
    return _fold(x, 16, scratch)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Return float32 [N, count] uniform in the open interval (0, 1), on a grid of 2**-23."""
    return (bits(keys, count) >> 9).bitwise_and_(0x7FFFFF).to(torch.float32).add_(0.5).mul_(2.0**-23)


def normal(keys: Tensor, count: int) -> Tensor:
    """Return float32 [N, count] standard normal (Box-Muller on two halves of one uniform stream)."""
    half = (count + 1) // 2
    u = uniform(keys, 2 * half)
    radius = u[:, :half].log().mul_(-2.0).sqrt_()
    angle = u[:, half:] * (2.0 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
