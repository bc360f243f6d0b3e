"""Whether weights were rounded before, as those of a dequantized file are: a scheme on their grid then costs nothing.

Such weights are a reference like any other for every other grid, but what the grid that they lie on does to them says
nothing of what it does to weights in floating point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.table import by_name
from edgelib.ground.checks import whole_number
from edgelib.ground.separate import linears, separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.methods.rtn import nearest

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 32  # weights; of most files of 4 bits, or a part of their groups
MOST_BITS = 4  # a block of 32 holds no more than 32 values, so that grids of 5 bits and more cannot be told
_ROWS = 64  # of a layer that are rounded again
_SAME = 1e-4  # of the largest weight of a row: how far rounding moves a weight that it gives back
# What schemes and files call grids of 4 bits in blocks of 32, and how to round to them.
GRIDS = {
    "w4 with -g32-asym": ("int4", False, 32),
    "w4 with -g32": ("int4", True, 32),
    "q4_1": ("q4_1", True, None),
    "q4_0": ("q4_0", True, None),
    "iq4_nl": ("iq4_nl", True, None),
    "mxfp4": ("mxfp4", True, None),
}


def values_per_block(weight: Tensor, block: int = BLOCK) -> Tensor:
    """Return how many different values each block of a row holds, int64 [out, in / block], from weight [out, in].

    Raises EdgelibError for a block that does not divide the row.
    """
    block = whole_number(block, "block", at_least=2)
    if weight.shape[-1] % block:
        raise EdgelibError(f"blocks of {block} do not divide rows of {weight.shape[-1]} weights; take a divisor")
    ordered = weight.detach().unflatten(-1, (-1, block)).sort(dim=-1).values
    return 1 + (ordered.diff(dim=-1) != 0).sum(dim=-1)


def rounded_before(model, block: int = BLOCK) -> pd.DataFrame:
    """Return one row per Linear: layer, values (the most that one of its blocks holds), rounded.

    model: a loaded model or a module. rounded: whether no block of 32 holds more than 2**MOST_BITS values and some
    holds several, as after rounding to 4 bits or fewer in groups of 32 or more; weights in floating point hold as many
    values as weights. Layers whose rows no block divides have -1 values.
    """
    import pandas as pd

    rows = []
    module = separated(module_of(model))
    for name in linears(module):
        weight = module.get_submodule(name).weight
        most = int(values_per_block(weight, block).max()) if weight.shape[-1] % block == 0 else -1
        rows.append((name, most, 1 < most <= 2**MOST_BITS))
    return pd.DataFrame(rows, columns=["layer", "values", "rounded"])


def grids_of(model) -> list[str]:
    """Return which of GRIDS give those Linears of a model back as they are that were rounded before; [] without such.

    A scheme on one of them changes nothing there, whatever it would cost weights in floating point.
    """
    found = rounded_before(model)
    module = separated(module_of(model))
    weights = [module.get_submodule(name).weight.detach().float() for name in found["layer"][found["rounded"]]]
    return [label for label, grid in GRIDS.items() if weights and all(_same(weight, *grid) for weight in weights)]


def _same(weight: Tensor, name: str, symmetric: bool, group: int | None) -> bool:
    some = weight[:: max(1, len(weight) // _ROWS)]
    again = nearest(some, by_name(name).variant(symmetric, False, None), group)
    return bool(((again - some).abs() <= _SAME * some.abs().amax(dim=1, keepdim=True)).all())
