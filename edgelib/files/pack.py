"""Save a quantized model in as many bytes as its formats need, and load it back: same codes, same scales, same logits.

A folder holds packed.safetensors (and computed.safetensors, see `edgelib.files.pack_file`), packing.json, which says
how each layer is stored, and what makes the model: config.json and, for an image classifier, tokenizer and
preprocessor. Nothing is pickled, and loading runs no code of the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.files.model_files import build_module, put_in_place, wrapped, write_model_files
from edgelib.files.pack_file import COMPUTED, WEIGHTS, read_computed, read_slots, write_computed, write_slots
from edgelib.files.slots import Slot, Storage, slots, storage_of
from edgelib.formats.table import FORMATS, Encoded, Format
from edgelib.ground.modules import shared_copy
from edgelib.models.preprocess import read_object
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import swapped

DESCRIPTION = "packing.json"
_FORMAT = "edgelib packed 1"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)}
_DTYPES["float64"] = torch.float64


def save_packed(model, folder: str | os.PathLike, *, other_dtype: torch.dtype = torch.float32) -> Path:
    """Write a model that `quantize` returned to `folder`, whole or not at all, and return its path.

    Weights keep their codes (int8; packed int4, int3, int2 and fp4; fp8; fp16 and bf16 for casts) and scales;
    everything else becomes `other_dtype`, which is exact unless that is narrower than the model. A model that is not
    quantized is stored in `other_dtype` altogether. `packed_size(model, other_dtype=...)` tells the bytes of
    packed.safetensors beforehand. Floating buffers that the model itself does not save, such as rotary frequencies, are
    kept as they are in a file of their own.
    A folder that holds a packed model is replaced.
    Raises EdgelibError for values that do not fit into other_dtype, and for a folder that holds something else or
    cannot be written.
    """
    module, folder = module_of(model), Path(folder).expanduser()
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise EdgelibError(f"{folder.name!r} exists and holds no packed model; choose an empty or a new folder")
    storage = storage_of(module)
    layers = {name: _layer_parts(module.get_submodule(name)) for name in storage}
    parts = [
        (slot, layers[slot.name][slot.part] if tensor is None else _narrowed(tensor, slot))
        for slot, tensor in slots(module, storage, other_dtype)
    ]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_slots(parts, temporary / WEIGHTS)
        known = {"format": _FORMAT, "computed": write_computed(module, temporary / COMPUTED)}
        known |= {**_description(module, storage, other_dtype), **write_model_files(model, temporary)}
        (temporary / DESCRIPTION).write_text(json.dumps(known, indent=1), encoding="utf-8")
        put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EdgelibError(f"a packed model cannot be written to {folder.name!r} ({reason})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_packed(folder: str | os.PathLike, *, like=None):
    """Return the quantized model that `save_packed` wrote, on the CPU; it computes what the saved one computed.

    like: a model of the same architecture, quantized or not, whose weights are replaced in a copy. It is needed where
    the folder alone does not say how to build the model: for modules other than those of transformers.
    Raises EdgelibError for a folder that holds no packed model, is damaged, or belongs to another model than `like`.
    """
    folder = Path(folder).expanduser()
    if not (folder / DESCRIPTION).is_file():
        raise EdgelibError(f"{folder.name!r} holds no packed model: it has no {DESCRIPTION}; write it with save_packed")
    known = read_object(folder / DESCRIPTION)
    if known.get("format") != _FORMAT:
        raise EdgelibError(f"{folder.name!r} holds no packed model of this version of edgelib; save it again")
    base = build_module(folder, known) if like is None else shared_copy(module_of(like)).cpu()
    module = _filled(base, _read_description(known, folder.name), folder / WEIGHTS)
    if known.get("computed"):
        read_computed(module, folder / COMPUTED)
    if like is None:
        return wrapped(module, folder, known)
    return module if module_of(like) is like else like.with_module(module)


@dataclass(frozen=True)
class _Layer:
    """What packing.json knows of a quantized layer."""

    storage: Storage
    activation: Format
    notes: dict


def _layer_parts(layer: QuantLinear) -> dict[str, Tensor]:
    """Return what the slots of a quantized layer hold, by part."""
    encoded = Encoded(layer.format, layer.codes(), layer.scale, layer.zero, layer.outer)
    return {**layer.format.stored(encoded), "input_scale": layer.input_scale}


def _narrowed(tensor: Tensor, slot: Slot) -> Tensor:
    stored = tensor.detach().to(slot.dtype)
    if stored.is_floating_point() and not torch.isfinite(stored).all() and torch.isfinite(tensor).all():
        peak = float(tensor.detach().abs().max())
        raise EdgelibError(
            f"{slot.name!r} does not fit into {slot.dtype}: its largest value is {peak:.4g}; "
            "pass other_dtype=torch.bfloat16 or torch.float32"
        )
    return stored


def _description(module: nn.Module, storage: dict[str, Storage], other_dtype: torch.dtype) -> dict:
    """Return how each layer is stored and in which dtypes the model computes, as plain values."""
    kinds, layers, modules = [], {}, dict(module.named_modules())
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
        "dtype": usual,
        "other_dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != usual and dtype in _DTYPES},
        "stored_dtype": _short(other_dtype),
        "plans": kinds,
        "layers": layers,
    }


@dataclass(frozen=True)
class _Known:
    """packing.json, read and checked."""

    layers: dict[str, _Layer]
    dtype: torch.dtype
    other_dtypes: dict[str, torch.dtype]
    stored_dtype: torch.dtype

    def dtype_of(self, name: str) -> torch.dtype:
        return self.other_dtypes.get(name, self.dtype)


def _read_description(known: dict, folder: str) -> _Known:
    try:
        kinds = [(_read_storage(kind), _read_format(kind["activation"])) for kind in known["plans"]]
        layers = {}
        for name, at in known["layers"].items():
            storage, activation = kinds[at["plan"]]
            layers[name] = _Layer(storage, activation, dict(at["notes"]))
        others = {name: _DTYPES[dtype] for name, dtype in known["other_dtypes"].items()}
        return _Known(layers, _DTYPES[known["dtype"]], others, _DTYPES[known["stored_dtype"]])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise EdgelibError(f"{DESCRIPTION} of {folder!r} is damaged ({error!r}); save the model again") from None


def _read_storage(kind: dict) -> Storage:
    weight, groups = _read_format(kind["weight"]), int(kind["groups"])
    return Storage(weight, groups, bool(kind["static"]), bool(kind["wide"]), str(kind["tied"]))


def _format_fields(format: Format) -> dict:
    """Return a format as plain values."""
    return {"name": format.name, **format.options}


def _read_format(fields: dict) -> Format:
    options = {key: value for key, value in fields.items() if key != "name"}
    return FORMATS[fields["name"]].variant(**options)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _filled(base: nn.Module, known: _Known, path: Path) -> nn.Module:
    """Put the stored tensors into a model of ours, whose Linears become the stored layers."""
    modules = dict(base.named_modules())
    for name in known.layers:
        if not isinstance(modules.get(name), nn.Linear | QuantLinear):
            raise EdgelibError(f"the packed model has a layer {name!r} and this one has not: it is another model")
    layout = [
        slot for slot, _ in slots(base, {name: at.storage for name, at in known.layers.items()}, known.stored_dtype)
    ]
    stored: dict[str, dict[str, Tensor]] = {name: {} for name in known.layers}
    values: dict[str, Tensor] = {}
    for slot, tensor in read_slots(layout, path):
        if slot.part:
            stored[slot.name][slot.part] = tensor
            continue
        values[slot.name] = tensor
        owner, _, key = slot.name.rpartition(".")
        tensor = tensor.to(known.dtype_of(slot.name)) if tensor.is_floating_point() else tensor
        if key in modules[owner]._parameters:
            modules[owner]._parameters[key].data = tensor
        else:
            modules[owner]._buffers[key] = tensor
    layers = {}
    for name, at in known.layers.items():
        if at.storage.tied:
            stored[name]["codes"] = values[at.storage.tied]
        layers[modules[name]] = _layer(modules[name], at, stored[name], known.dtype_of(f"{name}.weight"))
    return swapped(base, layers)


def _layer(linear: nn.Linear | QuantLinear, at: _Layer, stored: dict[str, Tensor], dtype: torch.dtype) -> QuantLinear:
    """Make a layer of what the file holds of it."""
    storage = at.storage
    encoded = storage.format.restored(stored, linear.in_features, storage.groups, storage.scale_dtype)
    return QuantLinear(encoded, linear.bias, dtype, at.activation, stored.get("input_scale"), at.notes)
