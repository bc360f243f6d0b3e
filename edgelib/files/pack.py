"""Save a quantized model in as many bytes as its formats need, and load it back: same codes, same scales, same logits.

A folder holds packed.safetensors (and computed.safetensors, see `edgelib.files.pack_file`), packing.json, which says
how each layer is stored and seals all files (`edgelib.files.seal`), and what makes the model: config.json and, for an
image classifier, tokenizer and preprocessor. Nothing is pickled, and loading runs no code of the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.files.description import Description, Layer, described, read_description
from edgelib.files.model_files import build_module, put_in_place, wrapped, write_model_files
from edgelib.files.pack_file import (
    COMPUTED,
    WEIGHTS,
    read_computed,
    read_slots,
    require_finite,
    write_computed,
    write_slots,
)
from edgelib.files.seal import DESCRIPTION, seal, unsealed
from edgelib.files.slots import Slot, slots, storage_of
from edgelib.formats.table import Encoded
from edgelib.ground.convolutions import MATRIX
from edgelib.ground.modules import shared_copy, swapped
from edgelib.ground.records import one_line
from edgelib.ground.separate import separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.linear import QuantLinear


def save_packed(model, folder: str | os.PathLike, *, other_dtype: torch.dtype = torch.float32) -> Path:
    """Write a model that `quantize` returned to `folder`, whole or not at all, and return its path.

    Weights keep their codes (int8; packed int4, int3, int2 and fp4; fp8; fp16 and bf16 for casts) and scales;
    everything else becomes `other_dtype`, which is exact unless that is narrower than the model. A model that is not
    quantized is stored in `other_dtype` altogether. `packed_size(model, other_dtype=...)` tells the bytes of
    packed.safetensors beforehand. Floating buffers that the model itself does not save, such as rotary frequencies, are
    kept as they are in a file of their own.
    A folder that holds a packed model is replaced. packing.json keeps a SHA-256 of every file, itself included.
    Raises EdgelibError for values that do not fit into other_dtype, for weights that are NaN or infinite, for a folder
    that holds something else or cannot be written, and for a configuration that transformers refuses to write.
    """
    module, folder = module_of(model), Path(os.path.abspath(os.path.expanduser(folder)))
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise EdgelibError(f"{folder.name!r} exists and holds no packed model; choose an empty or a new folder")
    if folder in (here := Path.cwd(), *here.parents):
        raise EdgelibError(
            f"{folder.name!r} is where this process works, and would be replaced as a whole; name another"
        )
    storage = storage_of(module)
    layers = {name: _layer_parts(module.get_submodule(name)) for name in storage}
    parts = [
        (slot, layers[slot.name][slot.part] if tensor is None else _narrowed(tensor, slot))
        for slot, tensor in slots(module, storage, other_dtype)
    ]
    for slot, tensor in parts:
        require_finite(tensor, slot.name, "the model", masks=slot.kind == "buffers")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_slots(parts, temporary / WEIGHTS)
        write_computed(module, temporary / COMPUTED)
        seal(temporary, {**described(module, storage, other_dtype), **write_model_files(model, temporary)})
        put_in_place(temporary, folder)
    except EdgelibError:
        raise
    except (OSError, SafetensorError, ValueError) as error:  # ValueError: a generation config that makes no sense
        reason = getattr(error, "strerror", None) or one_line(error)
        raise EdgelibError(f"a packed model cannot be written to {folder.name!r} ({reason})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_packed(folder: str | os.PathLike, *, like=None):
    """Return the quantized model that `save_packed` wrote, on the CPU; it computes what the saved one computed.

    like: a model of the same architecture, quantized or not, whose weights are replaced in a copy. It is needed where
    the folder alone does not say how to build the model: for modules other than those of transformers.
    Raises EdgelibError for a folder that holds no packed model, was written without digests (by an earlier version:
    pack it again), belongs to another model than `like`, or is not what was written: a file that changed by a bit, is
    missing or was added is named. No code of the folder is run, and nobody is asked whether it may.
    """
    folder = Path(os.path.abspath(os.path.expanduser(folder)))
    known = read_description(unsealed(folder), folder.name)
    base = build_module(folder, known) if like is None else shared_copy(module_of(like)).cpu()
    if known.facts.separate:  # as it was when it was saved, patch embeddings included
        base = separated(base, [name.removesuffix(MATRIX) for name in known.layers])
    module = _filled(base, known, folder / WEIGHTS)
    if (folder / COMPUTED).is_file():
        read_computed(module, folder / COMPUTED)
    if like is None:
        return wrapped(module, folder, known.facts)
    return module if module_of(like) is like else like.with_module(module)


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


def _filled(base: nn.Module, known: Description, path: Path) -> nn.Module:
    """Put the stored tensors into a model of ours, whose Linears become the stored layers."""
    modules = dict(base.named_modules())
    for name in known.layers:
        if not isinstance(modules.get(name), nn.Linear | QuantLinear):
            raise _of_another(path, f"a quantized layer {name!r}")
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
            if at.storage.tied not in values:
                raise _of_another(path, f"a table {at.storage.tied!r} that a layer shares")
            stored[name]["codes"] = values[at.storage.tied]
        layers[modules[name]] = _layer(modules[name], at, stored[name], known.dtype_of(f"{name}.weight"))
    return swapped(base, layers)


def _of_another(path: Path, what: str) -> EdgelibError:
    return EdgelibError(
        f"{path.name} of {path.parent.name!r} holds {what}, which this model has not: it belongs to another model; "
        "load it with the one that it was saved from"
    )


def _layer(linear: nn.Linear | QuantLinear, at: Layer, stored: dict[str, Tensor], dtype: torch.dtype) -> QuantLinear:
    """Make a layer of what the file holds of it."""
    storage = at.storage
    encoded = storage.format.restored(stored, linear.in_features, storage.groups, storage.scale_dtype)
    return QuantLinear(encoded, linear.bias, dtype, at.activation, stored.get("input_scale"), at.notes)
