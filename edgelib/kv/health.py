"""Instruments for a quantized cache, none of which needs a label.

One pass over prompts in which every layer reads exact states: what its own rounding would do to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.kv.attention import Logits, watched_attention
from edgelib.kv.cache import KVCache, KVLayer, KVPlan
from edgelib.kv.calibrate import MODALITIES
from edgelib.kv.context import UNSTABLE_ROPE, Context
from edgelib.kv.drift import prompt_batches
from edgelib.observe.calibrate import module_of


@dataclass
class _Sums:
    """Sums over tokens of one layer's K or V per modality, head and channel, on the CPU: [2, H, D] each, tokens [2]."""

    tokens: Tensor
    peak: Tensor
    beyond: Tensor
    error: Tensor
    cross: Tensor
    square: Tensor
    still: Tensor  # of states turned back to position 0, and their squares
    still_square: Tensor

    @staticmethod
    def of(x: Tensor, rounded: Tensor, beyond: Tensor, still: Tensor, image: Tensor) -> _Sums:
        """x, rounded, beyond (bool), still: [N, H, D]; image: bool [N]."""
        x, rounded, still = x.double(), rounded.double(), still.double()
        error = (rounded - x).square().masked_fill(beyond, 0)
        parts = [~image, image]

        def sums(values: Tensor) -> Tensor:
            return torch.stack([values[part].sum(0) for part in parts])

        peak = torch.stack([x[p].abs().amax(0) if p.any() else x.new_zeros(x.shape[1:]) for p in parts])
        values = (
            torch.stack([p.sum() for p in parts]),
            peak,
            sums(beyond.double()),
            sums(error),
            sums((rounded * x).masked_fill(beyond, 0)),
            sums(x.square().masked_fill(beyond, 0)),
            sums(still),
            sums(still.square()),
        )
        return _Sums(*(t.cpu() for t in values))

    def add(self, other: _Sums) -> None:
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, torch.maximum(mine, theirs) if name == "peak" else mine + theirs)


