"""Ways to run a model for real: torch as it is, and every kernel that is installed, for encoders and for decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.files.size import weight_bits
from edgelib.ground.modules import converted
from edgelib.kernels.table import KERNELS, available_kernels, with_kernel
from edgelib.models.architectures import architecture
from edgelib.quant.quantize import quantize


@dataclass(frozen=True)
class Runner:
    """One way to run a model: a kernel, the numbers it computes with, and how to build it from the fp32 model.

    weight, activation: number formats; bits: per weight, scales included; head_bits, other_bits: of the output head,
    and of what else is stored and passed on. build: (module, example inputs) -> module that runs that way.
    decode: decoder -> what generates token by token, a model of transformers or a decoder with steps; None: cannot.
    """

    runtime: str
    config: str
    weight: str
    activation: str
    bits: float
    head_bits: float
    other_bits: float
    build: Callable[[nn.Module, list[Tensor]], nn.Module]
    decode: Callable[[nn.Module], object] | None = None


def _bf16(module: nn.Module) -> nn.Module:
    return converted(module, torch.bfloat16)


TORCH = (
    Runner("torch", "torch-fp32", "fp32", "fp32", 32, 32, 32, lambda module, _: module, lambda module: module),
    Runner("torch", "torch-bf16", "bf16", "bf16", 16, 16, 16, lambda module, _: _bf16(module), lambda m: _bf16(m)),
)
# Numbers of the kernels of `edgelib.kernels.table` that an encoder can be timed with: weights, activations, and bits
# per weight where the kernel quantizes by itself.
_NUMBERS = {
    "onnx-fp32": ("fp32", "fp32", 32.0),
    "onnx-int4": ("int4", "int8", None),
    "onnx-int8": ("int8", "int8", None),
    "onnx-int8-tensor": ("int8", "int8", None),
    "torchao-int8": ("int8", "fp32", 8.1),
    "torchao-int8-dynamic": ("int8", "int8", 8.1),
    "torchao-int4": ("int4", "bf16", 4.25),
    "torchao-fp8": ("fp8_e4m3", "fp8_e4m3", 8.1),
}


class Tower(nn.Module):
    """A vision encoder of transformers that takes pixels and returns one tensor, as kernels want it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(pixel_values=pixels).pooler_output


def installed_runners() -> tuple[Runner, ...]:
    """Return torch's runners and one for every other kernel that can run here."""
    kernels = available_kernels()
    usable = kernels.loc[kernels["available"] & kernels["kernel"].isin(list(_NUMBERS)), "kernel"]
    return (*TORCH, *(_kernel_runner(name) for name in usable))


def _kernel_runner(kernel: str) -> Runner:
    weight, activation, bits = _NUMBERS[kernel]
    scheme = KERNELS[kernel].scheme
    if bits is None:
        bits = weight_bits(architecture("clip-vit-base-patch32").vision_model, scheme)

    def build(module: nn.Module, inputs: list[Tensor]) -> nn.Module:
        made = quantize(module, scheme) if scheme else module
        return with_kernel(made, kernel, None if kernel.startswith("torchao") else inputs)

    def decode(module: nn.Module):
        from edgelib.kernels.steps import decoder_of

        if kernel.startswith("torchao"):
            return with_kernel(module, kernel)
        return decoder_of(quantize(module, scheme) if scheme else module, kernel)

    runtime = {"onnx": "ONNX Runtime", "torchao": "torchao"}[kernel.split("-")[0]]
    return Runner(runtime, kernel, weight, activation, bits, bits, 32, build, decode)
