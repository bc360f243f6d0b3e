"""Quantized layers as ONNX operators: our own codes and scales, multiplied as integers by ONNX Runtime.

Called from torch a layer computes its operators' arithmetic in floating point; exported, it becomes the operators.
Inputs are rounded by nodes of their own, which ONNX Runtime shares among layers that read the same tensor.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.formats.bits import pack_bits
from edgelib.formats.table import FORMATS
from edgelib.kernels.roundings import block_rows, dynamic_tensor, require_dynamic
from edgelib.quant.linear import QuantLinear

CONTRIB = "com.microsoft"
BLOCK = 32  # of MatMulNBits, where a layer has one scale per row
LARGEST_BLOCK = 256


class Int8Linear(nn.Module):
    """A layer of int8 codes [in, out] with one scale per output channel; inputs are rounded per row or per tensor.

    unsigned: codes are stored as uint8 around 128, for machines on which `saturates` is true.
    """

    def __init__(self, name: str, layer: QuantLinear, per_row: bool, unsigned: bool):
        super().__init__()
        groups = 0 if layer.scale is None else layer.scale.shape[-1]
        if not layer.format.even or layer.format.bits != 8 or groups != 1:
            raise EdgelibError(
                f"layer {name!r} has {layer.format.name} weights with {groups} scales per row; this kernel multiplies "
                "int8 with one scale per output channel: quantize with w8a8-minmax, -smoothquant or another w8a8 scheme"
            )
        require_dynamic(name, layer)
        zero = torch.zeros(layer.out_features) if layer.zero is None else layer.zero[:, 0].float()
        shift, dtype = (128, torch.uint8) if unsigned else (0, torch.int8)
        self.per_row = per_row
        self.register_buffer("codes", (layer.codes().T.to(torch.int16) + shift).to(dtype).contiguous())
        self.register_buffer("zero", (zero + shift).to(dtype))
        self.register_buffer("scale", layer.scale[:, 0].float())
        self.register_buffer("bias", _bias(layer))

    def forward(self, x: Tensor) -> Tensor:
        operator = _Int8Rows if self.per_row else _Int8Tensor
        return operator.apply(x, self.codes, self.zero, self.scale, self.bias)


class NBitsLinear(nn.Module):
    """A layer of 4- or 8-bit codes with a scale per block of a row (MatMulNBits).

    narrow: whether inputs become int8 per block; else they are multiplied as they are.
    """

    def __init__(self, name: str, layer: QuantLinear, narrow: bool = True):
        super().__init__()
        format, groups = layer.format, 0 if layer.scale is None else layer.scale.shape[-1]
        size = layer.in_features // groups if groups > 1 else BLOCK
        power = size >= 16 and not size & (size - 1) and size <= LARGEST_BLOCK
        if not format.even or format.bits not in (4, 8) or not groups or not power:
            raise EdgelibError(
                f"layer {name!r} has {format.name} weights in groups of {size}; this kernel multiplies int4 or int8 in "
                "groups of 16, 32, 64, 128 or 256, or with one scale per channel: quantize with w4a16-minmax-g32"
            )
        require_dynamic(name, layer)
        self.width, self.bits, self.block, self.narrow = layer.in_features, format.bits, size, narrow
        blocks, offset = -(-layer.in_features // size), 2 ** (format.bits - 1)
        codes = nn.functional.pad(layer.codes(), (0, blocks * size - layer.in_features)).to(torch.int16) + offset
        packed = _packed(codes, format.bits).reshape(layer.out_features, blocks, -1)
        zero = torch.zeros_like(layer.scale) if layer.zero is None else layer.zero
        zero = (zero.expand(-1, blocks).to(torch.int16) + offset).contiguous()
        self.register_buffer("packed", packed)
        self.register_buffer("scale", layer.scale.float().expand(-1, blocks).reshape(-1).contiguous())
        self.register_buffer("zero", _packed(zero, format.bits).reshape(-1))
        self.register_buffer("bias", _bias(layer))

    def forward(self, x: Tensor) -> Tensor:
        sizes = self.width, self.bits, self.block
        return _NBits.apply(x, self.packed, self.scale, self.zero, self.bias, *sizes, self.narrow)


class _Int8Tensor(torch.autograd.Function):
    """x rounded to uint8 with one scale, times codes [in, out]: DynamicQuantizeLinear and MatMulIntegerToFloat."""

    @staticmethod
    def forward(ctx, x, codes, zero, scale, bias):
        if torch.onnx.is_in_onnx_export():
            return _blank(x, bias)
        return dynamic_tensor(x) @ ((codes.to(x.dtype) - zero.to(x.dtype)) * scale) + bias

    @staticmethod
    def symbolic(g, x, codes, zero, scale, bias):
        rounded, x_scale, x_zero = g.op("DynamicQuantizeLinear", x, outputs=3)
        inputs = (rounded, codes, x_scale, scale, x_zero, zero, bias)
        return _typed(g.op(f"{CONTRIB}::MatMulIntegerToFloat", *inputs), x, scale)


class _Int8Rows(torch.autograd.Function):
    """x rounded to int8 with one scale per row, stored as uint8 around 128, times codes [in, out]."""

    @staticmethod
    def forward(ctx, x, codes, zero, scale, bias):
        if torch.onnx.is_in_onnx_export():
            return _blank(x, bias)
        return FORMATS["int8"].round_rows(x) @ ((codes.to(x.dtype) - zero.to(x.dtype)) * scale) + bias

    @staticmethod
    def symbolic(g, x, codes, zero, scale, bias):
        def constant(value, dtype=torch.float32):
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        one, middle = constant(1.0), constant(128, torch.uint8)
        amax = g.op("ReduceMax", g.op("Abs", x), constant([-1], torch.int64), keepdims_i=1)
        x_scale = g.op("Max", g.op("Div", amax, constant(127.0)), constant(torch.finfo(torch.float32).tiny))
        rounded = g.op("QuantizeLinear", g.op("Div", x, x_scale), one, middle)
        product = g.op(f"{CONTRIB}::MatMulIntegerToFloat", rounded, codes, one, scale, middle, zero)
        return _typed(g.op("Add", g.op("Mul", product, x_scale), bias), x, scale)


class _NBits(torch.autograd.Function):
    """x, rounded to int8 per block if narrow, times packed codes [out, blocks, bytes]: MatMulNBits."""

    @staticmethod
    def forward(ctx, x, packed, scale, zero, bias, width, bits, block, narrow):
        if torch.onnx.is_in_onnx_export():
            return _blank(x, bias)
        rows = len(packed)
        codes = _unpacked(packed.reshape(rows, -1), bits).reshape(rows, -1, block).to(x.dtype)
        zeros = _unpacked(zero.reshape(rows, -1), bits)[:, : codes.shape[1], None].to(x.dtype)
        weight = ((codes - zeros) * scale.reshape(rows, -1, 1)).reshape(rows, -1)[:, :width]
        return (block_rows(x, block) if narrow else x) @ weight.T + bias

    @staticmethod
    def symbolic(g, x, packed, scale, zero, bias, width, bits, block, narrow):
        product = g.op(
            f"{CONTRIB}::MatMulNBits",
            x,
            packed,
            scale,
            zero,
            K_i=width,
            N_i=bias.type().sizes()[0],
            bits_i=bits,
            block_size_i=block,
            accuracy_level_i=4 if narrow else 0,
        )
        return _typed(g.op("Add", product, bias), x, bias)


def _blank(x: Tensor, bias: Tensor) -> Tensor:
    """Return an output of the right shape: an export asks for the operators, not for what they compute."""
    return x.new_zeros(*x.shape[:-1], len(bias))


def _typed(product, x, columns):
    """Tell the exporter the shape that an operator it does not know returns."""
    sizes = x.type().varyingSizes()
    if sizes is None:
        return product
    return product.setType(x.type().with_sizes([*sizes[:-1], columns.type().sizes()[0]]))


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(parts, -1).flatten(-2)


def _packed(codes: Tensor, bits: int) -> Tensor:
    codes = codes.to(torch.uint8)
    return codes if bits == 8 else pack_bits(codes, bits)


def _bias(layer: QuantLinear) -> Tensor:
    return torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float()


@cache
def saturates() -> bool:
    """Whether this machine's kernel for uint8 times int8 overflows its 16-bit intermediate sums.

    x86 processors without VNNI add two neighbouring products in 16 bits (vpmaddubsw), so two of 255 * 127 come out as
    32767. uint8 times uint8 takes a slower instruction that is exact (ONNX Runtime, "Quantize ONNX Models",
    reduce_range).
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    ends = (("x", TensorProto.UINT8, [1, 64]), ("w", TensorProto.INT8, [64, 64]), ("y", TensorProto.INT32, [1, 64]))
    x, w, y = (helper.make_tensor_value_info(*end) for end in ends)
    model = helper.make_model(
        helper.make_graph([node], "probe", [x, w], [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {"x": np.full((1, 64), 255, np.uint8), "w": np.full((64, 64), 127, np.int8)}
    return int(session.run(None, inputs)[0][0, 0]) != 64 * 255 * 127
