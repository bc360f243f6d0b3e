"""Real kernels: the same quantized model, multiplied by integer arithmetic instead of simulated.

What a kernel computes is a scheme with one more decision, how activations are rounded while the model runs; the table
says which. `with_kernel` returns a model that is called like the one it came from, so accuracy, agreement and speed are
measured on it by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.ground.modules import converted, shared_copy
from edgelib.models.families.duals import dual_encoder
from edgelib.models.zero_shot import ClipModel, ZeroShotModel
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import swapped

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Kernel:
    """One way of computing a model.

    runtime: a key of `PACKAGES`. scheme: what to quantize by beforehand, "" for the baseline. arithmetic: what it
    computes, in words. weight, activation: the number formats that it multiplies; bits: per weight with its scales,
    None for those of the scheme. cuda: the compute capability that it needs, if any. timed: whether it takes part in
    `edgelib measure`.
    """

    name: str
    runtime: str
    scheme: str
    arithmetic: str
    weight: str
    activation: str
    bits: float | None = None
    cuda: tuple[int, int] | None = None
    timed: bool = True


TORCH, ONNX, OPENVINO, TORCHAO = "torch", "ONNX Runtime", "OpenVINO", "torchao"
WHOLE = (ONNX, OPENVINO)  # runtimes that take a whole network, as a graph
# What has to be installed for a runtime beside torch, and the extra of edgelib that installs it.
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    TORCH: ((), ""),
    ONNX: (("onnx", "onnxruntime"), "kernels"),
    OPENVINO: (("onnx", "openvino"), "openvino"),
    TORCHAO: (("torchao",), "torchao"),
}
_W8A8, _W8, _W4 = "w8a8-minmax", "w8a16-minmax-g32", "w4a16-minmax-g32"
_BY_ROW = "int8 weights per channel, int8 inputs per row, as the simulation"
_BY_CALL = "int8 weights per channel, uint8 inputs, one scale per call"
_U8S8 = "as onnx-int8-tensor by the faster instruction, whose sums overflow on x86 processors without VNNI"
_BY_GROUP = "int4 or int8 weights per group, int8 inputs per group"
_BY_PARTS = "weights per group of OpenVINO, decoded as they are multiplied, float32 inputs"
_AO_INT8, _AO_INT4 = "torchao's int8 weights per channel", "torchao's int4 weights in groups of 128, bfloat16 inputs"
_AO_FP8 = "torchao's fp8 e4m3 weights and inputs per row"
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel("torch-fp32", TORCH, "", "float32 by torch", "fp32", "fp32", 32),
        Kernel("torch-bf16", TORCH, "", "bfloat16 by torch, inputs and outputs converted", "bf16", "bf16", 16),
        Kernel("onnx-fp32", ONNX, "", "float32 by ONNX Runtime on the CPU", "fp32", "fp32", 32),
        Kernel("onnx-int8", ONNX, _W8A8, _BY_ROW, "int8", "int8"),
        Kernel("onnx-int8-tensor", ONNX, _W8A8, _BY_CALL, "int8", "int8"),
        Kernel("onnx-int8-u8s8", ONNX, _W8A8, _U8S8, "int8", "int8", timed=False),
        Kernel("onnx-int4", ONNX, _W4, _BY_GROUP, "int4", "int8"),
        # not timed by `edgelib measure`: benchmarks/kernels.py times them beside the others
        Kernel("openvino-fp32", OPENVINO, "", "float32 by OpenVINO on the CPU", "fp32", "fp32", 32, timed=False),
        Kernel("openvino-int8", OPENVINO, _W8, f"int8 {_BY_PARTS}", "int8", "fp32", timed=False),
        Kernel("openvino-int4", OPENVINO, _W4, f"int4 {_BY_PARTS}", "int4", "fp32", timed=False),
        Kernel("torchao-int8", TORCHAO, "", f"{_AO_INT8}, float inputs", "int8", "fp32", 8.1),
        Kernel("torchao-int8-dynamic", TORCHAO, "", f"{_AO_INT8}, int8 inputs per row", "int8", "int8", 8.1),
        Kernel("torchao-int4", TORCHAO, "", _AO_INT4, "int4", "bf16", 4.25, cuda=(8, 0)),
        Kernel("torchao-fp8", TORCHAO, "", _AO_FP8, "fp8_e4m3", "fp8_e4m3", 8.1, cuda=(8, 9)),
    )
}


def available_kernels() -> pd.DataFrame:
    """Return one row per kernel: kernel, available here, why_not, the scheme to quantize by, and its arithmetic."""
    import pandas as pd

    rows = []
    for kernel in KERNELS.values():
        reason = why_not(kernel)
        rows.append((kernel.name, not reason, reason, kernel.scheme, kernel.arithmetic))
    return pd.DataFrame(rows, columns=["kernel", "available", "why_not", "scheme", "arithmetic"])


def why_not(kernel: Kernel) -> str:
    """Return what this machine lacks for a kernel and how to get it; empty if nothing."""
    packages, extra = PACKAGES[kernel.runtime]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        return f"{', '.join(missing)} missing: install 'edgelib[{extra}]'"
    if kernel.cuda is None:
        return ""
    if not torch.cuda.is_available():
        return f"needs a CUDA device of compute capability {kernel.cuda[0]}.{kernel.cuda[1]} or more"
    found = torch.cuda.get_device_capability()
    wanted = f"compute capability {kernel.cuda[0]}.{kernel.cuda[1]}"
    return "" if found >= kernel.cuda else f"needs {wanted}, this device has {found[0]}.{found[1]}"


def unfit(kernel: Kernel, model) -> str:
    """Return why a kernel cannot compute a model by itself, wherever it runs; empty if it can.

    model: a loaded model. ONNX Runtime and OpenVINO take networks that make one tensor of pixels or tokens.
    """
    if kernel.runtime not in WHOLE:
        return ""
    if not isinstance(model, ZeroShotModel):
        return f"{kernel.runtime} takes one step of a decoder, not a model that writes; see edgelib.kernels.steps"
    if isinstance(model, ClipModel) and set(model.family.image_inputs(_blank(model), model.module.config)) != {
        "pixel_values"
    }:
        return (
            f"it reads patches of images of any shape, which {kernel.runtime} would need one file a shape for; choose "
            "a kernel of torch"
        )
    return ""


def _blank(model: ZeroShotModel) -> Tensor:
    return torch.zeros(2, 3, *model.preprocess.size)


def with_kernel(
    model,
    kernel: str,
    inputs: Sequence[Tensor] | None = None,
    *,
    dynamic: Sequence[Sequence[int]] | None = None,
    threads: int | None = None,
):
    """Return a copy of a model that computes by a real kernel and is called like the model itself.

    model: a ZeroShotModel or any nn.Module that returns one tensor; quantized by a scheme that the kernel multiplies
    (`KERNELS[kernel].scheme`), or the baseline for kernels without one. inputs: example tensors for a bare module that
    goes to ONNX Runtime or OpenVINO, as forward takes them; dynamic: the axes of each that may change later, the first
    by default. threads: of these two, torch's own number by default.
    Whatever the model's dtype, layers that are not quantized compute in float32 by "torch-fp32" and by these two, which
    run on the CPU wherever the model is. Raises EdgelibError for an unknown kernel, one that cannot run here
    (with what to install), and layers that the kernel does not multiply.
    """
    chosen = choose(KERNELS, kernel, "kernel")
    reason = why_not(chosen)
    if reason:
        raise EdgelibError(f"kernel {kernel!r} cannot run here: {reason}")
    module = prepared(model, kernel)
    if chosen.runtime not in WHOLE:
        if chosen.runtime == TORCHAO:
            from edgelib.kernels.torchao import quantize_by_torchao

            module = quantize_by_torchao(module, kernel, on_cuda=chosen.cuda is not None)
        return _like(model, Converted(module) if kernel == "torch-bf16" and module_of(model) is model else module)
    if isinstance(model, ClipModel):
        reason = unfit(chosen, model)
        if reason:
            raise EdgelibError(f"kernel {kernel!r} cannot compute {model.name}: {reason}")
        return _like(model, _clip(model, module, chosen, threads))
    if inputs is None and isinstance(model, ZeroShotModel):
        inputs = [_blank(model)]
    if inputs is None:
        raise EdgelibError(
            f"pass example inputs: with_kernel(module, {kernel!r}, [x]); a bare module has none of its own"
        )
    return _like(model, opener(chosen)(module, inputs, dynamic or [[0]] * len(inputs), threads=threads))


def opener(kernel: Kernel) -> Callable[..., nn.Module]:
    """Return how a kernel's runtime takes a whole network: `onnx_model.export` or its like of OpenVINO."""
    if kernel.runtime == OPENVINO:
        from edgelib.kernels.openvino_model import compile_openvino

        return compile_openvino
    from edgelib.kernels.onnx_model import export

    return export


