"""How many bytes a quantized model takes, class by class, from its shapes alone.

`slots` lists every tensor of the packed file. `packed_size` adds them up, and `edgelib.files.pack` writes and reads
the file by the same list, so prediction and file cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.formats.bits import packed_width
from edgelib.formats.floating import E4M3, Cast
from edgelib.formats.integer import Integer
from edgelib.formats.microscaling import MX, NVFP4
from edgelib.formats.table import FORMATS, Format
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import check_groups, target_layers
from edgelib.quant.scheme import Scheme, plan_for, scheme

OTHER_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Plan:
    """How one Linear is stored: format, scales per row (0 for a cast), and whether its activation scale is static.

    wide: scales are float64, as in a float64 model. tied: the parameter that a cast weight is one with, else empty.
    """

    format: Format
    groups: int
    static: bool = False
    wide: bool = False
    tied: str = ""


class Slot(NamedTuple):
    """One tensor of the packed file. kind: its class of bytes. name: the parameter, or the quantized layer.

    part: which tensor of a quantized layer it is, an attribute of `Encoded` or "input_scale"; "" for any other.
    """

    kind: str
    name: str
    part: str
    label: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        """The tensor of the file in which this one lies."""
        return f"{self.kind}.{self.label}"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


def packed_size(
    model, scheme: str | Mapping | Scheme | None = None, *, other_dtype: torch.dtype = torch.float32
) -> dict:
    """Return {"total": bytes, "by_class": {class: bytes}} that `save_packed` needs for the tensors of a model.

    model: a ZeroShotModel or any nn.Module, also one on the meta device, such as `architecture("qwen2-vl-2b")`.
    scheme: what it would be quantized by; None for a model as it is, which `quantize` may have quantized before.
    other_dtype: what everything but the quantized weights is stored in, unless the scheme casts the whole model.

    Weights of b bits take ceil(in * b / 8) bytes per output row, and their scales what the format says: fp32 per row or
    group (and a zero point of b bits), a byte per block for mx and nvfp4. Tensors that layers share count once. The
    file adds a header of a few kB, and buffers that a model does not save, such as rotary frequencies, lie in another.
    Raises EdgelibError for a scheme that the model does not take and an other_dtype that is not floating.
    """
    module = module_of(model)
    plans = plans_of(module) if scheme is None else _planned(module, plan_for(model, scheme))
    by_class: dict[str, int] = {}
    for slot, _ in slots(module, plans, other_dtype):
        by_class[slot.kind] = by_class.get(slot.kind, 0) + slot.bytes
    return {"total": sum(by_class.values()), "by_class": by_class}


def plans_of(module: nn.Module) -> dict[str, Plan]:
    """Return how the layers that `quantize` has replaced are stored, by name."""
    tables = {f"{name}.weight": m.weight for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    plans = {}
    for name, layer in module.named_modules():
        if isinstance(layer, QuantLinear):
            groups = 0 if layer.scale is None else layer.scale.shape[-1]
            static, wide = layer.input_scale is not None, layer.weight.dtype == torch.float64
            # a cast copies the weight of an output layer that the model shares with its embedding
            equal = (key for key, table in tables.items() if not groups and torch.equal(table, layer.weight))
            plans[name] = Plan(layer.format, groups, static, wide, next(equal, ""))
    return plans


def _planned(module: nn.Module, scheme: Scheme) -> dict[str, Plan]:
    """Return how the layers that a scheme selects will be stored, by name."""
    if scheme.weight == "fp32":
        return {}
    if plans_of(module):
        raise EdgelibError("this model is quantized already: leave the scheme out, or pass the baseline")
    targets = target_layers(module, scheme)
    check_groups(module, scheme, targets)
    static = scheme.activation_granularity == "tensor"
    tables = {id(m.weight): f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    plans = {}
    for name in targets:
        weight = module.get_submodule(name).weight
        groups = _groups(scheme.weight_format, weight.shape[1], scheme.group_size)
        tied = "" if groups else tables.get(id(weight), "")
        plans[name] = Plan(scheme.weight_format, groups, static, weight.dtype == torch.float64, tied)
    return plans


def _groups(format: Format, width: int, group_size: int | None) -> int:
    if isinstance(format, Cast):
        return 0
    return -(-width // (format.block or group_size or width))


def slots(
    module: nn.Module, plans: Mapping[str, Plan], other_dtype: torch.dtype
) -> Iterator[tuple[Slot, torch.Tensor | None]]:
    """Yield every tensor of the packed file of a model in its order, and the model's own tensor where it has one.

    Layers in `plans` may be Linear or QuantLinear: both give the same slots. Shared tensors appear once.
    Buffers that a model does not save, such as position indices, are made by its constructor and take no room.
    """
    dtype = stored_dtype(plans, other_dtype)
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if name in plans:
            for slot in _layer_slots(name, layer.out_features, layer.in_features, plans[name]):
                yield slot, None
        kept = [(key, p) for key, p in layer._parameters.items() if name not in plans or key != "weight"]
        if name not in plans:
            saved = layer._buffers.keys() - layer._non_persistent_buffers_set
            kept += [(key, buffer) for key, buffer in layer._buffers.items() if key in saved]
        for key, tensor in kept:
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            own = dtype if tensor.is_floating_point() else tensor.dtype
            kind = _kind(layer, key) if key in layer._parameters else "buffers"
            path = f"{name}.{key}" if name else key
            yield Slot(kind, path, "", _short(own), own, tuple(tensor.shape)), tensor


def stored_dtype(plans: Mapping[str, Plan], other_dtype: torch.dtype) -> torch.dtype:
    """Return what everything but quantized weights is stored in: that of a cast, which rounded the whole model."""
    if other_dtype not in OTHER_DTYPES:
        names = ", ".join(str(dtype) for dtype in OTHER_DTYPES)
        raise EdgelibError(f"other_dtype is a floating dtype, got {other_dtype!r}; choose from {names}")
    casts = {plan.format.dtype for plan in plans.values() if isinstance(plan.format, Cast)}
    return casts.pop() if len(casts) == 1 else other_dtype


def _layer_slots(name: str, rows: int, width: int, plan: Plan) -> Iterator[Slot]:
    format, wide = plan.format, torch.float64 if plan.wide else torch.float32

    def slot(kind: str, part: str, label: str, dtype: torch.dtype, *shape: int) -> Slot:
        return Slot(kind, name, part, label, dtype, shape)

    def packed(kind: str, part: str, codes: int) -> Slot:
        if format.bits < 8:
            return slot(kind, part, format.name, torch.uint8, rows, packed_width(codes, format.bits))
        return slot(kind, part, format.name, format.storage, rows, codes)

    if plan.tied:
        return
    yield packed("linear_weights", "codes", width)
    if isinstance(format, MX):
        yield slot("scales", "scale", "e8m0", torch.float8_e8m0fnu, rows, plan.groups)
    elif isinstance(format, NVFP4):
        yield slot("scales", "scale", "e4m3", E4M3.storage, rows, plan.groups)
        yield slot("scales", "outer", _short(wide), wide, 1, 1)
    elif plan.groups:
        yield slot("scales", "scale", _short(wide), wide, rows, plan.groups)
    if isinstance(format, Integer) and not format.symmetric:
        yield packed("zero_points", "zero", plan.groups)
    if plan.static:
        yield slot("scales", "input_scale", _short(wide), wide)


def _kind(layer: nn.Module, key: str) -> str:
    """Return the class of a parameter that stays in floating point."""
    if "norm" in type(layer).__name__.lower():
        return "norms"
    if key.endswith("bias"):
        return "biases"
    kinds = {nn.Linear: "linear_weights", nn.Embedding: "embeddings", nn.modules.conv._ConvNd: "convolutions"}
    return next((kind for type_, kind in kinds.items() if isinstance(layer, type_)), "other_parameters")


def _short(dtype: torch.dtype) -> str:
    known = {format.dtype: format.name for format in FORMATS.values() if isinstance(format, Cast)}
    return known.get(dtype, str(dtype).removeprefix("torch."))


_WIDE_BITS = {"fp32": 32, "fp16": 16, "bf16": 16}


def weight_bits(module: nn.Module, config: str) -> float:
    """Return the bits per weight of a model's Linear layers in a configuration, scales and zero points included."""
    weights = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
    if not weights:
        raise EdgelibError(f"{type(module).__name__} has no nn.Linear layer whose weights could be counted")
    if scheme(config).weight in _WIDE_BITS:
        return float(_WIDE_BITS[scheme(config).weight])
    classes = packed_size(module, config)["by_class"]
    return 8 * sum(classes.get(kind, 0) for kind in ("linear_weights", "scales", "zero_points")) / weights


def _other_bits(config: str) -> int:
    """Bits of what a configuration does not quantize: of its activations, where those are wide."""
    plan = scheme(config)
    return _WIDE_BITS.get(plan.weight, 32 if plan.activation == "fp32" else 16)


def stored_bytes(model: nn.Module, config: str) -> int:
    """Return the bytes of a model's packed file, everything that is not quantized in the width it computes in."""
    other = torch.float32 if _other_bits(config) == 32 else torch.float16
    return packed_size(model, config, other_dtype=other)["total"]
