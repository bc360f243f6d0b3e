"""torchao's kernels: it rounds the weights itself, on its own grids, and multiplies by what the machine has."""

from __future__ import annotations

import torch
from torch import nn

from edgelib.ground.modules import converted


def quantize_by_torchao(
    module: nn.Module, kernel: str, *, on_cuda: bool, layers: frozenset[str] | None = None
) -> nn.Module:
    """Return our own copy of a module with its Linears, or those named, replaced by torchao's, for one of its kernels.

    int8 codes reach from -128 to 127 with scale 2 amax / 255 per channel, and so do dynamic inputs per row: the schemes
    w8a32-minmax-full and, but for the grid of the inputs, w8a8-minmax-full. int4 has groups of 128, fp8 one scale per
    row on both sides; these two want bfloat16 on a CUDA device.
    """
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    settings = {
        "torchao-int8": Int8WeightOnlyConfig,
        "torchao-int8-dynamic": Int8DynamicActivationInt8WeightConfig,
        "torchao-int4": lambda: Int4WeightOnlyConfig(group_size=128),
        "torchao-fp8": lambda: Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    }
    if on_cuda:
        module = converted(module, torch.bfloat16).to("cuda")
    if layers is None:
        quantize_(module, settings[kernel]())
    else:
        quantize_(module, settings[kernel](), lambda layer, name: isinstance(layer, nn.Linear) and name in layers)
    return module
