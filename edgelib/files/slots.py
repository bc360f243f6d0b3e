"""How a quantized model is laid out in its packed file: every tensor of it, in order.

`slots` lists them. `edgelib.files.size` adds them up, and `edgelib.files.pack` writes and reads the file by the same
list, so prediction and file cannot drift apart. What a quantized weight consists of its format says (`Format.parts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.formats.base import dtype_label
from edgelib.formats.table import Format
from edgelib.quant.linear import QuantLinear
from edgelib.quant.mixes.resolve import layer_schemes
from edgelib.quant.mixes.stacked import Stacked
from edgelib.quant.quantize import check_groups, target_layers
from edgelib.quant.scheme import Scheme

OTHER_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Storage:
    """How one Linear is stored: format, scales per row (0 for a cast), and whether its activation scale is static.

    wide: scales are float64, as in a float64 model. tied: the parameter that a cast weight is one with, else empty.
    """

    format: Format
    groups: int
    static: bool = False
    wide: bool = False
    tied: str = ""

    @property
    def scale_dtype(self) -> torch.dtype:
        """The dtype in which its grid is computed."""
        return torch.float64 if self.wide else torch.float32


class Slot(NamedTuple):
    """One tensor of the packed file. kind: its class of bytes. name: the parameter, or the quantized layer.

    part: which tensor of a quantized layer it is, a `Part` of its format or "input_scale"; "" for any other.
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


def storage_of(module: nn.Module) -> dict[str, Storage]:
    """Return how the layers that `quantize` has replaced are stored, by name."""
    tables = {f"{name}.weight": m.weight for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    storage = {}
    for name, layer in module.named_modules():
        if isinstance(layer, Stacked):
            raise _several_types(name, "its mix")
        if isinstance(layer, QuantLinear):
            groups = 0 if layer.scale is None else layer.scale.shape[-1]
            if layer.format.own_scales:
                groups = _groups(layer.format, layer.in_features, None)
            static, wide = layer.input_scale is not None, layer.weight.dtype == torch.float64
            # a cast copies the weight of an output layer that the model shares with its embedding
            equal = (key for key, table in tables.items() if not groups and torch.equal(table, layer.weight))
            storage[name] = Storage(layer.format, groups, static, wide, next(equal, ""))
    return storage


def _several_types(name: str, mix: str) -> EdgelibError:
    return EdgelibError(
        f"layer {name!r} has rows of several types in {mix}, which a packed file cannot hold; its GGUF file can: "
        "edgelib.save_gguf writes it, and edgelib.gguf_size tells its bytes"
    )


def storage_by(module: nn.Module, scheme: Scheme) -> dict[str, Storage]:
    """Return how the layers that a scheme selects will be stored, by name.

    Raises EdgelibError for a module that is quantized already, and for a scheme that it does not take.
    """
    if scheme.only_copies:
        return {}
    if storage_of(module):
        raise EdgelibError("this model is quantized already: leave the scheme out, or pass the baseline")
    targets = target_layers(module, scheme)
    check_groups(module, scheme, targets)
    static = scheme.activation_granularity == "tensor"
    tables = {id(m.weight): f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    storage = {}
    mixed = layer_schemes(module, scheme, targets)
    for name in targets:
        weight = module.get_submodule(name).weight
        if len(mixed.get(name, ())) > 1:
            raise _several_types(name, scheme.name)
        format = mixed[name][0].scheme.weight_format if name in mixed else scheme.weight_format
        groups = _groups(format, weight.shape[1], scheme.group_size)
        tied = "" if groups else tables.get(id(weight), "")
        storage[name] = Storage(format, groups, static, weight.dtype == torch.float64, tied)
    return storage


def _groups(format: Format, width: int, group_size: int | None) -> int:
    return -(-width // (format.block or group_size or width)) if format.scaled else 0


def slots(
    module: nn.Module, storage: Mapping[str, Storage], other_dtype: torch.dtype
) -> Iterator[tuple[Slot, torch.Tensor | None]]:
    """Yield every tensor of the packed file of a model in its order, and the model's own tensor where it has one.

    Layers in `storage` may be Linear or QuantLinear: both give the same slots. Shared tensors appear once.
    Buffers that a model does not save, such as position indices, are made by its constructor and take no room.
    """
    dtype = stored_dtype(storage, other_dtype)
    yielded: set[int] = set()
    for name, layer in module.named_modules():
        if name in storage:
            for slot in _layer_slots(name, layer.out_features, layer.in_features, storage[name]):
                yield slot, None
        kept = [(key, p) for key, p in layer._parameters.items() if name not in storage or key != "weight"]
        if name not in storage:
            saved = layer._buffers.keys() - layer._non_persistent_buffers_set
            kept += [(key, buffer) for key, buffer in layer._buffers.items() if key in saved]
        for key, tensor in kept:
            if tensor is None or id(tensor) in yielded:
                continue
            yielded.add(id(tensor))
            narrow = dtype if tensor.is_floating_point() else tensor.dtype
            kind = _kind(layer, key) if key in layer._parameters else "buffers"
            path = f"{name}.{key}" if name else key
            yield Slot(kind, path, "", dtype_label(narrow), narrow, tuple(tensor.shape)), tensor


def stored_dtype(storage: Mapping[str, Storage], other_dtype: torch.dtype) -> torch.dtype:
    """Return what everything but quantized weights is stored in: that of a cast, which rounded the whole model."""
    if other_dtype not in OTHER_DTYPES:
        names = ", ".join(str(dtype) for dtype in OTHER_DTYPES)
        raise EdgelibError(f"other_dtype is a floating dtype, got {other_dtype!r}; choose from {names}")
    casts = {layer.format.storage for layer in storage.values() if not layer.format.scaled}
    whole = len(casts) == 1 and not any(layer.format.scaled for layer in storage.values())  # else a mix has some
    return casts.pop() if whole else other_dtype


def _layer_slots(name: str, rows: int, width: int, storage: Storage) -> Iterator[Slot]:
    if storage.tied:
        return
    for part in storage.format.parts(rows, width, storage.groups, storage.scale_dtype):
        yield Slot(part.kind, name, part.name, part.label, part.dtype, part.shape)
    if storage.static:
        yield Slot("scales", name, "input_scale", dtype_label(storage.scale_dtype), storage.scale_dtype, ())


def _kind(layer: nn.Module, key: str) -> str:
    """Return the class of a parameter that stays in floating point."""
    if "norm" in type(layer).__name__.lower():
        return "norms"
    if key.endswith("bias"):
        return "biases"
    kinds = {nn.Linear: "linear_weights", nn.Embedding: "embeddings", nn.modules.conv._ConvNd: "convolutions"}
    return next((kind for type_, kind in kinds.items() if isinstance(layer, type_)), "other_parameters")
