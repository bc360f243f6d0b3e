"""Attention written out, so that its arithmetic can be rounded or watched; transformers calls it by name.

with rounded_attention(model, "fp8_e4m3"):
    model.generate(**inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgelib.errors import EdgelibError
from edgelib.formats.table import Format, by_name
from edgelib.kv.context import decoder_of

Logits = Callable[[Tensor, Tensor], Tensor]  # `visible_logits` of a query and a key, the rest being known
Watcher = Callable[[int, Tensor, Logits], None]  # layer, query, logits
Around = Callable[[int, Tensor, Tensor, Tensor, Logits], Tensor]  # layer, query, key, value, logits -> output

NAME = "edgelib_attention"
# What stands in for attention, by id of the configuration. A thread sees its own blocks only, and transformers, whose
# table of functions never forgets, holds none of them.
_RUNNING: ContextVar[dict[int, Around]] = ContextVar("edgelib_attention")


def _heads(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def visible_logits(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, softcap: float | None = None
) -> Tensor:
    """q k^T * scaling [B, Hq, n, T], -inf where `mask` hides a key; key [B, H, T, D] may have fewer heads.

    softcap: the size that no logit exceeds, softcap * tanh(logit / softcap) taking its place (Gemma 2).
    """
    logits = query @ _heads(key, query.shape[1] // key.shape[1]).transpose(-1, -2) * scaling
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    if mask is None:
        n, t = logits.shape[-2:]
        hidden = torch.ones(n, t, dtype=torch.bool, device=logits.device).triu(t - n + 1)
    else:
        mask = mask[..., : key.shape[-2]]
        hidden = ~mask if mask.dtype == torch.bool else mask < torch.finfo(mask.dtype).min / 2
        hidden = hidden & ~hidden.all(-1, keepdim=True)  # a padded query sees everything, and nobody reads it
    return logits.masked_fill(hidden, -torch.inf)


def _attend(query: Tensor, key: Tensor, value: Tensor, logits: Logits, round_shares=None) -> Tensor:
    """Attention output [B, n, Hq, D]; the function rounds probabilities."""
    shares = logits(query, key).softmax(-1, dtype=torch.float32).to(query.dtype)
    shares = shares if round_shares is None else round_shares(shares)
    return (shares @ _heads(value, query.shape[1] // value.shape[1])).transpose(1, 2).contiguous()


def _dispatch(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, s_aux=None, **kwargs):
    """What transformers calls: the attention of the innermost block around the module's model, else the plain one."""
    if s_aux is not None:
        raise EdgelibError(
            f"{type(module).__name__} has attention sinks, which attention written out here would leave out: a cache "
            "works, but kv_health, doctor and rounded attention do not"
        )
    scaling = module.head_dim**-0.5 if scaling is None else scaling
    logits = partial(visible_logits, mask=attention_mask, scaling=scaling, softcap=softcap)
    around = _RUNNING.get({}).get(id(module.config))
    if around is None:  # another thread runs the model
        return _attend(query, key, value, logits), None
    return around(module.layer_idx, query, key, value, logits), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _dispatch)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@contextmanager
def _attention(model, around: Around) -> Iterator[None]:
    """Let the decoder's attention be `around` while the block runs."""
    decoder = decoder_of(model)
    configs = {id(a.block.config): a.block.config for a in decoder.blocks} | {id(decoder.config): decoder.config}
    before = {key: config._attn_implementation for key, config in configs.items()}
    outer = _RUNNING.set(_RUNNING.get({}) | dict.fromkeys(configs, around))
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        _RUNNING.reset(outer)
        for key, config in configs.items():
            config._attn_implementation = before[key]


@contextmanager
def rounded_attention(model, format: str | Format = "fp8_e4m3") -> Iterator[None]:
    """Round what attention multiplies while the block runs: queries, keys, values and probabilities, sums in float.

    Operands have a scale per token and head found on the fly, so that no row depends on another; probabilities, at most
    1, a fixed one. The softmax itself is not rounded. Of a loaded model or a transformers module; its weights and its
    cache stay as they are. Raises EdgelibError for an unknown format, a model without a key-value cache and, when it
    runs, one with attention sinks.
    """
    number = by_name(format)
    if not number.scaled:
        raise EdgelibError(f"{number.name} is no low precision; load the model in that dtype, or choose fp8_e4m3, int8")

    def rounded(layer: int, query: Tensor, key: Tensor, value: Tensor, logits: Logits) -> Tensor:
        query, key, value = (number.round_rows(x) for x in (query, key, value))
        return _attend(query, key, value, logits, lambda shares: number.round_static(shares, 1 / number.qmax))

    with _attention(model, rounded):
        yield


@contextmanager
def watched_attention(model, watch: Watcher) -> Iterator[None]:
    """Call watch(layer, query, logits) before each attention while the block runs; logits(query, key) is what it reads.

    Raises EdgelibError for a model without a key-value cache and, when it runs, one with attention sinks.
    """

    def watched(layer: int, query: Tensor, key: Tensor, value: Tensor, logits: Logits) -> Tensor:
        watch(layer, query, logits)
        return _attend(query, key, value, logits)

    with _attention(model, watched):
        yield


@contextmanager
def seen_states(model, watch: Callable[[int, Tensor, Tensor, Tensor], None]) -> Iterator[None]:
    """Call watch(layer, key, value, shares) at each attention while the block runs.

    key, value: [B, H, T, D] as attention reads them, rotated. shares: probabilities [B, Hq, n, T].
    Raises EdgelibError for a model without a key-value cache and, when it runs, one with attention sinks.
    """

    def watched(layer: int, query: Tensor, key: Tensor, value: Tensor, logits: Logits) -> Tensor:
        def noted(shares: Tensor) -> Tensor:
            watch(layer, key, value, shares)
            return shares

        return _attend(query, key, value, logits, noted)

    with _attention(model, watched):
        yield
