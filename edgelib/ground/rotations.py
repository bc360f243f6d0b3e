"""Random rotations that spread an outlier over all channels: signs times a Hadamard matrix where one is known.

QuIP# (Tseng et al., 2024) and QuaRot (Ashkboos et al., 2024, arXiv:2404.00456) take randomised Hadamard matrices: each
value of a rotated vector is a sum of all values with random signs, over the root of their number.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.ground.randomness import address, bits, keys_for, normal

_LARGEST_CORE = 256  # Paley's constructions are searched up to this order; the rest of a size is a power of two


def rotation(size: int, *key: object) -> Tensor:
    """Return a random orthogonal matrix [size, size], float64, that depends on its size and key alone.

    diag(signs) H / sqrt(size) with a Hadamard matrix H of that order (`hadamard`), so that all entries have one size;
    where none is known here, an orthogonal matrix uniform over all (`is_hadamard` tells which).
    Raises EdgelibError for a size below 1.
    """
    if size < 1:
        raise EdgelibError(f"a rotation has at least one channel, got a size of {size}")
    return _rotation(size, address("rotation", size, key)).clone()


def is_hadamard(size: int) -> bool:
    """Whether `rotation` of this size is a Hadamard matrix."""
    return _core(size) is not None


def hadamard(size: int) -> Tensor | None:
    """Return a Hadamard matrix [size, size] of -1 and 1, H H^T = size I, float64; None where none is known here.

    A power of two times 1 or an order of Paley's constructions: q + 1 for a prime q that leaves 3 by 4, 2 (q + 1) for
    one that leaves 1. So 576 = 16 * 36, 896 = 32 * 28 and 1536 = 128 * 12 are known.
    """
    core = _core(size)
    if core is None:
        return None
    found = _paley_prime(core)
    matrix = torch.ones(1, 1, dtype=torch.float64) if found is None else _paley(*found)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(pair, matrix)
    return matrix


@lru_cache(maxsize=64)
def _rotation(size: int, base: int) -> Tensor:
    signs = hadamard(size)
    if signs is not None:
        flips = 1.0 - 2.0 * (bits(keys_for(base, torch.zeros(1)), size)[0] & 1)
        return flips.to(torch.float64)[:, None] * signs / size**0.5
    q, r = torch.linalg.qr(normal(keys_for(base, torch.arange(size)), size).double())
    return q * r.diagonal().sign()  # uniform (Mezzadri, 2007)


@lru_cache(maxsize=256)
def _core(size: int) -> int | None:
    """The smallest known order whose product with a power of two is the size."""
    odd = size // (size & -size)
    if odd == 1:
        return 1  # powers of two need no other
    core = 4 * odd
    while core <= min(size, _LARGEST_CORE):
        if size % core == 0 and _paley_prime(core) is not None:
            return core
        core *= 2
    return None


def _paley_prime(order: int) -> tuple[int, int] | None:
    """(prime, copies) with which Paley's construction has this order."""
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        return order - 1, 1
    q = order // 2 - 1
    return (q, 2) if order % 2 == 0 and _is_prime(q) and q % 4 == 1 else None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _paley(q: int, copies: int) -> Tensor:
    """Paley's Hadamard matrix (1933) of order copies * (q + 1), from the quadratic residues modulo a prime."""
    squares = {i * i % q for i in range(1, q)}
    residue = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)], dtype=torch.float64)
    index = torch.arange(q)
    border = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    border[0, 1:], border[1:, 0] = 1, 1 if copies == 2 else -1
    border[1:, 1:] = residue[(index[:, None] - index) % q]
    if copies == 1:  # skew: S + I
        return border + torch.eye(q + 1, dtype=torch.float64)
    pair, diagonal = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    return torch.kron(border, pair.double()) + torch.kron(torch.eye(q + 1, dtype=torch.float64), diagonal.double())
