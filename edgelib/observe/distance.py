"""How far apart two sets of activations lie: what calibration saw against what deployment feeds, without any label."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.observe.statistics import Statistics

DISTANCES = ("peak", "clipped", "spread", "direction", "dead")
_OCTAVES = 10.0  # a channel that one side never used counts as this far apart


def activation_distance(seen: Statistics, deployed: Statistics) -> dict[str, float]:
    """Return label-free distances between calibration (`seen`) and deployment statistics of one model.

    Means over the Linear layers that both reached, all 0 for equal statistics:
    peak: |log2| of the ratio of the layers' largest |x|, in octaves: what a static scale is wrong by.
    clipped: share of channels whose deployed peak passes the layer's largest seen |x|, in [0, 1]: a static scale
        saturates them.
    spread: mean over channels of |log2| of the ratio of root mean squares, in octaves, at most 10.
    direction: 1 - cosine between the vectors of channel mean squares, in [0, 1]: whether the same channels matter.
    dead: share of channels that calibration never saw active and deployment does, in [0, 1].
    Raises EdgelibError when no layer is in both.
    """
    layers = [(seen.layers[name], own) for name, own in deployed.layers.items() if name in seen.layers]
    if not layers:
        raise EdgelibError("the two statistics share no layer: they must come from the same model")
    rows = [_distances(a.abs_max, b.abs_max, a.square_mean, b.square_mean) for a, b in layers]
    return dict(zip(DISTANCES, torch.tensor(rows, dtype=torch.float64).mean(0).tolist(), strict=True))


def _distances(peak: Tensor, own_peak: Tensor, square: Tensor, own_square: Tensor) -> tuple[float, ...]:
    peak, own_peak, square, own_square = (t.double() for t in (peak, own_peak, square, own_square))
    used = bool(square.any() or own_square.any())
    return (
        float(_octaves(peak.amax(), own_peak.amax())),
        float((own_peak > peak.amax()).double().mean()),
        float(_octaves(square, own_square).mean() / 2),  # of squares: half an octave each
        float(1 - torch.cosine_similarity(square, own_square, dim=0).clamp(0, 1)) if used else 0.0,
        float(((peak == 0) & (own_peak > 0)).double().mean()),
    )


def _octaves(a: Tensor, b: Tensor) -> Tensor:
    """|log2(a / b)|; 0 where both are zero, and at most 2 * _OCTAVES."""
    most = 2 * _OCTAVES
    gap = (a.log2() - b.log2()).abs().clamp(max=most)
    return torch.where((a == 0) & (b == 0), 0.0, gap.nan_to_num(most))


def divergence(reference: Tensor, other: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence KL(reference || other) in nats [...], at least 0.

    reference, other: log-probabilities [..., C]. A class that the reference rules out adds nothing.
    """
    p = reference.exp()
    return (p * (reference - other)).masked_fill(p == 0, 0).sum(dim=-1).clamp(min=0)
