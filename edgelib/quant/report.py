"""What was decided for each layer of a quantized model, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgelib.errors import EdgelibError
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "method": "",
    "ratio": float("nan"),
    "clip_share": float("nan"),
    "damping": float("nan"),
    "loss": float("nan"),
    "loss_rtn": float("nan"),
    "fallback": "",
}


def quantization_report(model) -> pd.DataFrame:
    """Return one row per quantized layer, in the model's order.

    layer, method. ratio: the alpha of the migration that the layer took part in, NaN where nothing could absorb one
    (or the search preferred none). clip_share: share of weight groups with a range below their largest weight.
    damping: what GPTQ's Hessian took, as a share of its mean diagonal. loss, loss_rtn: mean squared error of the
    layer's output on the calibration set, inputs rounded as the scheme rounds them, relative to the output's mean
    square, with the method and with round-to-nearest on the same format; NaN where calibration did not keep what that
    takes: "rows" where inputs are rounded below 16 bits, elsewhere a "hessian". fallback: why the layer was rounded to
    nearest instead, else empty.
    Raises EdgelibError for a model that holds no quantized layer.
    """
    import pandas as pd

    rows = [
        {"layer": name} | {column: layer.notes.get(column, empty) for column, empty in COLUMNS.items()}
        for name, layer in module_of(model).named_modules()
        if isinstance(layer, QuantLinear)
    ]
    if not rows:
        raise EdgelibError("this model holds no quantized layer; pass what edgelib.quantize returned")
    return pd.DataFrame(rows)
