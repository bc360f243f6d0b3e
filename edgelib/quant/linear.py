"""The layer that a quantized model is made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.formats.blocks import saturated
from edgelib.formats.table import Encoded, Format, codes_on_grid, decode


class QuantLinear(nn.Module):
    """A Linear on rounded weights: forward is one rounding of the input and one matmul.

    weight [out, in]: the decoded values, folded once. scale [out, groups] (zero and outer): the grid, from which
    `codes` recovers the exact codes; of a format that has none, because its codes hold their scales, `blocks` are
    these. input_scale: the static activation scale, None when found per token on the fly.
    notes: what was decided for this layer, plain values that `quantization_report` collects.
    """

    def __init__(
        self,
        encoded: Encoded,
        bias: Tensor | None,
        dtype,
        activation: Format,
        input_scale: Tensor | None = None,
        notes: Mapping[str, object] | None = None,
    ):
        super().__init__()
        self.format, self.activation, self.notes = encoded.format, activation, dict(notes or {})
        self.register_buffer("weight", saturated(decode(encoded), dtype).to(dtype))
        self.out_features, self.in_features = self.weight.shape
        self.register_buffer("blocks", encoded.codes if encoded.format.own_scales else None)
        self.register_buffer("scale", encoded.scale)
        self.register_buffer("zero", encoded.zero)
        self.register_buffer("outer", encoded.outer)
        self.register_buffer("input_scale", input_scale)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.round_input(x), self.weight, self.bias)

    def round_input(self, x: Tensor) -> Tensor:
        """Round x [..., in] as the layer rounds its input."""
        if self.input_scale is None:
            return self.activation.round_rows(x)
        return self.activation.round_static(x, self.input_scale)

    @property
    def rounds_alone(self) -> bool:
        """Whether each value of the input is rounded by itself, whatever stands beside it."""
        static = self.input_scale is not None and getattr(self.activation, "block", None) is None
        return static or not self.activation.scaled

    def codes(self) -> Tensor:
        """Return the stored codes [out, in]: int8 for integers, float8 for 8-bit floats, 4 bits in uint8 for e2m1.

        Blocks of bytes [out, bytes] for GGUF types.
        """
        if self.blocks is not None:
            return self.blocks
        return codes_on_grid(self.weight, self.format, self.scale, self.zero)

    def extra_repr(self) -> str:
        groups = 1 if self.scale is None else self.scale.shape[-1]
        static = "" if self.input_scale is None else ", static"
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, weight={self.format.name}"
            f" x{groups}, activation={self.activation.name}{static}"
        )
