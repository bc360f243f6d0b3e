"""Ways to run a model for real: torch as it is, and every kernel that is installed, for encoders and for decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.files.size import weight_bits
from edgelib.ground.modules import converted
from edgelib.kernels.steps import decoder_of
from edgelib.kernels.table import KERNELS, ONNX, TORCH, Kernel, why_not, with_kernel
from edgelib.models.architectures import architecture
from edgelib.quant.quantize import quantize


@dataclass(frozen=True)
class Runner:
    """One way to run a model: a kernel, the numbers it computes with, and how to build it from the fp32 model.

    weight, activation: number formats; bits: per weight, scales included; other_bits: of what else is stored and passed
    on. build: (module, example inputs) -> module that runs that way. decode: decoder -> what generates token by token,
    a model of transformers or a decoder with steps; None: cannot.
    """

    runtime: str
    config: str
    weight: str
    activation: str
    bits: float
    other_bits: float
    build: Callable[[nn.Module, list[Tensor]], nn.Module]
    decode: Callable[[nn.Module], object] | None = None


class Tower(nn.Module):
    """A vision encoder of transformers that takes pixels and returns one tensor, as kernels want it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(pixel_values=pixels).pooler_output


def torch_runner(dtype: torch.dtype = torch.float32) -> Runner:
    """Return the runner of torch itself, which computes in float32 or bfloat16."""
    wide = dtype == torch.float32
    kernel = KERNELS["torch-fp32" if wide else "torch-bf16"]

    def same(module: nn.Module, _: object = None) -> nn.Module:
        return module if wide else converted(module, dtype)

    return Runner(kernel.runtime, kernel.name, kernel.weight, kernel.activation, kernel.bits, kernel.bits, same, same)


def installed_runners() -> tuple[Runner, ...]:
    """Return torch's runners and one for every other kernel that can run here and takes part in measurements."""
    others = [kernel for kernel in KERNELS.values() if kernel.runtime != TORCH and kernel.timed and not why_not(kernel)]
    return (torch_runner(), torch_runner(torch.bfloat16), *map(_kernel_runner, others))


def kernel_bits(kernel: Kernel) -> float:
    """Bits per weight that a kernel stores with its scales; of a scheme's, those of the layers of CLIP ViT-B/32."""
    if kernel.bits is not None:
        return kernel.bits
    return weight_bits(architecture("clip-vit-base-patch32").vision_model, kernel.scheme)


def _kernel_runner(kernel: Kernel) -> Runner:
    bits = kernel_bits(kernel)

    def prepared(module: nn.Module) -> nn.Module:
        return quantize(module, kernel.scheme) if kernel.scheme else module

    def build(module: nn.Module, inputs: list[Tensor]) -> nn.Module:
        return with_kernel(prepared(module), kernel.name, inputs if kernel.runtime == ONNX else None)

    def decode(module: nn.Module):
        if kernel.runtime == ONNX:
            return decoder_of(prepared(module), kernel.name)
        return with_kernel(module, kernel.name)

    return Runner(kernel.runtime, kernel.name, kernel.weight, kernel.activation, bits, 32, build, decode)
