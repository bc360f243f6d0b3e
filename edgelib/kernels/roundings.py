"""How other runtimes round activations, so that a simulation can follow one of them to the last few bits.

The weights of a quantized model have no two readings: codes and scales say what they are. Activations are rounded while
a model runs, and there runtimes differ; `computed_by` gives a simulation the rounding of one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.formats.blocks import joined, split, widened
from edgelib.formats.table import FORMATS, Format
from edgelib.ground.modules import shared_copy
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear


@dataclass(frozen=True)
class Rounding:
    """Activations rounded as a runtime does it: a function of the input alone, in the place of a `Format`."""

    name: str
    bits: int
    function: Callable[[Tensor], Tensor]

    # as a `Format` says it: there is no other grid, and no export knows it
    scaled: ClassVar[bool] = True
    options: ClassVar[dict[str, object]] = {}
    compressed_tensors: ClassVar[None] = None

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x and return it in its own dtype."""
        return self.function(widened(x.detach())).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x with a scale chosen beforehand to all 2**bits codes."""
        reach = 2.0 ** (self.bits - 1)
        return (widened(x.detach()) / scale).round_().clamp_(-reach, reach - 1).mul_(scale).to(x.dtype)


def full_range_rows(x: Tensor, bits: int) -> Tensor:
    """Round to codes [-2**(bits-1), 2**(bits-1) - 1], scale = 2 amax / (2**bits - 1) per vector of x [batch, rows, in].

    Fewer than three axes share one scale, because the first two are what compressed-tensors takes for tokens
    (`compute_dynamic_scales_and_zp` of version 0.20).
    """
    levels = 2**bits - 1
    scale = _token_amax(x).div_(levels / 2).clamp_(min=torch.finfo(x.dtype).tiny)
    return (x / scale).round_().clamp_(-(levels + 1) // 2, levels // 2).mul_(scale)


def float_rows(x: Tensor, format: Format) -> Tensor:
    """Round to fp8 with scale = amax / qmax, shared by the same numbers as in `full_range_rows`."""
    scale = _token_amax(x).div_(format.qmax).clamp_(min=torch.finfo(x.dtype).tiny)
    return format.round_static(x, scale)


def _token_amax(x: Tensor) -> Tensor:
    rest = tuple(range(2, x.dim())) or tuple(range(x.dim()))
    return x.abs().amax(rest, keepdim=True)


def dynamic_tensor(x: Tensor) -> Tensor:
    """Round to uint8 with one scale and zero point for the whole tensor, from a range that includes 0.

    scale = (max - min) / 255, zero = round(-min / scale) (ONNX's DynamicQuantizeLinear). The result for one image
    depends on its batch.
    """
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round().clamp(0, 255)
    return ((x / scale).round_() + zero).clamp_(0, 255).sub_(zero).mul_(scale)


def block_rows(x: Tensor, size: int) -> Tensor:
    """Round to int8 with scale amax / 127 per block of `size` along the last axis (MatMulNBits, accuracy level 4)."""
    blocks = split(x, size)
    scale = blocks.abs().amax(-1, keepdim=True).div_(127).clamp_(min=torch.finfo(x.dtype).tiny)
    return joined((blocks / scale).round_().mul_(scale), x.shape)


def _compressed_tensors(layer: QuantLinear):
    format = layer.activation
    if not format.scaled:  # it knows no rounding to 16 bits beside the model's own dtype
        return FORMATS["fp32"]
    if format.compressed_tensors == "int":
        return Rounding(f"{format.name}_full_range_rows", format.bits, lambda x: full_range_rows(x, format.bits))
    if format.compressed_tensors == "float" and layer.input_scale is None:
        return Rounding(f"{format.name}_rows", format.bits, lambda x: float_rows(x, format))
    return format


def _matmul_nbits(layer: QuantLinear):
    groups = layer.scale.shape[-1]
    size = layer.in_features // groups if groups > 1 else 32  # smaller blocks than its rows have
    return Rounding(f"int8_blocks_of_{size}", 8, lambda x: block_rows(x, size))


# runtime -> how it rounds the inputs of a layer
ROUNDINGS: dict[str, Callable[[QuantLinear], object]] = {
    "compressed-tensors": _compressed_tensors,
    "onnx-int8": lambda layer: FORMATS["int8"],
    "onnx-int8-tensor": lambda layer: Rounding("uint8_tensor", 8, dynamic_tensor),
    "onnx-int4": _matmul_nbits,
    "openvino-int8": lambda layer: FORMATS["fp32"],
    "openvino-int4": lambda layer: FORMATS["fp32"],
}


def require_dynamic(name: str, layer: QuantLinear) -> None:
    """Raise EdgelibError for a layer with a static activation scale, which our ONNX kernels do not multiply by."""
    if layer.input_scale is not None:
        raise EdgelibError(
            f"layer {name!r} has a static activation scale, and this kernel finds its scales while it runs: quantize "
            "with the scheme without -static"
        )


def computed_by(model, runtime: str):
    """Return a copy of a quantized model whose activations are rounded as `runtime` rounds them.

    runtime: "compressed-tensors" (transformers on such a checkpoint), or a kernel of `edgelib.kernels.table`:
    "onnx-int8" (int8 per row), "onnx-int8-tensor" (DynamicQuantizeLinear), "onnx-int4" (MatMulNBits with int8 compute),
    "openvino-int8" and "openvino-int4" (float32).
    Weights stay what they are. Raises EdgelibError for an unknown runtime, a model that is not quantized, and static
    activation scales where the runtime is a kernel, which has none.
    """
    rounding, module = choose(ROUNDINGS, runtime, "runtime"), module_of(model)
    result = shared_copy(module)
    layers = {name: layer for name, layer in result.named_modules() if isinstance(layer, QuantLinear)}
    if not layers:
        raise EdgelibError("this model holds no quantized layer; pass what edgelib.quantize returned")
    for name, layer in layers.items():
        if runtime.startswith(("onnx", "openvino")):
            require_dynamic(name, layer)
        layer.activation = rounding(layer)
    return result if module is model else model.with_module(result)