def prepared(model, kernel: str) -> nn.Module:
    """Return a copy of the model's module whose quantized layers are those that the kernel multiplies."""
    chosen, module = choose(KERNELS, kernel, "kernel"), module_of(model)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, QuantLinear)}
    if chosen.scheme and not layers:
        raise EdgelibError(f"kernel {kernel!r} multiplies quantized layers: pass quantize(model, {chosen.scheme!r})")
    if layers and not chosen.scheme:
        raise EdgelibError(f"kernel {kernel!r} takes the baseline, and this model is quantized already")
    result = shared_copy(module).eval()
    if kernel == "torch-bf16":
        return converted(result, torch.bfloat16)
    if chosen.runtime in WHOLE:
        result = result.cpu()
    if chosen.runtime != TORCHAO:
        result = result.float()
    made = {layer: _layer_maker(kernel)(name, layer) for name, layer in result.named_modules() if name in layers}
    return swapped(result, made)


def _layer_maker(kernel: str) -> Callable[[str, QuantLinear], nn.Module]:
    from edgelib.kernels.onnx_layers import Int8Linear, NBitsLinear, saturates

    if kernel == "onnx-int4":
        return NBitsLinear
    if KERNELS[kernel].runtime == OPENVINO:
        return partial(NBitsLinear, narrow=False)
    unsigned = kernel != "onnx-int8-u8s8" and saturates()
    return lambda name, layer: Int8Linear(name, layer, per_row=kernel == "onnx-int8", unsigned=unsigned)


