"""Kernels layer by layer: chosen Linears of a model multiplied by a kernel, everything else by torch.

A network of any family runs this way, whatever else it computes and whatever shapes its inputs have; a runtime that
takes a whole network can join its layers besides (`edgelib.kernels.table.with_kernel`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.ground.modules import converted, shared_copy, swapped
from edgelib.kernels.table import KERNELS, ONNX, OPENVINO, TORCH, prepared, why_not
from edgelib.observe.calibrate import module_of
from edgelib.quant.quantize import quantize


class OnnxLinear(nn.Module):
    """A Linear that ONNX Runtime multiplies: float32 [..., in] -> [..., out] on the CPU."""

    def __init__(self, product: nn.Module):
        super().__init__()
        self.product = product
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)  # some networks ask a layer for its dtype

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return self.product(rows).view(*x.shape[:-1], -1)


def by_layer(model, kernel: str, layers: Sequence[str]):
    """Return a copy of a model whose named Linears are multiplied by a kernel and that is called like the model itself.

    model: a loaded model or any nn.Module, the baseline, in float32. kernel: a name in `KERNELS`. Kernels of torch
    convert the whole model instead. Raises EdgelibError for an unknown kernel, one that cannot run here (with what to
    install), and a layer that it does not multiply, such as one whose width its groups do not divide.
    """
    chosen, module = choose(KERNELS, kernel, "kernel"), module_of(model)
    reason = why_not(chosen)
    if reason:
        raise EdgelibError(f"kernel {kernel!r} cannot run here: {reason}")
    if chosen.runtime == OPENVINO:
        raise EdgelibError(f"{kernel!r} takes a whole network, not single layers; choose torch or an onnx kernel")
    wanted = set(layers)
    if chosen.runtime == TORCH:
        result = shared_copy(module).eval()
        result = converted(result, torch.bfloat16) if kernel == "torch-bf16" else result.float()
    elif chosen.runtime == ONNX:
        from edgelib.kernels.onnx_model import LayerExport

        made = quantize(module, {"preset": chosen.scheme, "targets": list(layers)}) if chosen.scheme else module
        widths = {name: layer.in_features for name, layer in module.named_modules() if name in wanted}
        result, export = prepared(made, kernel), LayerExport()
        named = {layer: widths[name] for name, layer in result.named_modules() if name in wanted}
        result = swapped(result, {layer: OnnxLinear(export(layer, width)) for layer, width in named.items()})
    else:
        from edgelib.kernels.torchao import quantize_by_torchao

        result = quantize_by_torchao(
            shared_copy(module).eval(), kernel, on_cuda=chosen.cuda is not None, layers=frozenset(layers)
        )
    return result if module is model else model.with_module(result)