class _ProbeLayer(KVLayer):
    """Rounds a copy of the states and hands the exact ones on."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        rounded = super().update(key_states, value_states, *args, **kwargs)
        self.pair = (key_states, value_states), rounded
        return key_states, value_states


@dataclass(frozen=True)
class KVHealth:
    """What a cache does to the states that it is given, by layer.

    channels: one row per layer, part ("k" or "v"), modality, head and channel: amplitude (largest absolute state),
    saturation (share of tokens beyond the grid), step (of an even grid with the same error, sqrt(12 mse), where nothing
    saturates), spread (standard deviation over tokens, of keys once they are turned back to one position) and
    resolution (step over spread: at 1 the grid is as coarse as what it should tell apart).
    layers: one row per layer and part: gain (slope of rounded states on exact ones that do not saturate, 1 where scales
    are delivered), logit_error (of K: standard deviation over the visible keys of the change of attention logits),
    output_error (of V: change of the attention output relative to its size).
    """

    channels: pd.DataFrame
    layers: pd.DataFrame


@torch.no_grad()
def kv_health(model, plan: KVPlan, data, batch_size: int = 64) -> KVHealth:
    """Run prompts through the model and return what the cache of `plan` would do to their keys and values.

    data: questions for a loaded model, or an iterable of keyword arguments for a bare module. Padding does not count.
    """
    sums: dict[tuple[int, str], _Sums] = {}
    shifts: dict[tuple[int, str], list[float]] = {}
    for batch in prompt_batches(model, data, batch_size):
        cache = _probing(plan)

        def watch(layer: int, query: Tensor, logits: Logits, cache=cache) -> None:
            _tally(cache, layer, query, logits, sums, shifts)

        with watched_attention(model, watch):
            module_of(model)(**batch, past_key_values=cache, use_cache=True)
    if not sums:
        raise EdgelibError("there is no prompt to look at: the data set is empty")
    return KVHealth(_channel_rows(sums), _layer_rows(sums, shifts))


def _probing(plan: KVPlan) -> KVCache:
    cache = KVCache(plan)
    stable = getattr(plan.decoder.rotary, "rope_type", "default") not in UNSTABLE_ROPE
    # the spread of keys is measured at one position, so rotations are needed whatever the scheme
    cache.context = Context(plan.decoder, plan.decoder.rotary is not None and stable)
    cache.context.watch(cache)
    for index, layer in enumerate(cache.layers):
        fresh = plan.layer(index, cache.context)
        layer = _ProbeLayer(fresh.make, cache.context, fresh.name, fresh.sliding_window, False)
        cache.layers[index] = layer
    return cache


def _tally(cache: KVCache, layer: int, query: Tensor, logits: Logits, sums: dict, shifts: dict) -> None:
    context, probe = cache.context, cache.layers[layer]
    tokens = query.shape[0], query.shape[2]
    kept = torch.ones(tokens, dtype=torch.bool, device=query.device) if context.valid is None else context.valid
    image = torch.zeros_like(kept) if context.image is None else context.image
    (keys, values), (rounded_keys, rounded_values) = probe.pair
    for part, x, rounded, side in zip("kv", *probe.pair, probe.sides, strict=True):
        beyond = side.shifted(x, context).abs() > side.store.bound * (1 + 1e-6)
        if side.tokens != "all":  # the others are stored as they are
            beyond &= (image if side.tokens == "image" else ~image)[:, None, :, None]
        still = _turned_back(context, layer, x) if part == "k" else x
        x, rounded, beyond, still = (t.transpose(1, 2)[kept] for t in (x, rounded, beyond, still))
        batch = _Sums.of(x, rounded, beyond, still, image[kept])
        if (layer, part) in sums:
            sums[layer, part].add(batch)
        else:
            sums[layer, part] = batch
    exact = logits(query, keys)
    hidden = exact.isinf()
    change = (logits(query, rounded_keys) - exact).masked_fill(hidden, 0)
    count = (~hidden).sum(-1, keepdim=True).clamp(min=1)
    change = (change - change.sum(-1, keepdim=True) / count).masked_fill(hidden, 0)  # a shift of all cancels
    rows = kept[:, None, :, None]
    noted = shifts.setdefault((layer, "k"), [0.0, 0.0])
    noted[0] += float((change.square() * rows).double().sum())
    noted[1] += float(((~hidden) * rows).double().sum())
    groups = query.shape[1] // values.shape[1]
    shares = exact.softmax(-1)
    output, moved = (shares @ v.repeat_interleave(groups, 1) for v in (values, rounded_values))
    noted = shifts.setdefault((layer, "v"), [0.0, 0.0])
    noted[0] += float(((moved - output).square() * rows).double().sum())
    noted[1] += float((output.square() * rows).double().sum())


def _turned_back(context: Context, layer: int, keys: Tensor) -> Tensor:
    """Keys as they would stand at position 0; as they are where the model does not rotate."""
    if context.rotation is None:
        return keys
    cos, sin = context.rotation_of_last(keys.shape[-2], keys)
    return context.decoder.rotated(layer, keys, (cos, -sin))


def _channel_rows(sums: dict) -> pd.DataFrame:
    frames = []
    for (layer, part), s in sums.items():
        n = s.tokens.clamp(min=1).view(2, 1, 1)
        within = (n - s.beyond).clamp(min=1)
        variance = (s.still_square / n - (s.still / n).square()).clamp(min=0)
        if part == "k":  # a rotation mixes the channels of a pair, and keeps the sum of their variances
            half = variance.shape[-1] // 2
            variance = (variance + variance.roll(half, -1)) / 2
        step, spread = (12 * s.error / within).sqrt(), variance.sqrt()
        heads, width = s.peak.shape[1:]
        for row, modality in enumerate(MODALITIES):
            if not s.tokens[row]:
                continue
            columns = {
                "amplitude": s.peak[row],
                "saturation": s.beyond[row] / n[row],
                "step": step[row],
                "spread": spread[row],
                "resolution": step[row] / spread[row].clamp(min=1e-12),
            }
            index = {
                "layer": layer,
                "part": part,
                "modality": modality,
                "head": torch.arange(heads).repeat_interleave(width).numpy(),
                "channel": torch.arange(width).repeat(heads).numpy(),
                "tokens": int(s.tokens[row]),
            }
            frames.append(pd.DataFrame(index | {k: v.flatten().numpy() for k, v in columns.items()}))
    return pd.concat(frames, ignore_index=True)


def _layer_rows(sums: dict, shifts: dict) -> pd.DataFrame:
    rows = []
    for (layer, part), s in sums.items():
        change, size = shifts[layer, part]
        error = (change / max(size, 1e-300)) ** 0.5
        rows.append(
            {
                "layer": layer,
                "part": part,
                "gain": float(s.cross.sum() / s.square.sum().clamp(min=1e-300)),
                "logit_error": error if part == "k" else float("nan"),
                "output_error": error if part == "v" else float("nan"),
            }
        )
    return pd.DataFrame(rows)
