"""Rotations: orthogonal at every size, of one magnitude where a Hadamard matrix is known, and always the same."""

from __future__ import annotations

import pytest
import torch

from edgelib.errors import EdgelibError
from edgelib.ground.rotations import hadamard, is_hadamard, rotation

KNOWN = [1, 2, 4, 12, 16, 20, 24, 28, 36, 40, 44, 60, 64, 76, 96, 128, 576, 896, 960]  # widths of real decoders too
UNKNOWN = [3, 7, 30, 52, 100]


@pytest.mark.parametrize("size", KNOWN)
def test_known_orders_are_hadamard_matrices(size):
    matrix = hadamard(size)
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))
    assert (matrix.abs() == 1).all() and is_hadamard(size)
    assert torch.allclose(rotation(size).abs(), torch.full((size, size), size**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("size", [*KNOWN[:12], *UNKNOWN])
def test_every_rotation_is_orthogonal(size):
    matrix = rotation(size, "a")
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-10)
    assert torch.equal(matrix, rotation(size, "a"))
    assert size == 1 or not torch.equal(matrix, rotation(size, "b"))


@pytest.mark.parametrize("size", UNKNOWN)
def test_other_sizes_take_a_random_orthogonal_matrix(size):
    assert hadamard(size) is None and not is_hadamard(size)
    assert rotation(size).abs().max() > 1.5 * rotation(size).abs().mean()


def test_an_outlier_is_spread_over_all_channels():
    x = torch.zeros(96, dtype=torch.float64)
    x[17] = 50
    assert torch.allclose((x @ rotation(96)).abs(), torch.full((96,), 50 / 96**0.5, dtype=torch.float64))


def test_a_rotation_is_nobodys_to_change():
    rotation(8)[:] = 0
    assert rotation(8).abs().min() > 0
    with pytest.raises(EdgelibError, match="at least one channel, got a size of 0"):
        rotation(0)