def agreement(simulated: Tensor, real: Tensor) -> dict[str, float]:
    """Compare scores [items, classes] of a simulation with those of a kernel.

    Returns max_difference and mean_difference of the scores (absolute), relative_difference (norm of the difference
    over norm of the simulated scores) and flip_rate, the share of items whose best class differs. Rounding makes a
    network chaotic in its last digits: two exact computations differ by what a few inputs on a rounding boundary do,
    which the same comparison of the simulation with itself, inputs moved by 1e-7 of their size, measures.
    Raises EdgelibError for different shapes, no items, and NaN or inf.
    """
    if simulated.shape != real.shape or simulated.dim() != 2 or not simulated.numel():
        shapes = f"{tuple(simulated.shape)} and {tuple(real.shape)}"
        raise EdgelibError(f"scores are two tensors of one shape [items, classes], got {shapes}")
    simulated, real = simulated.cpu().double(), real.cpu().double()
    if not (torch.isfinite(simulated).all() and torch.isfinite(real).all()):
        raise EdgelibError("scores hold NaN or inf; look for the layer that made them")
    difference = (simulated - real).abs()
    return {
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "relative_difference": float((simulated - real).norm() / simulated.norm().clamp(min=1e-300)),
        "flip_rate": float((simulated.argmax(1) != real.argmax(1)).double().mean()),
    }


class Converted(nn.Module):
    """A bfloat16 module that takes and returns float32 tensors."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        narrow = [x.bfloat16() if x.is_floating_point() else x for x in inputs]
        return self.module(*narrow).float()


class Images(nn.Module):
    """A dual encoder's way from pixels to features, as a module of its own."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Tensor) -> Tensor:
        family = dual_encoder(self.module.config.model_type, [type(self.module).__name__])
        return family.image_features(self.module, {"pixel_values": pixel_values})


class Texts(nn.Module):
    """A dual encoder's way from tokens to features; SigLIP reads no mask."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        family = dual_encoder(self.module.config.model_type, [type(self.module).__name__])
        return family.text_features(self.module, {"input_ids": input_ids, **masked})


class KernelClip(nn.Module):
    """A dual encoder whose two towers are sessions."""

    def __init__(self, config, images: nn.Module, texts: nn.Module):
        super().__init__()
        self.config, self.images, self.texts = config, images, texts

    def get_image_features(self, pixel_values: Tensor):
        return SimpleNamespace(pooler_output=self.images(pixel_values))

    def get_text_features(self, **tokens: Tensor):
        return SimpleNamespace(pooler_output=self.texts(*tokens.values()))


def _clip(model: ClipModel, module: nn.Module, kernel: Kernel, threads: int | None) -> KernelClip:
    export = opener(kernel)
    images = export(Images(module), [_blank(model)], [[0]], threads=threads)
    tokens = [ids.cpu() for ids in model.text_inputs(["a", "a b"]).values()]
    free = [[0]] if len(tokens) == 1 else [[0, 1], [0, 1]]
    return KernelClip(module.config, images, export(Texts(module), tokens, free, threads=threads))


def _like(model, module: nn.Module):
    return module if module_of(model) is model else model.with_module(module)
