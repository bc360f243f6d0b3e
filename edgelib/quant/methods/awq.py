"""AWQ (Lin et al., MLSys 2024): scale the weights of salient input channels up before rounding, then clip.

As the authors' code does: s = mean|x|^ratio, ratio 0, 0.05 ... 0.95, the one whose output error is lowest; then, per
group, the range 1, 0.95 ... 0.55 of the largest weight. Unlike there, the error is that of the Linears that read the
input, over all calibration rows at once, with the rounding of inputs inside where the scheme rounds them (the authors
have weight-only schemes in mind); and a clip is kept only in rows whose whole error it lowers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgelib.formats.blocks import joined, split
from edgelib.formats.table import as_blocks, decode
from edgelib.quant.methods.layer import Layer, Migration, Rounded
from edgelib.quant.methods.loss import output_error
from edgelib.quant.methods.ranges import clip_share
from edgelib.quant.methods.rtn import granularity_of, nearest, round_to_nearest
from edgelib.quant.methods.search import ErrorOf, lowest_loss

RATIOS = tuple(i / 20 for i in range(20))
CLIPS = tuple(1 - i / 20 for i in range(10))
SMALLEST = 1e-4  # the authors' floor for s
# queries and keys meet in a product, where an error of one row is not its own; the authors leave them unclipped
UNCLIPPED = ("q", "k", "qkv", "query", "key", "q_proj", "k_proj", "in_proj", "Wqkv", "query_key_value")


def salience_scales(abs_mean: Tensor, ratio: float) -> Tensor:
    """Return s [in] = mean|x|^ratio, normalised by sqrt(max s * min s), for abs_mean [in] and a ratio in [0, 1].

    Ratio 0 is the identity. A channel that calibration never saw active keeps s = 1, as in `smoothing_scales`.
    """
    live = abs_mean > 0
    scales = abs_mean.pow(ratio).clamp_(min=SMALLEST)
    if live.any():
        scales /= (scales[live].max() * scales[live].min()).sqrt()
    return torch.where(live, scales, torch.ones_like(scales))


def migrate_salient(layers: Sequence[Layer], error_of: ErrorOf = output_error) -> Migration:
    """Return the scales of Linears that read one input: the scheme's alpha as ratio, or the best of RATIOS."""
    abs_mean, alpha = layers[0].part("abs_mean"), layers[0].scheme.alpha
    if alpha != "search":
        return Migration(salience_scales(abs_mean, float(alpha)), {"ratio": alpha})
    scales = {ratio: salience_scales(abs_mean, ratio) for ratio in RATIOS}
    chosen, _ = lowest_loss(layers, scales, error_of)
    return Migration(scales[chosen], {"ratio": chosen})


def clip_shrink(layer: Layer, shrinks: Sequence[float] = CLIPS) -> Tensor:
    """Return for each group of the weight the factor in `shrinks` that its own output error is smallest with.

    A group's error is E[(x' q - x w)^2] over the inputs of the group alone, x' the rounded inputs, as the authors take
    it: what groups do to each other is left out. Returns [out, groups, 1]; ties go to the factor that comes first.
    """
    format = layer.scheme.weight_format
    blocks = as_blocks(layer.weight, format, granularity_of(format, layer.scheme.group_size))  # [out, groups, size]
    error_of = _row_errors(layer) if blocks.shape[1] == 1 else _group_errors(layer, blocks)
    lowest = torch.full_like(blocks[..., :1], torch.inf)
    best = torch.full_like(lowest, shrinks[0])
    for shrink in shrinks:
        error = error_of(format.snap(blocks, format.fit(blocks, shrink)))
        better = error < lowest
        lowest, best = torch.where(better, error, lowest), best.masked_fill(better, shrink)
    return best


def _row_errors(layer: Layer) -> Callable[[Tensor], Tensor]:
    """Errors of rounded blocks [out, 1, in] where a group is a whole row."""
    target = layer.part("rows") @ layer.weight.T if layer.scheme.rounds_inputs else None
    return lambda rounded: output_error(layer, joined(rounded, layer.weight.shape), target)[:, None, None]


def _group_errors(layer: Layer, blocks: Tensor) -> Callable[[Tensor], Tensor]:
    """Errors of rounded blocks [out, groups, size], less the part that rounding the weight does not change.

    (x' q - x w)^2 = (x' (q - w) + (x' - x) w)^2, so two [size, size] matrices per group stand for all rows.
    """
    square, cross = _moments(layer, blocks.shape[-1])
    slope = None if cross is None else 2 * torch.einsum("ogj,gij->ogi", blocks, cross)

    def errors(rounded: Tensor) -> Tensor:
        delta = rounded.sub_(blocks)
        bend = torch.einsum("ogj,gij->ogi", delta, square)
        return (delta * (bend if slope is None else bend.add_(slope))).sum(-1, keepdim=True)

    return errors


def _moments(layer: Layer, size: int) -> tuple[Tensor, Tensor | None]:
    """Return E[x' x'^T] and E[x' (x' - x)^T] of each group, [groups, size, size]; the latter is None where x' is x."""
    if not layer.scheme.rounds_inputs:
        hessian = layer.part("hessian")
        missing = -len(hessian) % size
        tiles = F.pad(hessian, (0, missing, 0, missing)).unflatten(1, (-1, size)).unflatten(0, (-1, size))
        return tiles.diagonal(dim1=0, dim2=2).permute(2, 0, 1), None
    rounded = layer.rounded_inputs()
    moved = split(rounded - layer.part("rows"), size).transpose(0, 1)  # [groups, n, size]
    rounded = split(rounded, size).transpose(0, 1)
    return rounded.mT @ rounded / rounded.shape[1], rounded.mT @ moved / rounded.shape[1]


def round_clipped(layer: Layer) -> Rounded:
    """Round a layer to nearest, its ranges shrunk where that lowers the output error of a row."""
    format, group_size = layer.scheme.weight_format, layer.scheme.group_size
    plain = round_to_nearest(layer.weight, format, group_size)
    if not layer.scheme.clip or layer.name.rpartition(".")[2] in UNCLIPPED:
        return Rounded(plain)
    shrink = clip_shrink(layer)
    # output channels do not meet in the loss, so the choice row by row is never worse than either
    clipped = output_error(layer, nearest(layer.weight, format, group_size, shrink))
    better = clipped < output_error(layer, decode(plain))
    shrink = torch.where(better[:, None, None], shrink, 1)
    return Rounded(round_to_nearest(layer.weight, format, group_size, shrink), {"clip_share": clip_share(shrink)})
