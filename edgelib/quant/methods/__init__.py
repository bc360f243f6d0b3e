"""Post-training quantization methods: what each moves before rounding, and how it rounds.

A method is one file of pure functions of weight and statistics plus one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgelib.quant.methods.rtn import round_to_nearest
from edgelib.quant.methods.smoothquant import smoothing_scales


@dataclass(frozen=True)
class Method:
    """How a method acts on one layer.

    round_weight(weight, format, group_size) -> Encoded. migrate(abs_max, weights, alpha) -> scales [in], which
    divide the input and multiply the weights before rounding; None for a method that moves nothing.
    """

    label: str
    round_weight: Callable = round_to_nearest
    migrate: Callable | None = None


METHODS: dict[str, Method] = {
    "cast": Method("cast"),
    "minmax": Method("min-max"),
    "smoothquant": Method("SmoothQuant", migrate=smoothing_scales),
}
