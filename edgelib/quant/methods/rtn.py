"""Round to nearest: every weight to the closest point of a grid spanned by the largest weight (min-max)."""

from __future__ import annotations

from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.blocks import joined
from edgelib.formats.table import Encoded, Format, as_blocks, encode
from edgelib.quant.methods.layer import Layer, Rounded


def granularity_of(format: Format, group_size: int | None = None) -> str | int:
    """Return how a weight [out, in] is cut: one scale per row, per group, or the format's own blocks."""
    if format.block is not None:
        return "tensor"  # nvfp4 then has one outer scale, as its packed weights do
    return "channel" if group_size is None else group_size


def round_to_nearest(
    weight: Tensor, format: Format, group_size: int | None = None, shrink: float | Tensor = 1.0
) -> Encoded:
    """Encode weight [out, in] with one scale per output row, or per group of `group_size` along a row.

    shrink multiplies the range of every scale: a number, or a tensor [out, groups, 1].
    Raises EdgelibError when the weight holds NaN or inf or the group size does not divide the row.
    """
    return encode(weight, format, granularity_of(format, group_size), shrink)


def nearest(weight: Tensor, format: Format, group_size: int | None = None, shrink: float | Tensor = 1.0) -> Tensor:
    """Return the values [out, in] that `round_to_nearest` decodes to, without making codes."""
    blocks = as_blocks(weight, format, granularity_of(format, group_size))
    return joined(format.snap(blocks, format.fit(blocks, shrink)), weight.shape)


def check_width(layer: Layer) -> None:
    """Raise EdgelibError naming the layer when its format cannot hold its rows."""
    try:
        layer.scheme.weight_format.check_width(layer.weight.shape[1])
    except EdgelibError as error:
        raise EdgelibError(f"layer {layer.name!r}: {error}; choose that type for it, or exclude the layer") from None


def round_layer(layer: Layer) -> Rounded:
    """Round a layer to nearest on its min-max grid; raises EdgelibError for a width that the format cannot hold."""
    check_width(layer)
    return Rounded(round_to_nearest(layer.weight, layer.scheme.weight_format, layer.scheme.group_size))
