"""What packing.json says of a packed model: how each layer is stored, in which dtypes it computes, what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from edgelib.errors import EdgelibError, choose
from edgelib.files.seal import DESCRIPTION
from edgelib.files.slots import OTHER_DTYPES, Storage
from edgelib.formats.table import FORMATS, Format
from edgelib.ground.records import Record, checked, shown
from edgelib.ground.separate import left_apart

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in OTHER_DTYPES}
Dtype = Literal["float32", "float16", "bfloat16", "float64"]
Count = Annotated[int, Field(ge=0)]


class Plan(Record):
    """How a kind of layers is stored: a `Storage`, and the format of its inputs."""

    weight: dict[str, Any]
    activation: dict[str, Any]
    groups: Count
    static: bool
    wide: bool
    tied: str


class LayerFacts(Record):
    """plan: place in the list of plans. notes: as `quantization_report` collects them."""

    plan: Count
    notes: dict[str, Any]


class Facts(Record):
    """packing.json without its digests.

    wrapper: the type around the module, and its name. attention: transformers' implementation of it, None for modules
    that transformers does not build. separate: whether `edgelib.ground.separate` has taken layers of it apart. dtype:
    of most tensors. other_dtypes: by name, where they differ. stored_dtype: of what is not quantized, in the file.
    """

    wrapper: str | None
    name: str | None
    attention: str | None
    separate: bool
    dtype: Dtype
    other_dtypes: dict[str, Dtype]
    stored_dtype: Dtype
    plans: list[Plan]
    layers: dict[str, LayerFacts]


@dataclass(frozen=True)
class Layer:
    """What packing.json knows of a quantized layer."""

    storage: Storage
    activation: Format
    notes: dict


@dataclass(frozen=True)
class Description:
    """packing.json, read and checked; fields as in `Facts`."""

    facts: Facts
    layers: dict[str, Layer]

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.facts.dtype]

    @property
    def stored_dtype(self) -> torch.dtype:
        return _DTYPES[self.facts.stored_dtype]

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype in which the model computes with a parameter or buffer."""
        return _DTYPES[self.facts.other_dtypes.get(name, self.facts.dtype)]


def described(module: nn.Module, storage: Mapping[str, Storage], other_dtype: torch.dtype) -> dict[str, Any]:
    """Return how each layer is stored and in which dtypes the model computes, as plain values."""
    kinds: list[dict] = []
    layers, modules = {}, dict(module.named_modules())
    for name, stored in storage.items():
        kind = {
            "weight": _format_fields(stored.format),
            "activation": _format_fields(modules[name].activation),
            "groups": stored.groups,
            "static": stored.static,
            "wide": stored.wide,
            "tied": stored.tied,
        }
        if kind not in kinds:
            kinds.append(kind)
        layers[name] = {"plan": kinds.index(kind), "notes": modules[name].notes}
    dtypes = {name: _short(tensor.dtype) for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    usual = Counter(dtypes.values()).most_common(1)[0][0] if dtypes else "float32"
    return {
        "separate": bool(left_apart(module)),
        "dtype": usual,
        "other_dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != usual and dtype in _DTYPES},
        "stored_dtype": _short(other_dtype),
        "plans": kinds,
        "layers": layers,
    }


def read_description(known: Mapping[str, Any], folder: str) -> Description:
    """Return packing.json of `folder`, read; raises EdgelibError that names what makes no sense in it."""
    where = f"{DESCRIPTION} of {folder!r} is damaged (pack the model again)"
    facts = checked(Facts, known, where)
    plans = [_read_plan(plan, where) for plan in facts.plans]
    layers = {}
    for name, layer in facts.layers.items():
        if layer.plan >= len(plans):
            raise EdgelibError(f"{where}: layer {shown(name)} has plan {layer.plan} of {len(plans)}")
        storage, activation = plans[layer.plan]
        layers[name] = Layer(storage, activation, layer.notes)
    return Description(facts, layers)


def _read_plan(plan: Plan, where: str) -> tuple[Storage, Format]:
    weight, activation = _read_format(plan.weight, where), _read_format(plan.activation, where)
    if weight.scaled != bool(plan.groups) or (plan.static and not activation.scaled) or (weight.scaled and plan.tied):
        raise EdgelibError(
            f"{where}: a plan of {weight.name} weights and {activation.name} inputs has groups = {plan.groups}, "
            f"static = {plan.static} and tied = {shown(plan.tied)}"
        )
    return Storage(weight, plan.groups, plan.static, plan.wide, plan.tied), activation


def _format_fields(format: Format) -> dict[str, object]:
    """Return a format as plain values."""
    return {"name": format.name, **format.options}


def _read_format(fields: Mapping[str, Any], where: str) -> Format:
    options = {key: value for key, value in fields.items() if key != "name"}
    try:
        format = choose(FORMATS, fields.get("name"), "number format").variant(**options)
    except (EdgelibError, TypeError) as error:
        raise EdgelibError(f"{where}: {error}") from None
    if _format_fields(format) != fields:
        raise EdgelibError(f"{where}: {shown(fields)} is no number format")
    return format


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
