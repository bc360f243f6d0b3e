"""A cache of transformers that keeps keys and values in a number format.

    cache = kv_cache(model, "e4m3-amax", statistics)   # a factory: one fresh cache per batch
    model.generate(**inputs, past_key_values=cache())

Every token is encoded once, when it is written, and decoded at every step. Attention reads decoded states from the
first token of the prompt on, so that a prompt in pieces and a whole one give the same answer. Three parts of a scheme
depend on where the first piece ends: tokenmean takes its mean, kivi counts groups of tokens from its end, and with
exactprefill it alone reads itself unrounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, get_layer_types_and_kwargs

from edgelib.errors import EdgelibError
from edgelib.kv.calibrate import KVStatistics
from edgelib.kv.codec import Blocks, Exact, PerToken, Simulated, Static, require_finite
from edgelib.kv.context import UNSTABLE_ROPE, Context, Decoder, decoder_of, rotated_bias, token_mean
from edgelib.kv.rotate import hadamard_block, turned
from edgelib.kv.scheme import KIVI_GROUP, KVScheme, kv_scheme
from edgelib.kv.store import ByModality, Groups, Rows, Window, nbytes

KINDS = ("full_attention", "sliding_attention")


class KVLayer(CacheLayerMixin):
    """Keys and values of one layer, each on a side of its own.

    make: part "k" or "v" -> a fresh `Side`. window: tokens that a sliding layer sees, None for all.
    """

    is_croppable = False
    supports_early_init = False

    def __init__(self, make: Callable[[str], Side], context: Context, name: str, window: int | None, exact: bool):
        super().__init__()
        self.make, self.context, self.name, self.exact = make, context, name, exact
        self.sliding_window, self.is_sliding = window, window is not None
        self.cumulative_length = 0
        self.sides: tuple[Side, Side] | None = None
        self.rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.sides, self.rows = (self.make("k"), self.make("v")), len(key_states)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store new states [B, H, n, D] and return all that the new tokens may attend to."""
        first = not self.is_initialized
        if first:
            self.lazy_initialization(key_states, value_states)
        if len(key_states) != self.rows:
            raise EdgelibError(
                f"this cache holds a batch of {self.rows} and is given one of {len(key_states)}; make a fresh cache "
                "for every batch"
            )
        self.cumulative_length += key_states.shape[-2]
        new = key_states, value_states
        for side, x, what in zip(self.sides, new, ("keys", "values"), strict=True):
            require_finite(x, f"the {what} of layer {self.name}")
            side.append(x, self.context)
        states = new if first and self.exact else tuple(side.read(self.context) for side in self.sides)
        if self.is_sliding:
            for side in self.sides:
                side.drop_first(side.length - self.sliding_window + 1)
        return states

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_max_length(self) -> int:
        return self.sliding_window if self.is_sliding else -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        stored = self.cumulative_length
        if not self.is_sliding:
            return stored + query_length, 0
        return min(stored, self.sliding_window - 1) + query_length, max(stored - self.sliding_window + 1, 0)

    def reset(self) -> None:
        self.sides, self.is_initialized, self.cumulative_length = None, False, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows `beam_idx` of the batch, repeated or left out as they come."""
        if self.is_initialized:
            self.rows = len(beam_idx)
            for side in self.sides:
                side.select(beam_idx.to(self.device))

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.reorder_cache(torch.arange(self.rows, device=self.device).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise EdgelibError("a quantized cache cannot be rolled back; generate without assistant or prompt lookup")

    @property
    def nbytes(self) -> int:
        return sum(side.nbytes for side in self.sides or ())


class Side:
    """K or V of a layer: a store, and an offset that is taken off before it and put back after it.

    offset: a tensor [H, 1, D]; "tokenmean", the mean over the first tokens of each sequence; "bias", the rotated bias
    of k_proj; or None. rotated: whether what is left is turned before it is stored, and turned back when it is read;
    block: over how many channels at a time by llama.cpp's rotation, None for the random one.
    """

    def __init__(self, store, offset, layer: int, tokens: str, rotated: bool = False, block: int | None = None):
        self.store, self.offset, self.layer, self.tokens, self.rotated = store, offset, layer, tokens, rotated
        self.block = block
        self.mean: Tensor | None = None

    @property
    def length(self) -> int:
        return self.store.length

    def append(self, x: Tensor, context: Context) -> None:
        self.dtype = x.dtype
        if self.offset == "tokenmean" and self.mean is None:
            self.mean = token_mean(x, context.valid)
        shifted = self.shifted(x, context)
        chosen = None
        if self.tokens != "all":
            if context.image is None:
                raise EdgelibError(
                    "which tokens are of an image is not known here: pass input_ids and the cache by name "
                    "(past_key_values=cache) to a model that has an image token"
                )
            chosen = context.image if self.tokens == "image" else ~context.image
        self.store.append(shifted, context.valid, chosen)

    def shifted(self, x: Tensor, context: Context) -> Tensor:
        """What is stored of the newest tokens x [B, H, n, D]."""
        offset = self.offset_of(x.shape[-2], x, context)
        x = x if offset is None else x - offset.to(x.dtype)
        return turned(x, block=self.block) if self.rotated else x

    def read(self, context: Context) -> Tensor:
        x = self.store.read(self.dtype)
        x = turned(x, back=True, block=self.block) if self.rotated else x
        offset = self.offset_of(x.shape[-2], x, context)
        return x if offset is None else x + offset.to(x.dtype)

    def offset_of(self, n: int, like: Tensor, context: Context) -> Tensor | None:
        """What is taken off the newest n tokens, broadcasting against [B, H, n, D]; None for nothing."""
        if isinstance(self.offset, str):
            return self.mean if self.offset == "tokenmean" else rotated_bias(context, self.layer, n, like)
        return self.offset

    def select(self, rows: Tensor) -> None:
        self.store.select(rows)
        self.mean = None if self.mean is None else self.mean.index_select(0, rows)

    def drop_first(self, n: int) -> None:
        if n > 0:
            self.store.drop_first(n)

    @property
    def nbytes(self) -> int:
        return self.store.nbytes + nbytes([self.mean])


class KVCache(Cache):
    """All layers of a model, as `kv_cache` lays them out; for one batch."""

    def __init__(self, plan: KVPlan):
        self.plan = plan
        self.context = Context(plan.decoder, plan.scheme.offset == "bias" and "k" in plan.scheme.parts)
        layers = [plan.layer(index, self.context) for index in range(len(plan.decoder.blocks))]
        super().__init__(layers=layers)
        self.context.watch(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.context.select(beam_idx)
        super().reorder_cache(beam_idx)

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(self.layers[0].rows, device=self.layers[0].device)
        self.reorder_cache(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        super().reset()
        self.context.positions = None

    @property
    def nbytes(self) -> int:
        """Bytes that the stored tokens take: codes, the scales they bring along, positions."""
        return sum(layer.nbytes for layer in self.layers) + self.context.nbytes


@dataclass(frozen=True)
class KVPlan:
    """A scheme fitted to a model: what every cache of it shares. Calling it makes a fresh cache."""

    decoder: Decoder
    scheme: KVScheme
    statistics: KVStatistics | None

    def __call__(self) -> KVCache:
        return KVCache(self)

    def layer(self, index: int, context: Context) -> KVLayer:
        """An empty layer of a cache."""
        kinds, options = get_layer_types_and_kwargs(self.decoder.config)
        if kinds[index] not in KINDS:
            raise EdgelibError(f"layer {index} is of kind {kinds[index]!r}, which has no cache here; known: {KINDS}")
        window = options[index].get("sliding_window")
        return KVLayer(partial(self.side, index), context, str(index), window, self.scheme.exact_prefill)

    def side(self, index: int, part: str) -> Side:
        """An empty side of a layer."""
        scheme = self.scheme
        if not scheme.rounds(index, part):
            return Side(Rows(Exact()), None, index, "all")
        device = self.decoder.blocks[index].k.weight.device
        offset = None if scheme.offset == "none" or (part == "v" and scheme.offset != "mean") else scheme.offset
        if offset == "mean":
            offset = self.statistics.mean(index, part).to(device)
        codec = self._codec(index, part, device)
        if scheme.scale == "kivi":
            kept = Groups(scheme.number.bits, KIVI_GROUP) if part == "k" else Rows(codec)
            return Side(Window(kept, scheme.residual, KIVI_GROUP), offset, index, "all", scheme.rotated)
        store = Rows(codec) if scheme.tokens == "all" else ByModality(codec)
        block = hadamard_block(self.decoder.head_dim, part) if scheme.hadamard else None
        return Side(store, offset, index, scheme.tokens, scheme.rotated or scheme.hadamard, block)

    def _codec(self, index: int, part: str, device: torch.device):
        scheme, number = self.scheme, self.scheme.number
        if not number.scaled:
            return Exact(number)
        if number.own_scales:
            return Blocks(number)
        if scheme.scale in ("token", "kivi"):
            return PerToken(number, scheme.group_size or self.decoder.head_dim)
        scale = self.scale(index, part).to(device)
        delivered = scale if scheme.delivered else torch.ones_like(scale)
        if scheme.effect != "both":
            return Simulated(number, scale, scheme.effect, delivered)
        return Static(number, scale, delivered)

    def scale(self, index: int, part: str) -> Tensor:
        """The static scale of part "k" or "v" of a layer: [1], [H, 1, 1] or [H, 1, D]; values are divided by it."""
        if self.scheme.scale == "one":
            return torch.ones(1)
        return self.statistics.scale(self.scheme, index, part)

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one more token costs in all layers, where all tokens are rounded; static scales weigh nothing."""
        decoder = self.decoder
        wide = 8 * next(decoder.module.parameters()).element_size()
        bits = sum(
            self.scheme.bits_per_element(decoder.head_dim, part) if self.scheme.rounds(index, part) else wide
            for index in range(len(decoder.blocks))
            for part in "kv"
        )
        return decoder.kv_heads * decoder.head_dim * bits / 8


