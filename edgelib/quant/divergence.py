"""How far apart two distributions of classes or tokens are."""

from __future__ import annotations

from torch import Tensor


def divergence(reference: Tensor, other: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence KL(reference || other) in nats [...], at least 0.

    reference, other: log-probabilities [..., C]. A class that the reference rules out adds nothing.
    """
    p = reference.exp()
    return (p * (reference - other)).masked_fill(p == 0, 0).sum(dim=-1).clamp(min=0)
