"""Copies of networks: one that shares its weights, one in another floating-point type, one with other layers."""

from __future__ import annotations

import copy

import torch
from torch import nn


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters are new objects on the same storage; buffers are copied."""
    # new Parameter objects, because Module.to() and .half() rewrite the .data of the old ones
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


def converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert our own copy of a module in place to a floating dtype, but for rotary frequencies, and return it.

    transformers keeps those in float32 whatever the dtype of a model: in bfloat16 the angle of position p would be
    wrong by up to p * frequency / 256.
    """
    kept = [
        (layer._buffers, key, layer._buffers[key])
        for layer in module.modules()
        for key in layer._non_persistent_buffers_set
        if key.endswith("inv_freq")
    ]
    module.to(dtype)
    for buffers, key, buffer in kept:
        buffers[key] = buffer
    return module


def swapped(module: nn.Module, replacements: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each replacement wherever its layer stands, also where one layer has several names."""
    if module in replacements:
        return replacements[module]
    for parent in module.modules():
        for key, child in parent._modules.items():
            if child in replacements:
                parent._modules[key] = replacements[child]
    return module
