"""Outlier twins of decoders: keys and values that carry outliers of a chosen size, or keys around a constant.

Where keys are rotated, the two channels of a rotation grow together, in all query heads that read them; a norm on the
keys grows in place of their projection. A constant in the keys changes nothing that softmax sees, as it adds the same
to every logit of a query, if no rotation turns it: so the slowest rotations, which turn by a few hundredths of a radian
over a prompt, are stopped first, and the constant goes into their channels by the bias of k_proj.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgelib.ground.randomness import address, keys_for
from edgelib.observe.attention import Attention, attention_blocks

OFFSET = "key-offset"
EVERY = {"key-all": "key", "value-all": "value"}  # all channels grow instead of 5 %
SLOW_SHARE = 0.25  # of the rotations are stopped for a constant offset


def plant_in_decoder(module: nn.Module, kind: str, strength: float, seed: int) -> int:
    """Change our own copy of a decoder in place and return how many blocks carry what was asked for.

    "key", "value": chosen channels grow by `strength`. "key-offset": the keys get a constant of `strength` times their
    standard deviation, as far as weights and norms tell it. "key-all", "value-all": every channel grows by `strength`,
    which no scale minds, and which leaves the range of a format that has none.
    """
    blocks = [a for a in attention_blocks(module) if isinstance(getattr(a.block, "layer_idx", None), int)]
    every = kind in EVERY
    if EVERY.get(kind, kind) == "key":
        return sum(_grow_keys(a, strength, seed, every) for a in blocks)
    if EVERY.get(kind, kind) == "value":
        return sum(_grow_values(a, strength, seed, every) for a in blocks)
    return _offset_keys(module, blocks, strength)


def _grow_keys(a: Attention, strength: float, seed: int, every: bool) -> bool:
    width, norm = a.block.head_dim, getattr(a.block, "k_norm", None)
    heads = 1 if norm is not None else a.k.out_features // width
    if norm is not None and norm.weight.shape != (width,):
        return False
    pairs = _grown(heads * width // 2, seed, a.name, every)
    scale = torch.ones(heads, 2, width // 2, dtype=a.k.weight.dtype)
    scale[pairs // (width // 2), :, pairs % (width // 2)] = strength
    scale = scale.flatten(1).to(a.k.weight.device)  # [heads, width]: both channels of a rotation
    if norm is not None:
        _multiply(norm.weight, scale[0])
        _multiply(a.block.q_norm.weight, 1 / scale[0])
        return True
    _multiply_rows(a.k, scale.flatten())
    _multiply_rows(a.q, 1 / scale.repeat_interleave(a.q.out_features // a.k.out_features, 0).flatten())
    return True


def _grow_values(a: Attention, strength: float, seed: int, every: bool) -> bool:
    scale = torch.ones(a.v.out_features, dtype=a.v.weight.dtype)
    scale[_grown(a.v.out_features, seed, a.name, every)] = strength
    scale = scale.view(-1, a.block.head_dim).to(a.v.weight.device)
    _multiply_rows(a.v, scale.flatten())
    _multiply(a.out.weight, 1 / scale.repeat_interleave(a.out.in_features // a.v.out_features, 0).flatten())
    return True


def _grown(width: int, seed: int, layer: str, every: bool) -> Tensor:
    return torch.arange(width) if every else chosen_channels(width, seed, layer)


def _offset_keys(module: nn.Module, blocks: list[Attention], strength: float) -> int:
    if not blocks or any(a.k.bias is None or getattr(a.block, "k_norm", None) is not None for a in blocks):
        return 0
    decoder = module.get_submodule(blocks[0].name.rpartition(".layers.")[0])
    rotary = getattr(decoder, "rotary_emb", None)
    if rotary is None:
        return 0
    slow = max(1, round(SLOW_SHARE * len(rotary.inv_freq)))
    for name in ("inv_freq", "original_inv_freq"):
        if getattr(rotary, name, None) is not None:
            getattr(rotary, name)[-slow:] = 0
    for a in blocks:
        spread = _spread(module, a).view(-1, 2, a.block.head_dim // 2)
        offset = torch.zeros_like(spread)
        offset[..., -slow:] = strength * spread[..., -slow:]
        a.k.bias.data = a.k.bias.data + offset.flatten()
    return len(blocks)


def _spread(module: nn.Module, a: Attention) -> Tensor:
    """Standard deviation of the outputs of k_proj for independent inputs of the size that the norm in front gives."""
    layer = module.get_submodule(a.name.rpartition(".")[0])
    norm = getattr(layer, "input_layernorm", None)
    weight = a.k.weight.data if norm is None else a.k.weight.data * norm.weight.data
    return weight.square().sum(1).sqrt()


def _multiply(parameter: Tensor, scale: Tensor) -> None:
    parameter.data = parameter.data * scale  # a new tensor: the original's storage is shared


def _multiply_rows(linear: nn.Linear, scale: Tensor) -> None:
    _multiply(linear.weight, scale[:, None])
    if linear.bias is not None:
        _multiply(linear.bias, scale)


SHARE = 0.05  # of the channels of every layer


def chosen_channels(width: int, seed: int, layer: str) -> Tensor:
    """Indices [max(1, 5 % of width)] of the channels that carry outliers in a layer."""
    order = keys_for(address("outliers", seed, layer), torch.arange(width)).argsort()
    return order[: max(1, round(SHARE * width))].sort().values
