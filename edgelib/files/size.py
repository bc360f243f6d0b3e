"""How many bytes a quantized model takes, class by class, from its shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.files.slots import slots, storage_by, storage_of
from edgelib.formats.table import WEIGHTS
from edgelib.ground.separate import linears, separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.names import VISION_TOO
from edgelib.quant.scheme import Scheme, scheme, scheme_for


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
    if scheme is None:
        storage = storage_of(module)
    else:
        chosen = scheme_for(model, scheme)
        module = separated(module, chosen.targets)
        storage = storage_by(module, chosen)
    by_class: dict[str, int] = {}
    for slot, _ in slots(module, storage, other_dtype):
        by_class[slot.kind] = by_class.get(slot.kind, 0) + slot.bytes
    return {"total": sum(by_class.values()), "by_class": by_class}


def weight_bits(module: nn.Module, config: str, within: str | None = None) -> float:
    """Return the bits per weight of a model's Linear layers in a configuration, scales and zero points included.

    within: how the names of its layers begin in the whole model ("vision_model."), whose layers the configuration may
    choose or leave out; what it leaves out has `other_bits`. None: as if every layer were rounded.
    """
    module, chosen = separated(module), scheme(config)
    sizes = {name: module.get_submodule(name).weight.numel() for name in linears(module)}
    if not sizes:
        raise EdgelibError(f"{type(module).__name__} has no nn.Linear layer whose weights could be counted")
    format = WEIGHTS[chosen.weight]
    if not format.scaled:
        return float(format.bits)
    whole = replace(chosen, targets=("*",), exclude=())
    chosen = whole if within is None or chosen.targets == VISION_TOO else chosen
    picked = [name for name in sizes if chosen.selects(f"{within or ''}{name}")]
    left = sum(sizes.values()) - sum(sizes[name] for name in picked)
    if not picked:
        return float(other_bits(config))
    part = whole if not left else replace(whole, targets=tuple(picked))
    classes = packed_size(module, part)["by_class"]
    stored = 8 * sum(classes.get(kind, 0) for kind in ("linear_weights", "scales", "zero_points"))
    return (stored + left * (other_bits(config) - 32)) / sum(sizes.values())  # packed_size keeps the rest in 32


def other_bits(config: str) -> int:
    """Return the bits of what a configuration does not quantize: those of its activations, where these are wide."""
    formats = (WEIGHTS[name] for name in (scheme(config).weight, scheme(config).activation))
    return next((format.bits for format in formats if not format.scaled), 16)


def stored_bytes(model: nn.Module, config: str) -> int:
    """Return the bytes of a model's packed file, everything that is not quantized in the width it computes in."""
    other = torch.float32 if other_bits(config) == 32 else torch.float16
    return packed_size(model, config, other_dtype=other)["total"]
