"""Round to nearest: every weight to the closest point of a grid spanned by the largest weight (min-max)."""

from __future__ import annotations

from torch import Tensor

from edgelib.quant.formats import Encoded, Format, encode


def round_to_nearest(weight: Tensor, format: Format, group_size: int | None = None) -> Encoded:
    """Encode weight [out, in] with one scale per output row, or per group of `group_size` along a row.

    Raises EdgelibError when the weight holds NaN or inf or the group size does not divide the row.
    """
    return encode(weight, format, "channel" if group_size is None else group_size)
