"""Weight ranges by search: how far to shrink a scale's range below the largest weight, group by group.

A smaller range clips the largest weights and rounds all others more finely. Every search includes the whole range, so
none loses to round-to-nearest on the error that it minimises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.formats.blocks import split
from edgelib.formats.table import Format, as_blocks
from edgelib.quant.methods.layer import Layer, Rounded
from edgelib.quant.methods.rtn import check_width, granularity_of, round_to_nearest

# llm-compressor's memoryless_mse observer: |w - q|^2.4, a hundredth of the range per step, at most a fifth; without
# its early stop, so that the choice is the best of the grid
MSE_SHRINKS, MSE_POWER = tuple(1 - i / 100 for i in range(21)), 2.4
# llm-compressor's imatrix_mse observer: E[x^2] |w - q|^3, a twentieth of the range per step
IMATRIX_SHRINKS, IMATRIX_POWER = tuple(1 - i / 20 for i in range(20)), 3.0
_CHUNK = 1 << 18  # elements searched at a time: what a core's cache holds


def best_shrink(
    weight: Tensor,
    format: Format,
    group_size: int | None = None,
    shrinks: Sequence[float] = MSE_SHRINKS,
    power: float = MSE_POWER,
    importance: Tensor | None = None,
) -> Tensor:
    """Return for each group of weight [out, in] the factor in `shrinks` that its rounding error is smallest with.

    The error is the sum over the group of importance * |w - q(w)|^power; importance [in] is 1 by default. Ties go to
    the factor that comes first. Returns [out, groups, 1], in the dtype that grids are computed in.
    """
    blocks = as_blocks(weight, format, granularity_of(format, group_size))
    importance = None if importance is None else split(importance.to(blocks), blocks.shape[-1])
    # an outer scale is the whole tensor's, so it is fixed before the tensor is cut
    fixed = {"outer": format.fit(blocks).outer} if format.two_level else {}
    rows = max(1, _CHUNK // blocks[0].numel())
    return torch.cat([_best(part, format, shrinks, power, importance, fixed) for part in blocks.split(rows)])


def _best(blocks, format, shrinks, power, importance, fixed) -> Tensor:
    lowest = torch.full_like(blocks[..., :1], torch.inf)
    best = torch.full_like(lowest, shrinks[0])
    for shrink in shrinks:
        error = format.snap(blocks, format.fit(blocks, shrink, **fixed)).sub_(blocks).abs_().pow_(power)
        error = (error if importance is None else error.mul_(importance)).sum(-1, keepdim=True)
        better = error < lowest
        lowest, best = torch.where(better, error, lowest), best.masked_fill(better, shrink)
    return best


def whole_range(layer: Layer) -> float:
    """Do not shrink: the largest weight is the end of the grid."""
    return 1.0


def mse_range(layer: Layer) -> Tensor:
    """Shrink each group to the smallest sum of |w - q(w)|^2.4 (llm-compressor's MSE observer)."""
    return best_shrink(layer.weight, layer.scheme.weight_format, layer.scheme.group_size)


def imatrix_range(layer: Layer) -> Tensor:
    """Shrink each group to the smallest sum of E[x^2] |w - q(w)|^3 (llm-compressor's imatrix observer; llama.cpp)."""
    chosen = layer.scheme.weight_format, layer.scheme.group_size
    return best_shrink(layer.weight, *chosen, IMATRIX_SHRINKS, IMATRIX_POWER, layer.part("square_mean"))


@dataclass(frozen=True)
class Range:
    """A way to choose ranges: shrink(layer) -> factor, or factors [out, groups, 1]; needs as in `Method`."""

    label: str
    shrink: Callable[[Layer], Tensor | float]
    needs: tuple[str, ...] = ()


RANGES: dict[str, Range] = {
    "minmax": Range("min-max", whole_range),
    "mse": Range("MSE", mse_range),
    "imatrix": Range("importance-weighted", imatrix_range, ("moments",)),
}


def clip_share(shrink: Tensor | float) -> float:
    """Return the share of groups whose range is smaller than the largest weight."""
    return float((shrink < 1).float().mean()) if isinstance(shrink, Tensor) else float(shrink < 1)


def round_weighed(layer: Layer) -> Rounded:
    """Round a layer to a format that weighs errors by importance itself; inputs that are always 0 weigh nothing."""
    check_width(layer)
    importance = layer.part("square_mean")
    return Rounded(layer.scheme.weight_format.encode_weighed(layer.weight, importance if importance.any() else None))


def round_in(name: str) -> Callable[[Layer], Rounded]:
    """Return the method that rounds to nearest in the ranges called `name`."""

    def round_layer(layer: Layer) -> Rounded:
        if layer.scheme.weight_format.own_scales:
            return round_weighed(layer)
        shrink = RANGES[name].shrink(layer)
        encoded = round_to_nearest(layer.weight, layer.scheme.weight_format, layer.scheme.group_size, shrink)
        return Rounded(encoded, {"clip_share": clip_share(shrink)})

    return round_layer