def kv_cache(model, scheme: str | dict | KVScheme, statistics: KVStatistics | None = None) -> KVPlan:
    """Return a factory of caches for a model: calling it gives an empty cache for one batch.

    model: a loaded model or a transformers module that generates; it is not changed, but for hooks that a cache sets
    and takes along when it goes. statistics: of `calibrate_kv`, for schemes with static scales or offsets.
    Raises EdgelibError for a model without a key-value cache, a head size that the format's blocks or the group size do
    not divide, layers that are not there, statistics that are missing or of another model, and the offset "bias" where
    keys are not the rotated output of a k_proj with a bias.
    """
    scheme = kv_scheme(scheme)
    decoder = decoder_for(model, scheme)
    if scheme.needs_calibration:
        if statistics is None:
            raise EdgelibError(f"KV scheme {scheme.name!r} needs statistics: pass calibrate_kv(model, data)")
        statistics.require_of(decoder)
    return KVPlan(decoder, scheme, statistics if scheme.needs_calibration else None)


def decoder_for(model, scheme: str | dict | KVScheme) -> Decoder:
    """Return the decoder whose cache a scheme fits; raises EdgelibError as `kv_cache` does, before any statistics."""
    scheme, decoder = kv_scheme(scheme), decoder_of(model)
    for part in "kv":
        scheme.bits_per_element(decoder.head_dim, part)
    depth = len(decoder.blocks)
    if scheme.layers is not None and scheme.layers[-1] >= depth:
        raise EdgelibError(f"KV scheme {scheme.name!r} names layer {scheme.layers[-1]}; the last one is {depth - 1}")
    if scheme.tokens != "all" and not decoder.image_tokens:
        raise EdgelibError(f"{type(decoder.module).__name__} has no image tokens; leave image16 and text16 out")
    if scheme.offset == "bias":
        _require_bias(decoder)
    return decoder


def _require_bias(decoder: Decoder) -> None:
    if not decoder.has_key_bias():
        raise EdgelibError(
            f"{type(decoder.module).__name__} does not store the rotated output of a k_proj with a bias, so there is "
            "no bias to split off; choose the offset mean or tokenmean"
        )
    kind = getattr(decoder.rotary, "rope_type", "default")
    if kind in UNSTABLE_ROPE:
        raise EdgelibError(f"rotary embeddings of type {kind!r} change with the length of the text; choose mean")
