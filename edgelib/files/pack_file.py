"""The files of a packed model: one safetensors tensor for each class of bytes, and nothing in them can run code.

A header entry for every parameter would be several percent of a small model's file, and a table of a few classes is
also what a reader of the header wants to see. Which parameter lies where follows from the model's own order (`slots`).
A second small file holds what a model computes when it is built and never saves, such as rotary frequencies: an outlier
twin may have changed them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.files.slots import Slot

WEIGHTS, COMPUTED = "packed.safetensors", "computed.safetensors"


def write_slots(parts: Sequence[tuple[Slot, Tensor]], path: Path) -> None:
    """Write tensors in the order of their slots, those of one key one after another."""
    keyed: dict[str, list[Tensor]] = {}
    for slot, tensor in parts:
        if tensor.dtype != slot.dtype or tensor.numel() != slot.numel:
            raise AssertionError(f"{slot} was given {tensor.dtype} {tuple(tensor.shape)}")
        keyed.setdefault(slot.key, []).append(tensor.detach().cpu().reshape(-1).view(torch.uint8))
    dtypes = {slot.key: slot.dtype for slot, _ in parts}
    save_file({key: torch.cat(tensors).view(dtypes[key]) for key, tensors in keyed.items()}, path)


def read_slots(slots: Sequence[Slot], path: Path) -> Iterator[tuple[Slot, Tensor]]:
    """Yield each slot with a tensor of its own; raises EdgelibError for a file that does not hold exactly these."""
    wanted: dict[str, int] = {}
    for slot in slots:
        wanted[slot.key] = wanted.get(slot.key, 0) + slot.numel
    dtypes = {slot.key: slot.dtype for slot in slots}
    try:
        with safe_open(path, framework="pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise EdgelibError(f"{path.name} is missing, damaged or cut short ({error}); save the model again") from None
    for key in sorted(wanted.keys() | held.keys()):
        here = (held[key].dtype, held[key].numel()) if key in held else None
        if here != (dtypes.get(key), wanted.get(key)):
            raise EdgelibError(
                f"{path.name} holds {here or 'no'} {key!r} where the model has {(dtypes.get(key), wanted.get(key))}: "
                "it belongs to another model; load it with the one that it was saved from"
            )
    starts = dict.fromkeys(wanted, 0)
    for slot in slots:
        start = starts[slot.key]
        starts[slot.key] += slot.numel
        tensor = held[slot.key][start : start + slot.numel].clone().reshape(slot.shape)
        require_finite(tensor, slot.name, path.name, masks=slot.kind == "buffers")
        yield slot, tensor


def require_finite(tensor: Tensor, name: str, where: str, masks: bool = False) -> None:
    """Raise EdgelibError for NaN, and, unless they may be masks, for infinite values; `where` says whose they are."""
    if not tensor.is_floating_point():
        return
    values = tensor if tensor.dtype.itemsize > 1 else tensor.float()
    bad = values.isnan() if masks else ~values.isfinite()
    if bad.any():
        raise EdgelibError(
            f"{where}: {name!r} has {int(bad.sum())} values that are NaN or infinite; quantize and pack a model whose "
            "weights are finite"
        )


def _computed(module: nn.Module) -> dict[str, tuple[dict, str]]:
    """Return by name where the buffers stand that a model does not save."""
    return {
        f"{name}.{key}" if name else key: (layer._buffers, key)
        for name, layer in module.named_modules()
        for key in sorted(layer._non_persistent_buffers_set)
    }


def write_computed(module: nn.Module, path: Path) -> None:
    """Write the floating buffers that a model does not save, if there are any."""
    floating = {
        name: buffer.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, (owner, key) in _computed(module).items()
        if (buffer := owner.get(key)) is not None and buffer.is_floating_point()
    }
    for name, buffer in floating.items():
        require_finite(buffer, name, "the model", masks=True)
    if floating:
        save_file(floating, path)


def read_computed(module: nn.Module, path: Path) -> None:
    """Put what `write_computed` wrote into a model of ours; raises EdgelibError for a file of another model."""
    places = _computed(module)
    try:
        buffers = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EdgelibError(f"{path.name} is missing, damaged or cut short ({error}); save the model again") from None
    for name, buffer in buffers.items():
        if name not in places:
            raise EdgelibError(f"{path.name} holds {name!r}, which this model does not have: it is another model")
        owner, key = places[name]
        own = owner.get(key)
        if not buffer.is_floating_point() or (own is not None and own.shape != buffer.shape):
            raise EdgelibError(
                f"{path.name} holds {name!r} as {buffer.dtype} {tuple(buffer.shape)} where the model has "
                f"{own if own is None else (own.dtype, tuple(own.shape))}: it belongs to another model; load it with "
                "the one that it was saved from"
            )
        require_finite(buffer, name, path.name, masks=True)
        owner[key] = buffer.clone()
