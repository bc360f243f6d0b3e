"""Post-training quantization methods: what each moves before rounding, and how it rounds.

A method is one file of pure functions of weight and statistics plus one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgelib.quant.methods.awq import migrate_salient, round_clipped
from edgelib.quant.methods.gptaq import round_gptaq
from edgelib.quant.methods.gptq import round_gptq
from edgelib.quant.methods.layer import Layer, Migration, Rounded
from edgelib.quant.methods.mbq import migrate_balanced
from edgelib.quant.methods.ranges import round_in
from edgelib.quant.methods.rtn import round_layer
from edgelib.quant.methods.smoothquant import smooth


@dataclass(frozen=True)
class Method:
    """How a method acts.

    label: what figures call it. round_weight: codes of one layer. migrate: scales for the Linears that read one input,
    where something before them can absorb 1 / s exactly: "norm", a LayerNorm or RMSNorm that only they read; "value",
    the value projection whose mixture the output projection reads. None for a method that moves nothing.
    needs: what calibration has to keep ("moments", "hessian", "rows"), or "loss", which is one of the latter two as
    long as something is searched. options: of alpha, clip, weight_range and sequential those that the method has, with
    defaults. compares: whether it needs, of each layer, inputs behind rounded layers and how they drifted ("drift").
    """

    label: str
    round_weight: Callable[[Layer], Rounded] = round_layer
    migrate: Callable[[Sequence[Layer]], Migration] | None = None
    absorbers: tuple[str, ...] = ("norm",)
    needs: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    compares: bool = False


METHODS: dict[str, Method] = {
    "cast": Method("cast"),
    "minmax": Method("min-max"),
    "mse": Method("MSE ranges", round_in("mse")),
    "imatrix": Method("importance-weighted ranges", round_in("imatrix"), needs=("moments",)),
    "smoothquant": Method("SmoothQuant", migrate=smooth, needs=("moments", "loss"), options={"alpha": 0.5}),
    "awq": Method(
        "AWQ", round_clipped, migrate_salient, ("norm", "value"), ("moments", "loss"), {"alpha": "search", "clip": True}
    ),
    "gptq": Method("GPTQ", round_gptq, needs=("hessian",), options={"weight_range": "minmax", "sequential": False}),
    "gptaq": Method("GPTAQ", round_gptaq, needs=("hessian",), options={"weight_range": "minmax"}, compares=True),
    "mbq": Method(
        "MBQ", round_clipped, migrate_balanced, ("norm", "value"), ("rows", "loss"), {"alpha": "search", "clip": False}
    ),
}
