"""Attention written out, so that its arithmetic can be rounded or watched; transformers calls it by name.

with rounded_attention(model, "fp8_e4m3"):
    model.generate(**inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgelib.errors import EdgelibError
from edgelib.quant.formats import Format, by_name
from edgelib.quant.kv_context import decoder_of

Watcher = Callable[[int, Tensor, Tensor | None, float], None]  # layer, query, mask, scaling


def _heads(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def visible_logits(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """q k^T * scaling [B, Hq, n, T], -inf where `mask` hides a key; key [B, H, T, D] may have fewer heads."""
    logits = query @ _heads(key, query.shape[1] // key.shape[1]).transpose(-1, -2) * scaling
    if mask is None:
        n, t = logits.shape[-2:]
        hidden = torch.ones(n, t, dtype=torch.bool, device=logits.device).triu(t - n + 1)
    else:
        mask = mask[..., : key.shape[-2]]
        hidden = ~mask if mask.dtype == torch.bool else mask < torch.finfo(mask.dtype).min / 2
        hidden = hidden & ~hidden.all(-1, keepdim=True)  # a padded query sees everything, and nobody reads it
    return logits.masked_fill(hidden, -torch.inf)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask, scaling: float, round_rows=None, round_shares=None):
    """Attention output [B, n, Hq, D]; the two functions round operands and probabilities."""
    if round_rows is not None:
        query, key, value = (round_rows(x) for x in (query, key, value))
    shares = visible_logits(query, key, mask, scaling).softmax(-1, dtype=torch.float32).to(query.dtype)
    shares = shares if round_shares is None else round_shares(shares)
    return (shares @ _heads(value, query.shape[1] // value.shape[1])).transpose(1, 2).contiguous()


@contextmanager
def _attention(model, name: str, function: Callable) -> Iterator[None]:
    """Let the decoder's attention be `function` while the block runs."""
    decoder = decoder_of(model)
    configs = {id(a.block.config): a.block.config for a in decoder.blocks} | {id(decoder.config): decoder.config}
    before = {key: config._attn_implementation for key, config in configs.items()}
    ALL_ATTENTION_FUNCTIONS.register(name, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


@contextmanager
def rounded_attention(model, format: str | Format = "fp8_e4m3") -> Iterator[None]:
    """Round what attention multiplies while the block runs: queries, keys, values and probabilities, sums in float.

    Operands have a scale per token and head found on the fly, so that no row depends on another; probabilities, at most
    1, a fixed one. The softmax itself is not rounded. Of a loaded model or a transformers module; its weights and its
    cache stay as they are. Raises EdgelibError for an unknown format and a model without a key-value cache.
    """
    number = by_name(format)
    if number.name in ("fp16", "bf16", "fp32"):
        raise EdgelibError(f"{number.name} is no low precision; load the model in that dtype, or choose fp8_e4m3, int8")

    def function(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        scaling = module.head_dim**-0.5 if scaling is None else scaling
        shares = lambda p: number.round_static(p, 1 / number.qmax)  # noqa: E731
        return _attend(query, key, value, attention_mask, scaling, number.round_rows, shares), None

    with _attention(model, f"edgelib_{number.name}", function):
        yield


@contextmanager
def watched_attention(model, watch: Watcher) -> Iterator[None]:
    """Call watch(layer, query, mask, scaling) before each attention while the block runs."""

    def function(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        scaling = module.head_dim**-0.5 if scaling is None else scaling
        watch(module.layer_idx, query, attention_mask, scaling)
        return _attend(query, key, value, attention_mask, scaling), None

    with _attention(model, "edgelib_watched", function):
        yield
